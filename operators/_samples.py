"""What the sample generators of several operators share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from infiniop.schema import BF16, DType, ErrorSample, Status

WIDTHS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
"""Row lengths on both sides of every vector width."""


def special(dtype: DType, extremes: bool = True) -> np.ndarray:
    """Signed zeros and ones, infinities, NaN; with `extremes` the ends of the range and where f32's exp leaves it."""
    limits = ml_dtypes.finfo(dtype.numpy)
    low, high = float(limits.tiny), float(limits.max)
    values = [0.0, -0.0, 1.0, -1.0, 11.5, -11.5, np.inf, -np.inf, np.nan]
    if extremes:
        values += [low, -low, high, -high, 89.0, -89.0, 105.0, -105.0]
        if dtype is not BF16:  # a processor's own conversion may take its subnormal numbers for 0
            values += [low * 0.75, -float(limits.smallest_subnormal)]
    return np.array(values).astype(dtype.numpy)


def reversed_rows(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides with the first axis backwards."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return (-strides[0], *strides[1:])


def column_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides with the first axis innermost."""
    strides = [1] * len(shape)
    for i in range(1, len(shape)):
        strides[i] = strides[i - 1] * shape[i - 1]
    return tuple(strides)


@dataclass(frozen=True)
class Errors:
    """Error samples: one good call with something changed."""

    tensors: Mapping[str, Any]
    attrs: Mapping[str, object] = field(default_factory=dict)

    # Any: `**{name: array}` may name any keyword, as far as a type checker can see.
    def __call__(
        self,
        name: str,
        status: Status,
        argument: str,
        at: Any = "create",
        null: Any = (),
        attrs: Any = None,
        **changed: Any,
    ) -> ErrorSample:
        """`changed` are tensors, by name."""
        merged = {**self.attrs, **(attrs or {})}
        return ErrorSample(name, status, argument, {**self.tensors, **changed}, merged, at, frozenset(null))

    def nulls(self, optional: Iterable[str] = ()) -> Iterator[ErrorSample]:
        """Every tensor's descriptor and pointer left out, one at a time; an optional tensor's pointer only."""
        for name in self.tensors:
            if name not in optional:
                yield self(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
            yield self(f"null-pointer-{name}", Status.NULL_POINTER, name, at="run", null=[name])
