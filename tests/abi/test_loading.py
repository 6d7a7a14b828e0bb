"""Plugins that must not take the host down: each is one clear line, in a C program and in `infiniop backends`."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toolchain import HERE, Toolchain, execute, run

# What is wrong -> (macros of any.cpp, what the line says).
ILL = {
    "throws": ({"INIT": 'throw std::runtime_error("no card today")'}, "its init threw an exception: no card today"),
    "throws_a_number": ({"INIT": "throw 42"}, "its init threw an exception"),
    "unresolved": ({"INIT": "nobody_has_this()"}, "undefined symbol: nobody_has_this"),
    "null": ({"INIT": "return nullptr"}, "its init gave NULL and no reason"),
    "null_and_why": (
        {
            "INIT": "const infiniopError e{sizeof(e), INFINI_STATUS_DEVICE_NOT_FOUND, nullptr, nullptr, nullptr, "
            'nullptr, "the slot is empty"}; host->set_error(&e); return nullptr'
        },
        "the slot is empty",
    ),
    "major_9": ({"MAJOR": "9"}, "built for plugin ABI 9.0, this library speaks "),
    "second_prints": ({"NAME": '"prints"'}, "a backend named 'prints' is already there, from "),
    "bad_device": ({"DEVICE": '"My Card"'}, "device_name: expected lower-case letters"),
}
# What of a plugin is not used -> (macros, what the note says).
ODD = {
    "future": ({"OP": '"fly"'}, "unknown operator fly"),
    "stale": ({"SCHEMA_VERSION": "7"}, "relu is of schema version 7, this library speaks "),
    "homeless": ({"DEVICE": '"nowhere"'}, "nobody brings a runtime for device 'nowhere'"),
}
PRINTS = {
    "AT_LOAD": 'std::printf("printed while it loads\\n")',
    "INIT": 'std::printf("printed by init\\n"); std::fflush(stdout); std::printf("kept in the buffer")',
}


@pytest.fixture(scope="session")
def plugin(toolchain: Toolchain) -> Callable[..., Path]:
    """Compile any.cpp with these macros."""

    def make(folder: Path, name: str, macros: dict[str, str]) -> Path:
        named = {"NAME": f'"{name}"'} | macros
        flags = ["-shared", "-fPIC", "-fvisibility=hidden", *(f"-D{k}={v}" for k, v in named.items())]
        return toolchain.compile(folder / f"lib{name}.so", [HERE / "plugins" / "any.cpp"], flags)

    return make


@pytest.fixture(scope="session")
def ill_folder(plugin: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder full of plugins that cannot be loaded, or not in all their parts."""
    folder = tmp_path_factory.mktemp("ill")
    for name, (macros, _) in (ILL | ODD).items():
        plugin(folder, name, macros)
    for name, content in files(plugin(folder, "prints", PRINTS)).items():
        (folder / f"lib{name}.so").write_bytes(content)
    os.mkfifo(folder / "libpipe.so")
    (folder / "libdangling.so").symlink_to(folder / "nothing")
    return folder


def files(good: Path) -> dict[str, bytes]:
    """What is no plugin for this machine, made of one that is."""
    content = good.read_bytes()
    machine = content[18:20]
    other = struct.pack("<H", 183 if machine != struct.pack("<H", 183) else 62)
    return {
        "empty": b"",
        "text": b"not a library\n",
        "header_only": content[:64],
        "cut": content[:2000],
        "other_machine": content[:18] + other + content[20:],
        "other_class": content[:4] + b"\x01" + content[5:],
    }


FILES = {
    "empty": "not a shared library (no ELF header)",
    "text": "not a shared library (no ELF header)",
    "header_only": "the file is truncated: 64 bytes",
    "cut": "the file is truncated",
    "other_machine": r"built for (AArch64, this machine is x86-64|x86-64, this machine is AArch64)",
    "other_class": "an ELF file of another word size",
    "pipe": "not a file",
    "dangling": "No such file or directory",
}


def check(rows: list[dict[str, str]]) -> None:
    """Every line is there, and what is well is well."""

    def says(name: str, field: str, text: str) -> bool:
        return any(name in (r["name"], Path(r["origin"]).stem[3:]) and re.search(text, r[field]) for r in rows)

    for name, (_, text) in ILL.items():
        assert says(name, "error", re.escape(text)), f"{name}: {rows}"
    for name, text in FILES.items():
        assert says(name, "error", text if "|" in text else re.escape(text)), f"{name}: {rows}"
    for name, (_, text) in ODD.items():
        assert says(name, "notes", re.escape(text)) and says(name, "error", "^$"), f"{name}: {rows}"
    for name in ("cpu", "prints"):
        assert any(r["name"] == name and r["error"] == "" == r["notes"] for r in rows), rows


def test_a_c_program_lists_them_and_lives(toolchain: Toolchain, ill_folder: Path):
    done = execute(toolchain.program("list.c"), env={"INFINIOP_BACKEND_PATH": str(ill_folder)})
    assert done.returncode == 0, done.stderr
    listing = [line.removeprefix("kept in the buffer") for line in done.stdout.splitlines()]
    rows = [line.split("\t") for line in listing if "\t" in line]
    check([{"name": r[0], "origin": f"lib{r[0]}", "error": r[3], "notes": r[4]} for r in rows])


@pytest.mark.skipif("INFINI_ROOT" in os.environ, reason="Python has the installed libraries")
def test_the_command_line_shows_them_and_its_stdout_stays_clean(ill_folder: Path):
    command = [sys.executable, "-m", "infiniop", "backends"]
    env = {"INFINIOP_BACKEND_PATH": str(ill_folder), "COLUMNS": "400"}
    done = run([*command, "--json"], env)
    assert done.returncode == 0, done.stderr
    check([{k: str(v) for k, v in row.items()} for row in json.loads(done.stdout)])
    assert all(text in done.stderr for text in ("printed while it loads", "printed by init", "kept in the buffer"))
    done = run(command, env)
    assert done.returncode == 0 and "printed" not in done.stdout and "Traceback" not in done.stderr
    for name, (_, text) in (ILL | ODD).items():
        assert f"{name}: " in done.stdout and text in " ".join(done.stdout.split()), name


def test_exceptions_of_a_kernel_become_statuses(toolchain: Toolchain, plugin: Callable[..., Path], tmp_path: Path):
    """In create as in destroy, where nobody could be told."""
    program = toolchain.program("throwing.c")
    for where, expected in (("CREATE", "create: relu: thrown"), ("DESTROY", "destroyed")):
        macros = {where: 'throw std::runtime_error("thrown")'}
        done = execute(program, plugin(tmp_path, where.lower(), macros), where.lower())
        assert done.returncode == 0 and done.stdout.strip() == expected, done.stderr


@pytest.fixture
def prefix(toolchain: Toolchain, plugin: Callable[..., Path], tmp_path: Path):
    """A prefix of its own: what one manifest in it gives, as (error, ...) of the only row."""
    lib = tmp_path / "prefix" / "lib"
    manifests = lib / "infiniop" / "backends.d"
    manifests.mkdir(parents=True)
    for library in toolchain.lib.glob("libinfini*.so"):
        (lib / library.name).symlink_to(library)
    good = plugin(tmp_path, "acme", {})

    def error(library: str, prepare: Callable[[Path, Path], object]) -> str:
        prepare(lib, good)
        (manifests / "acme.json").write_text(json.dumps({"name": "acme", "library": library, "device": "cpu"}))
        done = execute(toolchain.program("list.c"), env={"LD_LIBRARY_PATH": str(lib)})
        assert done.returncode == 0, done.stderr
        (row,) = (line.split("\t") for line in done.stdout.splitlines())
        return row[3]

    return error


def test_a_manifest_stays_within_its_prefix(prefix):
    """Relative paths: inside lib/, read as text, before any link is followed. Links there are the installer's own."""
    assert prefix("../../libacme.so", lambda lib, good: shutil.copy(good, lib)) == ""
    assert prefix("libacme.so", lambda lib, good: shutil.copy(good, lib / "infiniop" / "backends.d")) == ""
    assert prefix("../../linked.so", lambda lib, good: (lib / "linked.so").symlink_to(good)) == ""
    outside = "library: expected a path inside "
    assert outside in prefix("../../../../libacme.so", lambda lib, good: None)
    assert outside in prefix("../../a/../../up.so", lambda lib, good: shutil.copy(good, lib.parent / "up.so"))
    assert outside in prefix("../../away/../../../libacme.so", lambda lib, good: (lib / "away").symlink_to(good.parent))


def test_a_manifest_may_name_any_absolute_path(prefix, tmp_path: Path):
    assert prefix(str(tmp_path / "libacme.so"), lambda lib, good: None) == ""
