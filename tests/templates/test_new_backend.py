"""`infiniop new-backend`: what it writes builds, is found, and passes the conformance kit, in every language."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scratch import Scratch

import infiniop
from infiniop.templates import LANGUAGES, Template, check_device, check_name

QUICK = {("c", "cpu"), ("cpp", "card"), ("python", "card")}
VARIANTS = [
    pytest.param(language, device, marks=() if (language, device) in QUICK else pytest.mark.full)
    for language in LANGUAGES
    for device in ("cpu", "card")
]


@pytest.mark.parametrize(("language", "device"), VARIANTS)
def test_a_new_backend_passes_the_kit(tmp_path: Path, language: str, device: str):
    scratch = Scratch(tmp_path)
    said = scratch.run(f"infiniop new-backend acme --lang {language} --device {device}")
    assert "infiniop-acme is ready" in said
    scratch.run("pip install ./infiniop-acme")
    scratch.run("cd infiniop-acme && pytest tests")
    kit = "pytest --pyargs infiniop.conformance --backend acme --xfails expected-failures.txt"
    counted = re.search(r"(\d+) passed", scratch.run(f"cd infiniop-acme && {kit}"))
    assert counted and int(counted[1]) > 100


@pytest.mark.parametrize("device", ["cpu", "card"])
def test_an_editable_install(tmp_path: Path, device: str):
    scratch = Scratch(tmp_path)
    scratch.run(f"infiniop new-backend acme --lang c --device {device} && pip install -e ./infiniop-acme")
    assert "acme" in scratch.run("infiniop backends --json")
    library = Path(scratch.run("python -c 'import infiniop_acme; print(infiniop_acme.library)'").strip())
    assert library.exists()


def test_a_program_without_python_finds_it_through_the_environment_or_its_manifest(tmp_path: Path):
    scratch = Scratch(tmp_path)
    scratch.run("infiniop new-backend acme --lang cpp --device card")
    prefix = tmp_path / "prefix"
    libraries, manifests = prefix / "lib", prefix / "lib" / "infiniop" / "backends.d"
    manifests.mkdir(parents=True)
    for library in (infiniop.root() / "lib").glob("*.so"):
        (libraries / library.name).symlink_to(library)
    cmake = "cd infiniop-acme && cmake -B build -DCMAKE_PREFIX_PATH=$(infiniop root) && cmake --build build"
    scratch.run(f"{cmake} && cmake --install build --prefix {prefix}")
    source = Path(__file__).resolve().parents[1] / "abi" / "programs" / "list.c"
    scratch.run(f"gcc {source} -I{infiniop.root()}/include -L{libraries} -linfiniop -linfinirt -o list")
    listed = scratch.run("./list", LD_LIBRARY_PATH=str(libraries))
    assert "acme\tcard\t0\t" in listed
    (manifests / "acme.json").unlink()
    assert "acme" not in scratch.run("./list", LD_LIBRARY_PATH=str(libraries))
    library = scratch.folder / "infiniop-acme" / "build" / "libinfiniop_acme.so"
    found = scratch.run("./list", LD_LIBRARY_PATH=str(libraries), INFINIOP_BACKEND_PATH=str(library))
    assert "acme\tcard\t0\t" in found


def refused(scratch: Scratch, arguments: str) -> str:
    """The one sentence with which it says no."""
    done = scratch.attempt(f"infiniop new-backend {arguments}")
    assert done.returncode != 0
    assert done.stdout.startswith("infiniop: ") and done.stdout.count("\n") == 1, done.stdout
    return done.stdout


def test_what_cannot_be_made_is_refused_in_one_sentence(tmp_path: Path):
    scratch = Scratch(tmp_path)
    (scratch.folder / "infiniop-acme").mkdir()
    before = sorted(scratch.folder.rglob("*"))
    for name in ("Acme", "9cards", "a-b", "'a b'", "''", "class", "../up", "a" * 64):
        assert "identifier" in refused(scratch, f"{name} --lang c"), name
    assert "already, from" in refused(scratch, "cpu --lang c")
    assert "already, from" in refused(scratch, "reference --lang python")
    assert "infiniop-acme exists already" in refused(scratch, "acme --lang c")
    assert "exists already" in refused(scratch, "other --lang c --output infiniop-acme")
    assert "lower-case" in refused(scratch, "other --lang c --device 'My Card'")
    assert "rust" in refused(scratch, "other --lang rust")
    assert "--lang" in refused(scratch, "other")
    assert sorted(scratch.folder.rglob("*")) == before


@settings(deadline=None)
@given(st.text(max_size=70))
def test_a_name_is_an_identifier_or_refused(name: str):
    try:
        check_name(name)
    except ValueError as error:
        assert repr(name) in str(error)
    else:
        assert name.isidentifier() and name == name.lower() and name not in {b.name for b in infiniop.backends()}


def test_a_device_that_is_there_is_refused():
    runtime = infiniop.PythonRuntime()
    infiniop.PythonBackend("template_taken", device="template_device", kernels={}, runtime=runtime).register()
    with pytest.raises(ValueError, match="by the backend 'template_taken'"):
        check_device("template_device")


@pytest.mark.parametrize("device", ["cpu", "card"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_written_has_no_leftovers_and_is_formatted(tmp_path: Path, language: str, device: str):
    Template("acme", language, device).write(tmp_path / "it")
    paths = [p for p in (tmp_path / "it").rglob("*") if p.is_file()]
    for path in paths:
        assert not re.search(r"@\w+@", path.name + path.read_text()), path
        assert "\n\n\n\n" not in path.read_text() and path.read_text().endswith("\n")
    assert (tmp_path / "it" / "ci.sh").stat().st_mode & 0o111
    shutil.copy(Path(__file__).resolve().parents[2] / ".clang-format", tmp_path)
    code = [p for p in paths if p.suffix in (".c", ".cpp", ".h", ".hpp")]
    ruff = ["ruff", "format", "--isolated", "--line-length=120", "--check", "."]
    linters = [["ruff", "check", "--isolated", "--line-length=120", "--extend-select=I,UP,B", "."], ruff]
    for command in [*linters, *([["clang-format", "--dry-run", "--Werror", *code]] if code else [])]:
        command[0] = str(Path(sys.executable).parent / command[0])
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
