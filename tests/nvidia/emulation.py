"""Building the NVIDIA backend on the emulator: the same sources, compiled as C++."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "build" / "cmake" / "generated"
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def tool(name: str) -> str:
    found = shutil.which(name, path=TOOLS)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def build(folder: Path, *options: str, target: str = "all") -> Path:
    """The emulator's library, up to date, or a program."""
    if not GENERATED.is_dir():
        pytest.skip(f"needs the build's generated files: {GENERATED}")
    cmake = tool("cmake")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:  # pytest-xdist: one worker builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        source = ["-S", str(ROOT / "tests/nvidia/emulator"), "-B", str(folder), f"-DINFINIOP_GENERATED={GENERATED}"]
        for command in (
            [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *source, *options],
            [cmake, "--build", str(folder), "--target", target],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / ("libinfiniop_nvidia_emulator.so" if target == "all" else target)


@functools.cache
def library() -> Path:
    return build(ROOT / "build" / "emulator")
