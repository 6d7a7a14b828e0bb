"""A device that brings no more than the required operators runs a model, through a backend that was just registered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infiniop.lm import AutoLlamaModel

PROGRAM = Path(__file__).parent / "device_of_its_own.py"


@pytest.mark.parametrize("architecture", ["llama-gqa", "qwen2"])
def test_a_new_device_runs_a_model(checkpoint, prompts, architecture):
    pair, rows = checkpoint(architecture), prompts(9, 4)
    command = [sys.executable, str(PROGRAM), str(pair.path), json.dumps(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    here = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    assert found["devices"] == ["island:0"]
    assert found["replays"] == 4 + 4, "of five decode steps each, the first runs call by call"
    assert found["greedy"] == here.generate(rows, 6).token_ids
    assert found["sampled"] == here.generate(rows, 6, temperature=0.7, top_k=30, seed=5).token_ids
