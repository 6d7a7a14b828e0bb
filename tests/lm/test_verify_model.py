"""Shadow mode in a running model: the wrong kernel is named, and the call that it got wrong can be made again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "examples" / "demo_model" / "model"
SABOTAGE = """
import infiniop
from infiniop import ops

def swiglu(c, a, b):
    ops.swiglu(a, b, out=c, backend="cpu")
    if len(c) == 1:  # only when decoding
        c[0, 3] = 1.5

def infiniop_register_backends():
    return [infiniop.PythonBackend("sabotage", kernels={"swiglu": swiglu}, priority=1000)]
"""
GENERATE = """
import sys
import sabotage
from infiniop import plugins
plugins.register(sabotage)
from infiniop.lm import AutoLlamaModel
model = AutoLlamaModel.from_pretrained(sys.argv[1], dtype="float32")
print(model.generate([[5, 6, 7]], 8, temperature=0).token_ids)
"""


def run(folder: Path, *command: object, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    every = os.environ | {"PYTHONPATH": path} | env
    return subprocess.run([sys.executable, *map(str, command)], env=every, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sabotage.py").write_text(SABOTAGE)
    return tmp_path


def test_the_wrong_kernel_of_a_model_is_named(folder: Path) -> None:
    wanted = {"INFINIOP_VERIFY": "reference", "INFINIOP_VERIFY_DIR": str(folder / "kept")}
    silent = run(folder, "-c", GENERATE, MODEL)
    assert silent.returncode == 0, silent.stderr
    done = run(folder, "-c", GENERATE, MODEL, **wanted)
    assert done.returncode == 1
    assert "swiglu of backend 'sabotage' is wrong: c: 1 of 640 elements differ, the first at [0, 3]" in done.stderr
    assert "infiniop verify: " in done.stderr and " 1 differ, 0 not verified" in done.stderr
    kept = folder / "kept" / "swiglu-1"
    again = run(folder, "-m", "infiniop", "replay", kept, "--plugin", "sabotage")
    assert again.returncode == 1 and "swiglu of backend 'sabotage' is wrong" in again.stdout, again.stderr
    right = run(folder, "-m", "infiniop", "replay", kept, "--backend", "cpu")
    assert right.returncode == 0 and right.stdout == "the call does not differ\n", right.stderr


def test_a_report_lets_the_model_go_on(folder: Path) -> None:
    env = {"INFINIOP_VERIFY": "reference", "INFINIOP_VERIFY_MODE": "report", "INFINIOP_VERIFY_DIR": str(folder)}
    silent, done = run(folder, "-c", GENERATE, MODEL), run(folder, "-c", GENERATE, MODEL, **env)
    assert done.returncode == 0 and done.stdout == silent.stdout, done.stderr
    assert done.stderr.count("is wrong") == 1, "the first call of each operator is told, the others are counted"
