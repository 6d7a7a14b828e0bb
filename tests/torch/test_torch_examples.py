"""The runnable examples print what they should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples" / "torch"
OUTPUT = {
    "paged_caching.py": """\
eager: 2 rows in use: block 0 row 3, block 2 row 1; key 0.5, value 2.0
compiled: 2 rows in use: block 0 row 3, block 2 row 1; key 0.5, value 2.0
""",
    "sampler.py": """\
drawn: 8 tokens
the same in a batch: True
other seeds, other tokens: True
""",
}


def test_every_example_is_run():
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(OUTPUT)


@pytest.mark.parametrize("name", OUTPUT)
def test_output(name):
    if name == "sampler.py":
        pytest.importorskip("transformers")
    result = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == OUTPUT[name]
