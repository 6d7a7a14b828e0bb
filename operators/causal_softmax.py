"""causal_softmax: softmax of attention scores under the causal mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    F64,
    FLOATS,
    Constraint,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Tensor,
)
from infiniop.schema.samples import empty, padded, uniform

from ._floats import f64, softmax, store, tolerances
from ._samples import Errors, column_major, reversed_rows
from ._softmax import rows_with_infinities


def reference(y, x) -> None:
    if y.size == 0:
        return
    s, t = x.shape[-2:]
    kept = np.tril(np.ones((s, t), bool), t - s)
    probabilities = softmax(np.where(kept, f64(x), -np.inf), -1)
    store(y, np.where(kept, probabilities, 0.0))


def _arguments(rng, dtype: DType, shape, strides=None, x_strides=None, scale=4.0):
    return {"y": empty(shape, dtype, strides), "x": uniform(rng, shape, dtype, -scale, scale, x_strides)}


_LAYOUTS = (
    ("rows", (32, 65), (130, 1), (130, 1)),
    ("row-gaps", (9, 33), (40, 1), (35, 1)),
    ("batches", (5, 7, 33), (462, 33, 1), (300, 40, 1)),
    ("padded", (4, 5, 9), padded((4, 5, 9)), padded((4, 5, 9), 5)),
    ("columns", (3, 9, 17), column_major((3, 9, 17)), column_major((3, 9, 17))),
    ("reversed", (9, 17), reversed_rows((9, 17)), (17, -1)),
    ("broadcast", (4, 6, 17), None, (0, 17, 1)),
    ("one-row", (4, 6, 17), None, (0, 0, 1)),
)


def _dtype_samples(rng, dtype: DType) -> Iterator[Sample]:
    for shape in [(1, 1), (3, 3), (1, 65), (2, 7), (7, 8), (15, 16), (16, 16), (17, 33), (32, 512), (31, 63), (33, 64),
                  (32, 5, 5), (6, 20, 129), (28, 15, 15), (1, 1, 300), (4, 65, 65), (2, 127, 257), (0, 4), (0, 0),
                  (0, 3, 3), (2, 0, 5)]:  # fmt: skip
        yield Sample(f"{dtype.name}-{'x'.join(map(str, shape))}", _arguments(rng, dtype, shape))
    for name, shape, strides, x_strides in _LAYOUTS:
        yield Sample(f"{dtype.name}-{name}", _arguments(rng, dtype, shape, strides, x_strides))
    for shape, strides in (((16, 33), None), ((3, 5, 17), (200, 20, 1))):
        arguments = _arguments(rng, dtype, shape, x_strides=strides)
        yield Sample(f"{dtype.name}-in-place-rank-{len(shape)}", {**arguments, "y": arguments["x"]})
    yield Sample(f"{dtype.name}-large-values", _arguments(rng, dtype, (7, 100), scale=1e4))
    negative = _arguments(rng, dtype, (7, 33))
    negative["x"][...] -= 3000
    yield Sample(f"{dtype.name}-far-below-0", negative)
    for name, junk in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        masked = _arguments(rng, dtype, (2, 6, 20))
        masked["x"][..., np.triu(np.ones((6, 20), bool), 15)] = junk
        yield Sample(f"{dtype.name}-{name}-behind-the-mask", masked)
    infinities = {"y": empty((5, 19), dtype), "x": rows_with_infinities(rng, dtype, (5, 19))}
    yield Sample(f"{dtype.name}-infinities", infinities, tags=frozenset({"nan"}))


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        yield from _dtype_samples(rng, dtype)
    yield Sample("F32-2x1025x1025", _arguments(rng, F32, (2, 1025, 1025)), tags=frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, (3, 4)))
    yield from error.nulls()
    yield error("f64", Status.BAD_TENSOR_DTYPE, "y", y=empty((3, 4), F64), x=empty((3, 4), F64))
    yield error("x-dtype", Status.BAD_TENSOR_DTYPE, "x", x=empty((3, 4), F16))
    yield error("x-extent", Status.BAD_TENSOR_SHAPE, "x", x=empty((3, 5), F32))
    yield error("x-rank", Status.BAD_TENSOR_SHAPE, "x", x=empty((1, 3, 4), F32))
    for name, shape in (("rank-1", (4,)), ("rank-4", (1, 1, 3, 4)), ("fewer-columns-than-rows", (4, 3))):
        yield error(name, Status.BAD_TENSOR_SHAPE, "y", y=empty(shape, F32), x=empty(shape, F32))
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, "y", y=empty((3, 4), F32, (0, 1)))


causal_softmax = Operator(
    name="causal_softmax",
    symbol="CausalSoftmax",
    summary="Softmax over the last axis under a causal mask aligned to the bottom right.",
    axes={"batch": "at most one leading axis", "s": "queries", "t": "keys"},
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("y", Role.OUT, "*batch s t", "T", doc="probabilities", rank=(2, 3)),
        Tensor("x", Role.IN, "*batch s t", "T", doc="scores", rank=(2, 3)),
    ),
    constraints=(Constraint("t >= s", "y", "at least as many columns as rows"),),
    aliases=(("y", "x"),),
    semantics=(
        "Row i keeps the columns j <= i + (t - s): y = exp(x - max(x)) / sum(exp(x - max(x))) over those.",
        "Every later column becomes exactly 0, whatever x holds there.",
        "A kept minus infinity gives 0; a row that keeps nothing else, or also plus infinity or NaN, gives NaN there.",
        "Computed in f32, rounded once.",
        "y may be x, with the same strides.",
        "Without elements nothing is touched.",
    ),
    tolerances=tolerances(f32=(1e-7, 1e-5)),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
