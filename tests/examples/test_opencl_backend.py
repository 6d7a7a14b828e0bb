"""examples/backends/opencl: built against the installed prefix; Llama on a device whose memory the host cannot read."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import infiniop

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "backends" / "opencl"


def run(*command: object, **env: str) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=os.environ | env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/usr/include/CL/cl.h").exists() or ctypes.util.find_library("OpenCL") is None:
        pytest.skip("no OpenCL here: examples/backends/opencl/setup.sh gets it")
    folder = tmp_path_factory.mktemp("opencl")
    shutil.copytree(EXAMPLE, folder / "source")
    run("cmake", "-S", folder / "source", "-B", folder, f"-DCMAKE_PREFIX_PATH={infiniop.root()}")
    run("cmake", "--build", folder, "--parallel", 2)
    library = folder / "libinfiniop_opencl.so"
    listed = json.loads(run(sys.executable, "-m", "infiniop", "backends", "--json", INFINIOP_BACKEND_PATH=str(library)))
    if error := next((b["error"] for b in listed if b["name"] == "opencl" and b.get("error")), None):
        pytest.skip(error)
    return library


def test_a_model_says_the_same_as_on_the_cpu(library: Path):
    program, model = Path(__file__).with_name("opencl_llama.py"), ROOT / "examples" / "demo_model" / "model"
    answers = run(sys.executable, program, model, INFINIOP_BACKEND_PATH=str(library)).splitlines()
    there, here = (json.loads(line) for line in answers)
    assert there["devices"] == ["opencl:0"] and here["devices"] == ["cpu"]
    assert there["tokens"] == here["tokens"]
    assert there["replays"] == here["replays"] == 3 * 22, "of 23 decode steps each, the first runs call by call"


def test_the_library_needs_nothing_of_infiniop(library: Path):
    needed = run("readelf", "-d", library)
    assert "libOpenCL.so" in needed and "libinfini" not in re.sub(r"SONAME.*", "", needed)
    exported = run("nm", "-D", "--defined-only", library).splitlines()
    assert [line.split()[-1] for line in exported if " T " in line] == ["infiniop_backend_init"]
