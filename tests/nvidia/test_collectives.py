"""infiniccl on NCCL's functions: a stand-in for the library, two devices of the emulator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulation import library, tool

HERE = Path(__file__).parent


def collectives(nccl: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "INFINIOP_BACKEND_PATH": str(library()),
        "INFINIOP_EMULATOR_DEVICES": "2",
        "INFINIOP_NCCL": str(nccl),
    }
    command = [sys.executable, str(HERE / "collectives.py")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_every_collective_arrives(tmp_path: Path) -> None:
    nccl = tmp_path / "libnccl.so.2"
    command = [tool("gcc"), "-shared", "-fPIC", "-Wall", "-Wextra", str(HERE / "fake_nccl.c"), "-o", str(nccl)]
    subprocess.run(command, check=True)
    done = collectives(nccl)
    assert done.stdout == "all right\n", done.stderr


def test_without_nccl_the_message_says_what_to_do(tmp_path: Path) -> None:
    done = collectives(tmp_path / "nothing.so")
    assert done.returncode != 0
    assert "need NCCL: install it (pip install nvidia-nccl-cu13) or name its library in INFINIOP_NCCL" in done.stderr
    assert "nothing.so" in done.stderr
