"""Samples that softmax and log_softmax share: one normalises along an attribute's axis, as the other does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from infiniop.schema import BF16, F16, F32, I8, DType, ErrorSample, Sample, Status
from infiniop.schema.samples import empty, padded, uniform

from ._samples import WIDTHS, Errors, column_major, reversed_rows


def rows_with_infinities(rng: np.random.Generator, dtype: DType, shape: Sequence[int]) -> np.ndarray:
    """Rows with some -inf, all but one -inf, all -inf, one +inf, and a NaN; the rest is ordinary."""
    x = uniform(rng, shape, dtype, -4, 4)
    rows = x.reshape(-1, shape[-1])
    rows[0, ::2] = -np.inf
    rows[1, 1:] = -np.inf
    rows[2] = -np.inf
    rows[3, -1] = np.inf
    rows[4, 0] = np.nan
    return x


def axis_samples(rng, dtypes: Sequence[DType], output: str, input: str, attr: str) -> Iterator[Sample]:
    """Samples of an operator that normalises along the axis which `attr` gives."""

    def sample(what, dtype, shape, axis, strides=None, input_strides=None, scale=4.0, in_place=False, tags=()):
        x = uniform(rng, shape, dtype, -scale, scale, input_strides)
        y = x if in_place else empty(shape, dtype, strides)
        return Sample(f"{dtype.name}-{what}", {output: y, input: x}, {attr: axis}, frozenset(tags))

    for dtype in dtypes:
        for width in WIDTHS:
            yield sample(f"3x{width}", dtype, (3, width), -1)
        for shape in [(4, 4), (12, 5, 17, 9), (1, 16, 33, 32), (2, 3, 0, 5)]:
            for axis in range(-len(shape), len(shape)):
                yield sample(f"{'x'.join(map(str, shape))}-axis{axis}", dtype, shape, axis)
        for shape in [(1,), (1000,), (0,), (3, 3), (32, 512), (32, 5, 5), (8, 20, 129), (1, 1000), (2, 16, 1024)]:
            yield sample("x".join(map(str, shape)), dtype, shape, -1)
        for axis in (0, 1, 2):
            yield sample(f"padded-axis{axis}", dtype, (4, 7, 33), axis, padded((4, 7, 33)), (300, 40, 1))
            yield sample(f"columns-axis{axis}", dtype, (4, 7, 33), axis, None, column_major((4, 7, 33)))
            yield sample(f"columns-output-axis{axis}", dtype, (4, 7, 33), axis, column_major((4, 7, 33)), (231, -33, 1))
            yield sample(f"broadcast-axis{axis}", dtype, (4, 7, 33), axis, None, (0, 33, 1))
            yield sample(f"in-place-axis{axis}", dtype, (4, 7, 33), axis, in_place=True)
            yield sample(f"in-place-strided-axis{axis}", dtype, (4, 7, 33), axis, None, (280, 40, 1), in_place=True)
        yield sample("2x300x17-axis1", dtype, (2, 300, 17), 1)
        yield sample("reversed", dtype, (6, 33), 1, reversed_rows((6, 33)), (33, -1))
        yield sample("one-value", dtype, (6, 33), 1, None, (1, 0))
        yield sample("large-values", dtype, (6, 100), 1, scale=1e4)
        infinities = rows_with_infinities(rng, dtype, (7, 19))
        tensors = {output: empty((7, 19), dtype), input: infinities}
        yield Sample(f"{dtype.name}-infinities", tensors, {attr: -1}, frozenset({"nan"}))
    yield sample("16x50257", F32, (16, 50257), 1, tags=["large"])


def axis_errors(rng, output: str, input: str, attr: str) -> Iterator[ErrorSample]:
    """Error samples of such an operator."""
    error = Errors({output: empty((3, 4), F32), input: uniform(rng, (3, 4), F32)}, {attr: 1})
    yield from error.nulls()
    for axis in (2, -3, 2**31 - 1, -(2**31)):
        yield error(f"axis-{axis}", Status.BAD_PARAM, attr, attrs={attr: axis})
    scalars = {n: empty((), F32) for n in error.tensors}
    yield error("rank-0", Status.BAD_PARAM, attr, attrs={attr: 0}, **scalars)
    yield error("integers", Status.BAD_TENSOR_DTYPE, output, **{n: empty((3, 4), I8) for n in error.tensors})
    yield error("dtype", Status.BAD_TENSOR_DTYPE, input, **{input: empty((3, 4), F16)})
    yield error("dtype-bf16-output", Status.BAD_TENSOR_DTYPE, input, **{output: empty((3, 4), BF16)})
    yield error("extent", Status.BAD_TENSOR_SHAPE, input, **{input: empty((3, 5), F32)})
    yield error("rank", Status.BAD_TENSOR_SHAPE, input, **{input: empty((1, 3, 4), F32)})
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, output, **{output: empty((3, 4), F32, (1, 0))})
