"""Every sample of the operator's file, with canaries around and between elements and poison in the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from infiniop.schema import Operator, Sample
from infiniop.tensor import extent

from .. import runner
from ..cases import Case, Options
from ..subject import Subject


class Samples:
    """An operator's samples by number; only the last one is kept, for they can be large."""

    def __init__(self, operator: Operator, seed: int):
        self._operator, self._seed = operator, seed
        self._next, self._rest = 0, iter(operator.samples(np.random.default_rng(seed)))

    def __getitem__(self, number: int) -> Sample:
        if number < self._next:
            self._next, self._rest = 0, iter(self._operator.samples(np.random.default_rng(self._seed)))
        while True:
            sample = next(self._rest)
            self._next += 1
            if self._next > number:
                return sample


SAMPLE, POLICY = GROUPS = ("sample", "NaN and infinity")
LARGE = 1 << 28  # bytes of a sample's memory, gaps included: more is for machines with room


def span_bytes(sample: Sample) -> int:
    """From the first to the last element of every tensor."""
    arrays = {id(a): a for a in sample.tensors.values() if a is not None and a.size}
    reach = [(a.itemsize, extent(a.shape, [s // a.itemsize for s in a.strides])) for a in arrays.values()]
    return sum(size * (high - low + 1) for size, (low, high) in reach)


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    source = Samples(operator, options.seed)

    def check(number: int) -> Callable[[], list[str]]:
        return lambda: runner.run_sample(operator, source[number], tested.backend)

    for number, sample in enumerate(operator.samples(np.random.default_rng(options.seed))):
        if span_bytes(sample) < LARGE:
            group = POLICY if "nan" in sample.tags else SAMPLE
            yield Case(operator.name, f"sample {sample.name}", check(number), group)
