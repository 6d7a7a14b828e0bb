"""examples/backends/c: built against an installed prefix, found by a C program through its manifest."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import infiniop

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "backends" / "c"


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix like the installed one, with the backend and its manifest in it. The build folder stands beside it."""
    folder = tmp_path_factory.mktemp("plain_c")
    prefix = Path(shutil.copytree(infiniop.root() / "lib", folder / "prefix" / "lib").parent)
    shutil.copytree(infiniop.root() / "include", prefix / "include")
    shutil.copytree(EXAMPLE, folder / "source")
    run("cmake", "-S", folder / "source", "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", folder / "build")
    run("cmake", "--install", folder / "build", "--prefix", prefix)
    return prefix


def test_a_c_program_runs_on_it(prefix: Path):
    promised = re.search(r"It prints:\n \*\n((?: \*     .*\n)+)", (EXAMPLE / "demo" / "demo.c").read_text())
    assert promised
    assert run(prefix.parent / "build" / "demo") == re.sub(r"^ \*     ", "", promised[1], flags=re.M)


def test_without_its_manifest_the_program_says_what_is_missing(prefix: Path, tmp_path: Path):
    manifest = prefix / "lib" / "infiniop" / "backends.d" / "plain_c.json"
    moved = shutil.move(manifest, tmp_path)
    try:
        done = subprocess.run([prefix.parent / "build" / "demo"], capture_output=True, text=True)
    finally:
        shutil.move(moved, manifest)
    assert done.returncode == 1
    assert "expected one of: cpu" in done.stderr and "plain_c" in done.stderr


def test_the_library_needs_nothing_of_infiniop(prefix: Path):
    needed = run("readelf", "-d", prefix / "lib" / "libinfiniop_plain_c.so")
    assert "libm.so" in needed and "libinfini" not in re.sub(r"SONAME.*", "", needed)
    exported = run("nm", "-D", "--defined-only", prefix / "lib" / "libinfiniop_plain_c.so").splitlines()
    assert [line.split()[-1] for line in exported] == ["infiniop_backend_init"]


def test_the_examples_find_the_headers_as_the_template_does():
    """One file, copied because each package stands alone."""
    template = Path(infiniop.__file__).parent / "templates" / "native" / "infiniop.cmake.in"
    copies = list(EXAMPLE.parent.glob("*/infiniop.cmake"))
    assert EXAMPLE / "infiniop.cmake" in copies
    assert all(copy.read_text() == template.read_text() for copy in copies)
