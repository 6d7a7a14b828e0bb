"""rms_norm: root mean square normalisation over the last axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    BF16,
    F16,
    F32,
    F64,
    FLOATS64,
    I32,
    Attr,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)
from infiniop.schema.samples import empty, padded, uniform

from ._floats import f64, store
from ._norm import DTYPES, RMS_TOLERANCES, reciprocal_rms, weight_constraint
from ._samples import WIDTHS, Errors, reversed_rows


def reference(y, x, w, epsilon) -> None:
    if y.size:
        values = f64(x)
        store(y, values * f64(w) * reciprocal_rms(values, epsilon))


def _arguments(rng, dtypes: tuple[DType, DType], shape, strides=None, x_strides=None, scale=1.0):
    x = uniform(rng, shape, dtypes[0], -scale, scale, x_strides)
    w = uniform(rng, shape[-1:], dtypes[1], 0.25, 2.0)
    return {"y": empty(shape, dtypes[0], strides), "x": x, "w": w}


def _dtype_samples(rng, dtypes: tuple[DType, DType]) -> Iterator[Sample]:
    name = "-".join(d.name for d in dtypes)

    def sample(what, shape, strides=None, x_strides=None, scale=1.0, epsilon=1e-6, in_place=False):
        arguments = _arguments(rng, dtypes, shape, strides, x_strides, scale)
        if in_place:
            arguments["y"] = arguments["x"]
        return Sample(f"{name}-{what}", arguments, {"epsilon": epsilon})

    for width in WIDTHS:
        yield sample(f"3x{width}", (3, width))
    for shape in [(1, 4), (2, 4), (16, 2048), (5, 3584), (2, 2, 4), (4, 4, 2049), (0, 4), (2, 0, 4), (3, 0)]:
        yield sample("x".join(map(str, shape)), shape)
    yield sample("rows", (16, 257), (300, 1), (514, 1))
    yield sample("heads", (4, 3, 128), (2048, 160, 1), padded((4, 3, 128)))
    yield sample("heads-first", (5, 4, 64), (64, 320, 1), (64, 320, 1))
    yield sample("reversed", (7, 33), reversed_rows((7, 33)), reversed_rows((7, 33)))
    yield sample("broadcast", (6, 65), None, (0, 1))
    yield sample("in-place", (9, 127), in_place=True)
    yield sample("in-place-strided", (3, 4, 40), None, (400, 50, 1), in_place=True)
    yield sample("small", (4, 96), scale=1e-3)
    yield sample("large-values", (4, 1000), scale=6e4)
    yield sample("epsilon-0", (4, 96), epsilon=0.0)
    yield sample("epsilon-large", (4, 96), epsilon=10.0)
    zeros = _arguments(rng, dtypes, (2, 40), scale=0.0)
    yield Sample(f"{name}-zeros", zeros, {"epsilon": 1e-5})


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtypes in DTYPES:
        yield from _dtype_samples(rng, dtypes)
    for dtype in (BF16, F32):
        yield Sample(f"{dtype.name}-15x8192", _arguments(rng, (dtype, dtype), (15, 8192)), {"epsilon": 1e-6},
                     frozenset({"large"}))  # fmt: skip


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, (F32, F32), (3, 8)), {"epsilon": 1e-6})
    yield from error.nulls()
    integers = {"y": empty((3, 8), I32), "x": empty((3, 8), I32), "w": empty((8,), I32)}
    yield error("integers", Status.BAD_TENSOR_DTYPE, "y", **integers)
    yield error("x-dtype", Status.BAD_TENSOR_DTYPE, "x", x=empty((3, 8), F16))
    yield error("weight-half", Status.BAD_TENSOR_DTYPE, "w", w=empty((8,), BF16))
    half = {"y": empty((3, 8), F16), "x": empty((3, 8), F16)}
    yield error("weight-f64", Status.BAD_TENSOR_DTYPE, "w", w=empty((8,), F64), **half)
    rank_1 = {"y": empty((8,), F32), "x": empty((8,), F32)}
    yield error("rank-1", Status.BAD_TENSOR_SHAPE, "y", **rank_1)
    rank_4 = {"y": empty((1, 1, 3, 8), F32), "x": empty((1, 1, 3, 8), F32)}
    yield error("rank-4", Status.BAD_TENSOR_SHAPE, "y", **rank_4)
    yield error("x-rank", Status.BAD_TENSOR_SHAPE, "x", x=empty((1, 3, 8), F32))
    yield error("x-rows", Status.BAD_TENSOR_SHAPE, "x", x=empty((4, 8), F32))
    yield error("x-width", Status.BAD_TENSOR_SHAPE, "x", x=empty((3, 9), F32))
    yield error("weight-width", Status.BAD_TENSOR_SHAPE, "w", w=empty((7,), F32))
    yield error("weight-rank", Status.BAD_TENSOR_SHAPE, "w", w=empty((1, 8), F32))
    yield error("y-last-stride", Status.BAD_TENSOR_STRIDES, "y", y=empty((3, 8), F32, (16, 2)))
    yield error("x-last-stride", Status.BAD_TENSOR_STRIDES, "x", x=empty((3, 8), F32, (1, 3)))
    yield error("weight-stride", Status.BAD_TENSOR_STRIDES, "w", w=empty((8,), F32, (0,)))
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, "y", y=empty((3, 8), F32, (0, 1)))


rms_norm = Operator(
    name="rms_norm",
    symbol="RMSNorm",
    summary="Root mean square normalisation over the last axis, times a weight.",
    axes={"batch": "one or two leading axes", "d": "normalised width"},
    dtypes={"T": FLOATS64, "W": FLOATS64},
    tensors=(
        Tensor("y", Role.OUT, "*batch d", "T", Strides.UNIT_LAST, "result", rank=(2, 3)),
        Tensor("x", Role.IN, "*batch d", "T", Strides.UNIT_LAST, "activations", rank=(2, 3)),
        Tensor("w", Role.IN, "d", "W", Strides.UNIT_LAST, "weight"),
    ),
    attrs=(Attr("epsilon", "float", default=1e-6, doc="added to the mean square; not validated"),),
    constraints=(weight_constraint("w"),),
    aliases=(("y", "x"),),
    semantics=(
        "y = x * w / sqrt(mean(x^2) + epsilon) over the last axis (Zhang, Sennrich 2019, arXiv:1910.07467).",
        "F16 and BF16 are computed in f32, F32 and F64 in their own type; one rounding at the store.",
        "y may be x, with the same strides.",
        "Without elements nothing is touched.",
    ),
    tolerances=RMS_TOLERANCES,
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
