"""docs/engine.md names what there is: required operators, hook points, families, rope types."""

from __future__ import annotations

from pathlib import Path

from infiniop.lm import REQUIRED_OPERATORS, supported_models
from infiniop.lm.hooks import LAYER_POINTS, MODEL_POINTS
from infiniop.lm.rope import _TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")


def test_everything_is_documented():
    operators = {name for row in REQUIRED_OPERATORS for alternative in row for name in alternative.split("+")}
    names = {*operators, *LAYER_POINTS, *MODEL_POINTS, *supported_models(), *_TYPES}
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []
