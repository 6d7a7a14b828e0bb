"""Every axis empty, and every axis on both sides of powers of two, with everything else drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

from infiniop.schema import Operator

from .. import runner
from ..cases import Case, Found, Options
from ..drawing import Seeded, axes_of, draw
from ..recipe import Recipe
from ..subject import Subject
from .drawn import KIND, wrong_with

GROUPS = ("empty", "sizes")
_EMPTY_CALLS = 4
_TRIES = 30
_SIZES = tuple(n + d for n in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) for d in (-1, 0, 1))
_MANY = 65537  # rows: more than a grid of 16 bits
_LIMIT = 1 << 18  # elements of a tensor


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    def check(axis: str, extents: Sequence[int]) -> Callable[[], list[str]]:
        return lambda: _run(operator, tested, _recipes(operator, options.seed, axis, extents))

    written = axes_of(operator.outputs)
    for axis in axes_of(operator.tensors):
        sizes = (*_SIZES, _MANY) if axis in written else _SIZES  # longer sums need wider tolerances
        for kind, extents in (("empty", (0,) * _EMPTY_CALLS), ("sizes", sizes)):
            if next(_recipes(operator, options.seed, axis, extents), None) is not None:
                yield Case(operator.name, f"{kind} {axis}", check(axis, extents))


def _recipes(operator: Operator, seed: int, axis: str, extents: Sequence[int]) -> Iterator[Recipe]:
    """A call for each extent that the schema allows."""
    for number, extent in enumerate(extents):
        for attempt in range(_TRIES):
            choice = Seeded(seed, zlib.crc32(axis.encode()), number, attempt)
            recipe = draw(operator, choice, {axis: extent}, limit=_LIMIT, alike=attempt >= _TRIES / 2)
            if recipe is not None and recipe.sample(operator) is not None:
                yield recipe
                break


def _run(operator: Operator, tested: Subject, recipes: Iterator[Recipe]) -> list[str]:
    declined = None
    served = 0
    for recipe in recipes:
        try:
            wrong = wrong_with(operator, tested, recipe)
        except runner.Declined as error:
            declined = error
            continue
        served += 1
        if wrong:
            raise Found(f"{KIND} {recipe}", wrong)
    if declined is not None and not served:
        raise declined
    return []
