"""What the emulator promises, and launch plans for arbitrary sizes and limits: a C++ program of its own."""

from __future__ import annotations

import subprocess

from emulation import ROOT, build


def test_promises_and_plans() -> None:
    program = build(ROOT / "build" / "emulator", target="selftest")
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.stdout == "all kept\n", done.stderr
    assert "threads wait in a warp exchange" in done.stderr, "divergence is named"
