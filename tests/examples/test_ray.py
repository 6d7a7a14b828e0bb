"""The Ray example: ranks that Ray places give what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "examples/demo_model/model")
ARGUMENTS = [MODEL, "-p", "import os\n", "--max-new-tokens", "12", "--temperature", "0"]


@pytest.mark.parametrize("split", ["--tp", "--pp"])
def test_ranks_under_ray_generate_what_one_process_does(split):
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / "examples/ray/generate.py"), "2", *ARGUMENTS, split, "2"]
    spread = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert spread.returncode == 0, spread.stderr
    alone = [sys.executable, "-m", "infiniop", "generate", *ARGUMENTS, "--no-stream"]
    text = subprocess.run(alone, capture_output=True, text=True, check=True).stdout.split("\n\n")[0]
    assert text in spread.stdout
