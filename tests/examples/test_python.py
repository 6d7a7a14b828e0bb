"""The Python examples print what their docstrings say."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("framework", ["numpy", "jax"])
def test_paged_caching(framework: str) -> None:
    pytest.importorskip(framework)
    source = EXAMPLES / framework / "paged_caching.py"
    promised = ast.get_docstring(ast.parse(source.read_text()), clean=True).partition("It prints:\n\n")[2]
    done = subprocess.run([sys.executable, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == textwrap.dedent(promised).rstrip()
