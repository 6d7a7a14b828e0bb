"""What the emulator promises, and launch plans for arbitrary sizes and limits: a C++ program of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from emulation import ROOT, build


def test_promises_and_plans() -> None:
    program = build(ROOT / "build" / "emulator", target="selftest")
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.stdout == "all kept\n", done.stderr
    assert "threads wait in a warp exchange" in done.stderr, "divergence is named"


@pytest.mark.full
def test_every_barrier_and_wait_of_the_kernels_is_missed_when_left_out() -> None:
    command = [sys.executable, str(Path(__file__).parent / "omissions.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
