"""Calls drawn from the schema by hypothesis: shapes, strides, dtypes, aliases, misaligned memory, infinities and NaN.

What fails is made smaller, and is named by the whole call in one line: `--case 'drawn c=F32:2:1 …'`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import hypothesis
import hypothesis.strategies as st
import numpy as np

from infiniop.operators import all_operators
from infiniop.schema import Operator

from .. import runner, watch
from ..cases import Case, Found, Options
from ..drawing import draw
from ..recipe import Recipe
from ..subject import Subject

T = TypeVar("T")
KIND = "drawn"
GROUPS = (KIND,)


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    yield Case(operator.name, KIND, lambda: _search(operator, tested, options))


def case_of(operator: Operator, tested: Subject, name: str) -> Case | None:
    """The case that a line describes; None when the name is no such line. Raises `ValueError` for a bad one."""
    kind, _, text = name.partition(" ")
    if kind != KIND or "=" not in text:
        return None
    recipe = Recipe.parse(operator, text)
    return Case(operator.name, name, lambda: wrong_with(operator, tested, recipe) or [])


def wrong_with(operator: Operator, tested: Subject, recipe: Recipe) -> list[str] | None:
    """None: the recipe has no values that mean anything."""
    sample = recipe.sample(operator)
    watch.doing(f"{KIND} {recipe}")
    return None if sample is None else runner.run_sample(operator, sample, tested.backend)


class _Drawn:
    """Choices that hypothesis makes, and makes smaller."""

    def __init__(self, data: st.DataObject):
        self._data = data

    def pick(self, options: Sequence[T]) -> T:
        return self._data.draw(st.sampled_from(options)) if len(options) > 1 else options[0]


def _search(operator: Operator, tested: Subject, options: Options) -> list[str]:
    failures: list[tuple[Recipe, list[str]]] = []
    counts = {"run": 0, "declined": 0}
    special = has_policy(operator.name)

    @hypothesis.seed(options.seed)
    @hypothesis.settings(
        max_examples=options.draws, deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )  # fmt: skip
    @hypothesis.given(st.data())
    def once(data: Any) -> None:
        recipe = draw(operator, _Drawn(data), special=special and data.draw(st.sampled_from([False, False, True])))
        if recipe is None:
            hypothesis.reject()
        try:
            wrong = wrong_with(operator, tested, recipe)
        except runner.Declined:
            counts["declined"] += 1
            return
        if wrong is None:
            hypothesis.reject()
        counts["run"] += 1
        if wrong:
            failures.append((recipe, wrong))
            raise _Wrong

    try:
        once()
    except (_Wrong, hypothesis.errors.Flaky):  # what fails only sometimes fails
        recipe, wrong = failures[-1]
        raise Found(f"{KIND} {recipe}", wrong) from None
    if not counts["run"]:
        raise runner.Declined(f"all {counts['declined']} calls that were drawn")
    return []


class _Wrong(Exception):
    """The example fails."""


@functools.cache
def has_policy(name: str) -> bool:
    """Whether the operator's file says what infinities and NaN give."""
    return any("nan" in sample.tags for sample in all_operators()[name].samples(np.random.default_rng(0)))
