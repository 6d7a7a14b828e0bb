"""Which backends are found, and which of them serves a call: environment variables, manifests, priorities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from toolchain import Toolchain, execute

F16, F32, I32 = 12, 13, 5


@pytest.fixture(scope="session")
def choice(toolchain: Toolchain):
    """Who serves relu on the CPU: arguments as in choice.c."""
    program = toolchain.program("choice.c")

    def call(*arguments: object, **env: str) -> list[str]:
        done = execute(program, *arguments, env={"INFINIOP_LOG_LEVEL": "error"} | env)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return call


def test_highest_priority_serves(choice):
    assert choice(F32, "-", f"low:500:0:{F32}", f"high:700:0:{F32}", f"middle:600:0:{F32}") == ["high"]


def test_equal_priorities_first_come(choice):
    assert choice(F32, "-", f"one:500:0:{F32}", f"two:500:0:{F32}") == ["one"]


def test_what_is_not_supported_goes_to_the_next(choice):
    assert choice(F32, "-", f"picky:700:0:{F16}", f"next:600:0:{F32}") == ["next"]
    assert choice(F16, "-", f"picky:700:0:{F16}", f"next:600:0:{F32}") == ["picky"]


def test_explicit_only_is_never_chosen_unless_named(choice):
    assert choice(F32, "-", f"shy:900:1:{F32}") == ["cpu"]
    assert choice(F32, "shy", f"shy:900:1:{F32}") == ["shy"]
    assert choice(F32, "-", f"shy:900:1:{F32}", INFINIOP_BACKENDS="shy,cpu") == ["shy"]


def test_the_variable_narrows_and_orders(choice):
    three = [f"a:500:0:{F32}", f"b:600:0:{F32}", f"c:700:0:{F32}"]
    assert choice(F32, "-", *three, INFINIOP_BACKENDS="a, b") == ["a"]
    assert choice(F32, "-", *three, INFINIOP_BACKENDS="nobody,b,a") == ["b"]
    (line,) = choice(F32, "-", *three, INFINIOP_BACKENDS="nobody")
    assert line.startswith("status 5: relu: no backend of device 'cpu' has it among INFINIOP_BACKENDS=nobody")
    assert "who has it: cpu (cpu), " in line and "a (cpu), b (cpu), c (cpu)" in line


def test_a_named_backend_and_no_other(choice):
    assert choice(F32, "a", f"a:1:0:{F32}", f"b:600:0:{F32}") == ["a"]
    (line,) = choice(F16, "a", f"a:1:0:{F32}", f"b:600:0:{F16}", INFINIOP_FALLBACK="b")
    assert line == "status 2: relu: backend a answered NOT_IMPLEMENTED"


def test_all_refuse_the_first_refusal_is_reported(choice):
    (line,) = choice(F16, "-", f"a:500:0:{F32}", f"b:600:0:{F32}", INFINIOP_BACKENDS="b,a")
    assert line == "status 2: relu: backend b answered NOT_IMPLEMENTED"


def test_fallback_is_opt_in_and_counted(choice):
    three = [f"a:500:0:{F16}", f"b:600:1:{F32}"]
    narrowed = {"INFINIOP_BACKENDS": "a"}
    assert choice(F32, "-", *three, **narrowed)[0].startswith("status 2")
    assert choice(F32, "-", *three, **narrowed, INFINIOP_FALLBACK="b,cpu") == ["b", "b: 1 fallbacks"]
    assert choice(F16, "-", *three, **narrowed, INFINIOP_FALLBACK="b,cpu") == ["a"]


def test_another_schema_version_is_not_used(choice):
    (line,) = choice(F32, "-", f"other:900:0:{F32}", INFINIOP_BACKENDS="other")
    assert "other has version 999 of it, this library speaks 1" in line
    assert choice(F32, "-", f"other:900:0:{F32}") == ["cpu"]


def test_validation_comes_before_the_choice(choice):
    (line,) = choice(I32, "-", f"anything:900:0:{I32}")
    assert line.startswith("status 10: relu: y: expected ") and line.endswith(", got I32")


# ---- discovery -------------------------------------------------------------------------------------------------------


@pytest.fixture
def discovered(toolchain: Toolchain, plugins: Path, tmp_path: Path):
    """What a prefix with the given manifests discovers, as rows (name, device, priority, error)."""
    program = toolchain.program("list.c")
    lib = tmp_path / "lib"
    manifests = lib / "infiniop" / "backends.d"
    manifests.mkdir(parents=True)
    for library in toolchain.lib.glob("*.so"):
        (lib / library.name).symlink_to(library)
    shutil.copy(plugins / "libtoy_good.so", lib)

    def call(texts: dict[str, str], **env: str) -> dict[str, tuple[str, int, str]]:
        for name, text in texts.items():
            (manifests / name).write_text(text)
        done = execute(program, env={"LD_LIBRARY_PATH": str(lib)} | env)
        assert done.returncode == 0, done.stderr
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        return {row[0]: (row[1], int(row[2]), row[3]) for row in rows}

    return call


GOOD = {"name": "toy", "library": "../../libtoy_good.so", "device": "toy", "priority": 33}
CPU = {"name": "cpu", "library": "../../libinfiniop_cpu.so", "device": "cpu", "priority": 100}


def test_manifests(discovered):
    rows = discovered({"a.json": json.dumps(CPU), "b.json": json.dumps(GOOD, indent=2), "c.txt": "not one"})
    assert rows == {"cpu": ("cpu", 100, ""), "toy": ("toy", 33, "")}


def test_without_a_priority_the_backends_own_counts(discovered):
    rows = discovered({"b.json": json.dumps({k: v for k, v in GOOD.items() if k != "priority"})})
    assert rows["toy"] == ("toy", 10, "")


def test_no_manifests_no_backends(discovered):
    assert discovered({}) == {}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected '{' at offset 0"),
        ("{", "expected '\"' at offset 1"),
        ('{"name": "x"', "expected '}'"),
        ('{"name": "x"} more', "expected the end"),
        ('{"name": {}}', "expected a string or an integer"),
        ('{"name": "x", "name": "y"}', 'no second "name"'),
        ('{"name": "x\\n"}', "one of the escapes"),
        ('{"name": "x\n"}', "no control character"),
        ('{"name": "x', "expected '\"'"),
        ('{"priority": 007}', "expected a string or an integer"),
        ('{"priority": 99999999999999999999}', "expected a string or an integer"),
        ('{"priority": -}', "expected a string or an integer"),
        ('{"library": "x", "device": "y"}', 'expected a string "name"'),
        ('{"name": 5, "library": "x", "device": "y"}', 'expected a string "name"'),
        (json.dumps(GOOD | {"priority": 2**40}), "priority: expected 32 bits"),
        (json.dumps(GOOD | {"library": "../../../escaped.so"}), "library: expected a path inside"),
        (json.dumps(GOOD | {"library": "../../missing.so"}), "cannot load"),
        (json.dumps(GOOD | {"device": "cpu"}), "its manifest says backend 'toy' for device 'cpu'"),
        (json.dumps(GOOD | {"name": "other"}), "the library says 'toy'"),
    ],
)  # fmt: skip
def test_an_ill_manifest_is_shown_and_hurts_nobody(discovered, text: str, error: str):
    rows = discovered({"ill.json": text, "z.json": json.dumps(CPU)})
    assert rows.pop("cpu") == ("cpu", 100, "")
    ((_, _, message),) = rows.values()
    assert error in message


def test_an_absolute_path_in_a_manifest(discovered, plugins: Path):
    rows = discovered({"a.json": json.dumps(GOOD | {"library": str(plugins / "libtoy_good.so")})})
    assert rows["toy"] == ("toy", 33, "")


def test_backend_path_names_files_and_folders(discovered, plugins: Path, tmp_path: Path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    shutil.copy(plugins / "libtoy_short.so", folder)
    shutil.copy(plugins / "libtoy_wrong_major.so", folder)
    (folder / "readme.txt").write_text("not a library")
    path = f"{plugins / 'libtoy_good.so'}::{folder}:{tmp_path / 'missing.so'}"
    rows = discovered({"a.json": json.dumps(CPU)}, INFINIOP_BACKEND_PATH=path)
    assert rows["toy"][2] == rows["short"][2] == rows["cpu"][2] == ""
    assert "7.0" in rows["toy_wrong_major"][2]
    assert "missing.so" in rows["missing"][2]
    assert len(rows) == 5


def test_backend_path_names_a_file_of_the_working_directory(discovered, plugins: Path, monkeypatch):
    monkeypatch.chdir(plugins)
    rows = discovered({"a.json": json.dumps(CPU)}, INFINIOP_BACKEND_PATH="libtoy_good.so")
    assert rows["toy"][2] == ""


def test_backend_path_wins_over_manifests(discovered, plugins: Path):
    """One can try another build of an installed backend; the installed one is shown as refused."""
    rows = discovered({"a.json": json.dumps(CPU)}, INFINIOP_BACKEND_PATH=str(plugins / "libtoy_duplicate.so"))
    assert "'cpu' is already there, from " in rows["cpu"][2]
