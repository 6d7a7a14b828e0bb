"""Every wrong call of the operator's file: the status, the message, and memory that stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from infiniop.schema import ErrorSample, Operator

from .. import runner
from ..cases import Case, Options
from ..subject import Subject

GROUPS = ("error",)


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    def check(sample: ErrorSample) -> Callable[[], list[str]]:
        return lambda: runner.run_error_sample(operator, sample, tested.backend)

    for sample in operator.error_samples(np.random.default_rng(options.seed)):
        yield Case(operator.name, f"error {sample.name}", check(sample))
