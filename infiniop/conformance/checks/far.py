"""More than 2^31 elements, with `--large` only: memory of some GiB."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from infiniop.schema import Operator, Sample

from ..cases import Case, Options
from ..far import run_many, run_spread, spread_samples, takes_many
from ..subject import Subject

GROUPS = ("far", "many")


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    def spread(name: str, sample: Sample, strides: tuple[int, ...]) -> Callable[[], list[str]]:
        return lambda: run_spread(operator, tested, sample, name, strides)

    if not options.large:
        return
    for name, sample, strides in spread_samples(operator, options.seed):
        yield Case(operator.name, f"far {name}", spread(name, sample, strides))
    if takes_many(operator):
        yield Case(operator.name, "many elements", lambda: run_many(operator, tested))
