"""embedding: look rows up in a table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    BF16,
    F16,
    F32,
    F64,
    FLOATS,
    I16,
    I32,
    I64,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Tensor,
)
from infiniop.schema.samples import empty, padded, uniform

from ._samples import WIDTHS, Errors, column_major


def reference(output, input, weight) -> None:
    known = (input >= 0) & (input < weight.shape[0])
    output[known] = weight[input[known]]


def _arguments(
    rng, dtype: DType, index: DType, shape, rows, width, strides=None, input_strides=None, weight_strides=None
):
    ids = uniform(rng, shape, index, 0, rows - 1, input_strides)
    weight = uniform(rng, (rows, width), dtype, -1, 1, weight_strides)
    return {"output": empty((*shape, width), dtype, strides), "input": ids, "weight": weight}


def _dtype_samples(rng, dtype: DType, index: DType) -> Iterator[Sample]:
    def sample(what, *arguments, tags=(), **strides):
        tensors = _arguments(rng, dtype, index, *arguments, **strides)
        return Sample(f"{dtype.name}-{index.name}-{what}", tensors, tags=frozenset(tags))

    for width in WIDTHS:
        yield sample(f"width-{width}", (5,), 11, width)
    for shape in [(1, 5), (2, 10), (7,), (), (2, 3, 4), (0,), (2, 0)]:
        yield sample(f"ids-{'x'.join(map(str, shape)) or 'scalar'}", shape, 100, 33)
    yield sample("no-width", (4,), 10, 0)
    yield sample("one-row", (4,), 1, 8)
    yield sample("weight-rows", (6,), 20, 17, weight_strides=(24, 1))
    yield sample("weight-columns", (6,), 20, 17, weight_strides=column_major((20, 17)))
    yield sample("weight-reversed", (6,), 20, 17, weight_strides=(-17, 1))
    yield sample("weight-broadcast", (6,), 20, 17, weight_strides=(0, 1))
    yield sample("output-padded", (3, 4), 20, 17, strides=padded((3, 4, 17)))
    yield sample("output-gaps", (3, 4), 20, 17, strides=(200, 40, 2))
    yield sample("ids-strided", (3, 4), 20, 17, input_strides=(1, 5))
    yield sample("ids-broadcast", (3, 4), 20, 17, input_strides=(0, 1))
    unknown = _arguments(rng, dtype, index, (7,), 10, 5)
    limits = np.iinfo(index.numpy)  # type: ignore[arg-type]
    unknown["input"][...] = [0, -1, 10, 9, limits.max, limits.min, 4]
    yield Sample(f"{dtype.name}-{index.name}-unknown-ids", unknown)
    none = _arguments(rng, dtype, index, (3,), 1, 5)
    none["weight"] = empty((0, 5), dtype)
    yield Sample(f"{dtype.name}-{index.name}-empty-table", none)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for index in (I32, I64):
            yield from _dtype_samples(rng, dtype, index)
    far = _arguments(rng, BF16, I32, (4,), 3, 7, weight_strides=(2**30 + 1, 1))
    yield Sample("BF16-I32-2-Gi-elements-away", far, tags=frozenset({"large"}))
    yield Sample("BF16-I64-32000x64", _arguments(rng, BF16, I64, (2, 10), 32000, 64), tags=frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, I32, (2, 3), 10, 8))
    yield from error.nulls()
    yield error("f64", Status.BAD_TENSOR_DTYPE, "output", output=empty((2, 3, 8), F64), weight=empty((10, 8), F64))
    yield error("weight-dtype", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((10, 8), F16))
    yield error("ids-i16", Status.BAD_TENSOR_DTYPE, "input", input=empty((2, 3), I16))
    yield error("ids-float", Status.BAD_TENSOR_DTYPE, "input", input=empty((2, 3), F32))
    yield error("weight-rank", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((1, 10, 8), F32))
    yield error("weight-width", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((10, 9), F32))
    yield error("ids-extent", Status.BAD_TENSOR_SHAPE, "input", input=empty((2, 4), I32))
    yield error("ids-rank", Status.BAD_TENSOR_SHAPE, "input", input=empty((6,), I32))
    yield error("output-rank-0", Status.BAD_TENSOR_SHAPE, "output", output=empty((), F32))
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, "output", output=empty((2, 3, 8), F32, (0, 8, 1)))


embedding = Operator(
    name="embedding",
    symbol="Embedding",
    summary="Look rows up in a table.",
    axes={"tokens": "any number of axes", "vocab": "rows of the table", "d": "row width"},
    dtypes={"T": FLOATS, "I": (I32, I64)},
    tensors=(
        Tensor("output", Role.OUT, "*tokens d", "T", doc="rows", written="rows whose id is in the table"),
        Tensor("input", Role.IN, "*tokens", "I", doc="ids"),
        Tensor("weight", Role.IN, "vocab d", "T", doc="table"),
    ),
    workspace=False,
    semantics=(
        "output[..., :] = weight[input[...], :], an exact copy.",
        "The row of an id that is negative, or vocab or more, is left untouched; the status is SUCCESS.",
        "Without elements nothing is touched.",
    ),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
