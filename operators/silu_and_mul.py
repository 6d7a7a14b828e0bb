"""silu_and_mul: gated linear unit with SiLU, gate and up side by side in one tensor."""

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

from ._floats import f64, silu, store, tolerances
from ._samples import WIDTHS, Errors, column_major, reversed_rows, special


def reference(output, input) -> None:
    d = output.shape[-1]
    with np.errstate(invalid="ignore", over="ignore"):
        store(output, silu(f64(input[..., :d])) * f64(input[..., d:]))


def _arguments(rng, dtype: DType, shape, strides=None, input_strides=None):
    input = uniform(rng, (*shape[:-1], 2 * shape[-1]), dtype, -8, 8, input_strides)
    return {"output": empty(shape, dtype, strides), "input": input}


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for width in WIDTHS:
            yield Sample(f"{dtype.name}-3x{width}", _arguments(rng, dtype, (3, width)))
        for shape in [(8,), (2, 8), (16, 1409), (2, 128, 33), (8, 1, 256), (2, 4, 16, 17), (3, 0), (0, 4), (2, 0, 8)]:
            yield Sample(f"{dtype.name}-{'x'.join(map(str, shape))}", _arguments(rng, dtype, shape))
        yield Sample(f"{dtype.name}-row-gaps", _arguments(rng, dtype, (5, 33), (40, 1), (80, 1)))
        yield Sample(
            f"{dtype.name}-padded", _arguments(rng, dtype, (4, 3, 17), padded((4, 3, 17)), padded((4, 3, 34), 5))
        )
        yield Sample(
            f"{dtype.name}-columns", _arguments(rng, dtype, (7, 9), column_major((7, 9)), column_major((7, 18)))
        )
        yield Sample(f"{dtype.name}-reversed", _arguments(rng, dtype, (6, 8), reversed_rows((6, 8)), (16, -1)))
        yield Sample(f"{dtype.name}-broadcast", _arguments(rng, dtype, (6, 9), None, (0, 1)))
        values = special(dtype, extremes=False)
        grid = np.concatenate(np.meshgrid(values, values, indexing="ij"), axis=-1)
        nan = {"output": empty((len(values), len(values)), dtype), "input": grid}
        yield Sample(f"{dtype.name}-special", nan, tags=frozenset({"nan"}))
    yield Sample("F32-3x4100", _arguments(rng, F32, (3, 4100)))
    yield Sample("F32-16x8192", _arguments(rng, F32, (16, 8192)), tags=frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, (3, 4)))
    yield from error.nulls()
    both = {"output": empty((3, 4), F64), "input": empty((3, 8), F64)}
    yield error("f64", Status.BAD_TENSOR_DTYPE, "output", **both)
    yield error("input-dtype", Status.BAD_TENSOR_DTYPE, "input", input=empty((3, 8), F16))
    yield error("width", Status.BAD_TENSOR_SHAPE, "input", input=empty((3, 7), F32))
    yield error("same-width", Status.BAD_TENSOR_SHAPE, "input", input=empty((3, 4), F32))
    yield error("leading-extent", Status.BAD_TENSOR_SHAPE, "input", input=empty((2, 8), F32))
    yield error("rank", Status.BAD_PARAM, "input", input=empty((1, 3, 8), F32))
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, "output", output=empty((3, 4), F32, (0, 1)))


silu_and_mul = Operator(
    name="silu_and_mul",
    symbol="SiluAndMul",
    summary="Gated linear unit with SiLU on one tensor: silu(first half) times second half.",
    axes={"batch": "any number of leading axes", "d": "output width", "width": "input width: gate, then up"},
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("output", Role.OUT, "*batch d", "T", doc="result"),
        Tensor("input", Role.IN, "*batch width", "T", doc="the gate is the first half of the last axis, up the second"),
    ),
    constraints=(Constraint("width == 2 * d", "input", "a last axis of twice the output's"),),
    infer={"d": "width // 2"},
    rank_status=Status.BAD_PARAM,
    semantics=(
        "output[..., j] = silu(input[..., j]) * input[..., d + j] (Shazeer 2020, arXiv:2002.05202).",
        "silu(x) = x / (1 + exp(-x)).",
        "Computed in f32 and rounded to nearest even once.",
        "Without elements nothing is touched.",
    ),
    tolerances=tolerances(f32=(1e-7, 1e-6)),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
