"""Samples: concrete arguments of an operator, and helpers that lay arrays out in memory.

A tensor argument is a NumPy array; its shape, strides and dtype are the descriptor's. Outputs are given as arrays too:
whoever runs a sample fills OUT tensors with poison first. In an aliased sample output and input are the same array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .dtypes import DType

Call = Callable[[str, Mapping[str, "np.ndarray | None"], Mapping[str, object]], None]
"""`call(op, tensors, attrs)` runs an operator on the backend under test; outputs are written in place."""


@dataclass(frozen=True)
class Sample:
    """`tensors` by name (None: an optional one left out), `attrs` by name. `tags`: "large", "nan", …

    `tensors` is what the reference takes. Where an opaque tensor's layout and size are a backend's own, `prepare(call)`
    makes the one that the backend under test takes in its place. `shift` elements lie between an aligned address and
    each tensor.
    """

    name: str
    tensors: Mapping[str, np.ndarray | None]
    attrs: Mapping[str, object] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    prepare: Callable[[Call], Mapping[str, np.ndarray]] | None = None
    shift: int = 0

    def array(self, name: str) -> np.ndarray:
        """A tensor that is there."""
        found = self.tensors[name]
        assert found is not None, name
        return found


@dataclass(frozen=True)
class ErrorSample:
    """A call that must fail with `status`, and whose message must name `argument`.

    `at` says which call fails: "create" or "run". Tensors in `null` are passed as a NULL descriptor (at create) or a
    NULL pointer (at run) although the operator needs them.
    """

    name: str
    status: int
    argument: str
    tensors: Mapping[str, np.ndarray | None]
    attrs: Mapping[str, object] = field(default_factory=dict)
    at: str = "create"
    null: frozenset[str] = frozenset()


def layout(shape: Sequence[int], strides: Sequence[int] | None, dtype: DType) -> np.ndarray:
    """An array of zeros with the given strides (elements; negative and 0 allowed; None: row-major)."""
    assert dtype.numpy is not None
    if strides is None:
        return np.zeros(tuple(shape), dtype.numpy)
    low = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True) if n > 0)
    high = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True) if n > 0)
    base = np.zeros(high - low + 1, dtype.numpy)
    return np.lib.stride_tricks.as_strided(
        base[-low:], tuple(shape), tuple(s * dtype.itemsize for s in strides), writeable=True
    )


def padded(shape: Sequence[int], pad: int = 3) -> tuple[int, ...]:
    """Row-major strides with `pad` unused elements after every row (and every higher slice)."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1) + pad
    return tuple(strides)


def uniform(
    rng: np.random.Generator,
    shape: Sequence[int],
    dtype: DType,
    low: float = -1.0,
    high: float = 1.0,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Uniform values; integers include both bounds."""
    out = layout(shape, strides, dtype)
    count = tuple(1 if s == 0 else n for n, s in zip(shape, strides or [1] * len(shape), strict=True))
    values: np.ndarray
    if dtype.is_float:
        values = rng.uniform(low, high, count)
    else:
        values = rng.integers(int(low), int(high), count, endpoint=True)
    if math.prod(shape):
        out[tuple(slice(0, n) for n in count)] = values
    return out


def empty(shape: Sequence[int], dtype: DType, strides: Sequence[int] | None = None) -> np.ndarray:
    """Memory for an output."""
    return layout(shape, strides, dtype)
