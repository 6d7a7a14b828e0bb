"""What adding an operator or a backend touches, as scripts/touched.py measures it. The operator it adds is real."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from scratch import SOURCES, Scratch

sys.path.insert(0, str(SOURCES / "scripts"))
import touched


@pytest.fixture(scope="module")
def measured() -> list[touched.Row]:
    if not (SOURCES / ".git").exists():
        pytest.skip("git counts, and this is no repository")
    return touched.rows()


def test_an_operator_for_two_backends_is_three_new_files(measured: list[touched.Row]):
    row = measured[0]
    assert (row.new_files, row.changed_files) == (3, 0)
    assert row.generated_files > 0, "infiniop gen saw the new operator"


def test_a_backend_touches_nothing_here(measured: list[touched.Row]):
    packages = measured[1:]
    assert len(packages) == 7
    assert all((row.new_files, row.changed_files, row.lines_here) == (0, 0, 0) for row in packages), packages


def test_the_first_operator_is_short(measured: list[touched.Row]):
    lines = {row.what: row.package_lines for row in measured}
    assert lines["a backend in C"] <= 120, "table and kernel"
    assert lines["a backend in Python"] <= 60


def test_the_page_says_what_was_measured(measured: list[touched.Row]):
    text = touched.HEAD + "".join(row.text() for row in measured)
    page = touched.PAGE.read_text().partition(touched.BEGIN)[2].partition(touched.END)[0]
    assert page == text, "run scripts/touched.py --write"


@pytest.mark.full
def test_the_new_operator_passes_the_kit(tmp_path: Path):
    """Built in a clone with its three files: the CPU backend, and the NVIDIA one on the emulator."""
    copy = touched.clone(tmp_path)
    touched.generate(copy)
    scratch = Scratch(tmp_path)
    python = scratch.folder / "python"  # sees the clone, not this tree, which may be installed editable
    paths = f"{copy}{os.pathsep}{touched.sysconfig.get_path('platlib')}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec {sys.executable} -SP "$@"\n')
    python.chmod(0o755)
    built = {"CCACHE_BASEDIR": str(copy)}
    scratch.run(f"cmake -G Ninja -S {copy} -B build -DPython_EXECUTABLE={python} && cmake --build build", **built)
    scratch.run(f"cmake --install build --prefix {copy}/infiniop")
    configure = f"cmake -G Ninja -S {copy}/tests/nvidia/emulator -B emulator -DINFINIOP_GENERATED=$PWD/build/generated"
    scratch.run(f"{configure} && cmake --build emulator", **built)
    env = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "INFINIOP_BACKEND_PATH": f"{scratch.folder}/emulator/libinfiniop_nvidia_emulator.so",
    }
    for backend in ("cpu", "reference", "emulator"):
        kit = f"-p infiniop.conformance.entry --pyargs infiniop.conformance --backend {backend} --op square"
        assert " passed" in scratch.run(f"{python} -m pytest {kit}", **env)
