"""What the emulator promises, and launch plans for arbitrary sizes and limits: a C++ program of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from emulation import ROOT, tool


def test_promises_and_plans(tmp_path: Path) -> None:
    here, program = ROOT / "tests" / "nvidia" / "emulator", tmp_path / "selftest"
    sources = [here / "selftest.cc", here / "emulator.cc", ROOT / "backends" / "nvidia" / "device.cc"]
    command = [tool("g++"), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += [f"-I{here}", f"-I{ROOT / 'include'}", *map(str, sources), "-o", str(program), "-pthread"]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.stdout == "all kept\n", done.stderr
    assert "threads wait in a warp exchange" in done.stderr, "divergence is named"
