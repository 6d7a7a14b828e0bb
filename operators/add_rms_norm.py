"""add_rms_norm: add a residual, then normalise the sum by its root mean square."""

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


def reference(y, residual_out, a, b, weight, epsilon) -> None:
    if y.size:
        total = f64(a) + f64(b)
        scale = reciprocal_rms(total, epsilon) * f64(weight)
        store(residual_out, total)
        store(y, f64(residual_out) * scale)


def _arguments(rng, dtypes: tuple[DType, DType], shape, strides=(None, None, None, None), scale=1.0):
    """`strides` of y, residual_out, a and b."""
    activation, weight = dtypes
    outputs = {n: empty(shape, activation, s) for n, s in zip(("y", "residual_out"), strides[:2], strict=True)}
    inputs = {n: uniform(rng, shape, activation, -scale, scale, s) for n, s in zip("ab", strides[2:], strict=True)}
    return {**outputs, **inputs, "weight": uniform(rng, shape[-1:], weight, 0.25, 2.0)}


def _dtype_samples(rng, dtypes: tuple[DType, DType]) -> Iterator[Sample]:
    name = "-".join(d.name for d in dtypes)

    def sample(what, shape, strides=(None, None, None, None), scale=1.0, epsilon=1e-6, same=()):
        arguments = _arguments(rng, dtypes, shape, strides, scale)
        for output, source in same:
            arguments[output] = arguments[source]
        return Sample(f"{name}-{what}", arguments, {"epsilon": epsilon})

    for width in WIDTHS:
        yield sample(f"3x{width}", (3, width))
    for shape in [(1, 4), (2, 4), (16, 2048), (5, 3584), (2, 2, 4), (4, 4, 2049), (0, 4), (2, 0, 4), (3, 0)]:
        yield sample("x".join(map(str, shape)), shape)
    yield sample("rows", (16, 257), ((300, 1), (257, 1), (514, 1), (260, 1)))
    yield sample("heads", (4, 3, 128), ((2048, 160, 1), None, padded((4, 3, 128)), (128, 512, 1)))
    yield sample("reversed", (7, 33), (None, *[reversed_rows((7, 33))] * 2, None))
    yield sample("broadcast", (6, 65), (None, None, (0, 1), None))
    for output, source in [("y", "a"), ("y", "b"), ("residual_out", "a"), ("residual_out", "b")]:
        yield sample(f"{output}-is-{source}", (9, 127), same=[(output, source)])
        strides = {"y": 0, "residual_out": 1, "a": 2, "b": 3}
        layout = [(400, 50, 1) if i in (strides[output], strides[source]) else None for i in range(4)]
        yield sample(f"{output}-is-{source}-strided", (3, 4, 40), layout, same=[(output, source)])
    yield sample("both-in-place", (9, 127), same=[("y", "a"), ("residual_out", "b")])
    yield sample("both-in-place-crossed", (9, 127), same=[("y", "b"), ("residual_out", "a")])
    yield sample("small", (4, 96), scale=1e-3)
    yield sample("large-values", (4, 1000), scale=3e4)
    yield sample("epsilon-0", (4, 96), epsilon=0.0)
    yield sample("epsilon-large", (4, 96), epsilon=10.0)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtypes in DTYPES:
        yield from _dtype_samples(rng, dtypes)
    for dtype in (BF16, F32):
        yield Sample(f"{dtype.name}-15x8192", _arguments(rng, (dtype, dtype), (15, 8192)), {"epsilon": 1e-6},
                     frozenset({"large"}))  # fmt: skip


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, (F32, F32), (3, 8)), {"epsilon": 1e-6})
    activations = ("y", "residual_out", "a", "b")
    yield from error.nulls()
    integers = {**{n: empty((3, 8), I32) for n in activations}, "weight": empty((8,), I32)}
    yield error("integers", Status.BAD_TENSOR_DTYPE, "y", **integers)
    yield error("weight-half", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((8,), BF16))
    half = {n: empty((3, 8), F16) for n in activations}
    yield error("weight-f64", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((8,), F64), **half)
    for rank, shape in (("1", (8,)), ("4", (1, 1, 3, 8))):
        yield error(f"rank-{rank}", Status.BAD_TENSOR_SHAPE, "y", **{n: empty(shape, F32) for n in activations})
    for name in activations[1:]:
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty((3, 8), F16)})
        yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: empty((1, 3, 8), F32)})
        yield error(f"{name}-rows", Status.BAD_TENSOR_SHAPE, name, **{name: empty((4, 8), F32)})
        yield error(f"{name}-width", Status.BAD_TENSOR_SHAPE, name, **{name: empty((3, 9), F32)})
    yield error("weight-width", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((7,), F32))
    for name in activations:
        yield error(f"{name}-last-stride", Status.BAD_TENSOR_STRIDES, name, **{name: empty((3, 8), F32, (16, 2))})
    yield error("weight-stride", Status.BAD_TENSOR_STRIDES, "weight", weight=empty((8,), F32, (2,)))
    for name in activations[:2]:
        yield error(f"{name}-broadcast", Status.BAD_TENSOR_STRIDES, name, **{name: empty((3, 8), F32, (0, 1))})


def _activation(name: str, role: Role, doc: str) -> Tensor:
    return Tensor(name, role, "*batch d", "T", Strides.UNIT_LAST, doc, rank=(2, 3))


add_rms_norm = Operator(
    name="add_rms_norm",
    symbol="AddRMSNorm",
    summary="Add two tensors, keep the sum, and normalise it by its root mean square.",
    axes={"batch": "one or two leading axes", "d": "normalised width"},
    dtypes={"T": FLOATS64, "W": FLOATS64},
    tensors=(
        _activation("y", Role.OUT, "normalised sum, times the weight"),
        _activation("residual_out", Role.OUT, "the sum"),
        _activation("a", Role.IN, "first summand"),
        _activation("b", Role.IN, "second summand"),
        Tensor("weight", Role.IN, "d", "W", Strides.UNIT_LAST, "weight"),
    ),
    attrs=(Attr("epsilon", "float", default=1e-6, doc="added to the mean square; not validated"),),
    constraints=(weight_constraint("weight"),),
    aliases=(("y", "a"), ("y", "b"), ("residual_out", "a"), ("residual_out", "b")),
    semantics=(
        "residual_out = a + b; y = residual_out * weight / sqrt(mean((a + b)^2) + epsilon) over the last axis "
        "(Zhang, Sennrich 2019, arXiv:1910.07467).",
        "The mean square is of the unrounded sum; what is normalised is the sum as rounded into residual_out.",
        "F16 and BF16 are computed in f32, F32 and F64 in their own type; one rounding at each store.",
        "Each output may be a or b, with the same strides; y must not be residual_out.",
        "Without elements nothing is touched.",
    ),
    tolerances=RMS_TOLERANCES,
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
