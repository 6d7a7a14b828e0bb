"""docs/features.md names tests that there are: one case per row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "features.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and ": " in line]


@pytest.mark.parametrize(("row", "tests"), ROWS, ids=[row for row, _ in ROWS])
def test_row(row, tests):
    found = 0
    for part in tests.split("; "):
        module, _, names = part.partition(": ")
        if not module.startswith("test_"):
            continue
        tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for name in re.split(r", ", names):
            assert name in there, f"{row}: {module} has no {name}"
            found += 1
    assert found
