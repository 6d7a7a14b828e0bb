"""select_last_token_hidden: the hidden row of each request's last token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    F64,
    FLOATS,
    I32,
    I64,
    BadValue,
    Constraint,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)
from infiniop.schema.samples import empty, uniform

from ._samples import WIDTHS, Errors


def reference(output, hidden_states, input_offsets) -> None:
    hidden = hidden_states.reshape(-1, hidden_states.shape[-1])
    last = input_offsets[1:].astype(np.int64) - 1
    for request, row in enumerate(last.tolist()):
        if not 0 <= row < len(hidden):
            raise BadValue("input_offsets", f"ends in 1..{len(hidden)}", f"{row + 1} at [{request + 1}]")
    output[0] = hidden[last]


def _arguments(rng, dtype: DType, leading: tuple[int, int], width: int, offsets):
    return {
        "output": empty((1, len(offsets) - 1, width), dtype),
        "hidden_states": uniform(rng, (*leading, width), dtype),
        "input_offsets": np.array(offsets, np.int32),
    }


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Ends among the tokens."""
    rows, columns, _ = sample.array("hidden_states").shape
    offsets = sample.array("input_offsets")
    offsets[...] = rng.integers(1, rows * columns, len(offsets), endpoint=True)
    return sample


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for width in WIDTHS:
            yield Sample(f"{dtype.name}-{width}", _arguments(rng, dtype, (1, 6), width, [0, 2, 6]))
        for name, leading, width, offsets in [
            ("four-requests", (1, 25), 64, [0, 3, 11, 18, 25]),
            ("tokens-in-two-axes", (5, 5), 64, [0, 3, 11, 18, 25]),
            ("one-token-each", (7, 1), 33, list(range(8))),
            ("one-request", (1, 9), 16, [0, 9]),
            ("empty-request", (1, 9), 16, [0, 4, 4, 9]),
            ("tokens-behind", (1, 9), 16, [0, 2, 5]),
            ("any-order", (1, 9), 16, [3, 9, 1, 5]),
            ("wide", (1, 64), 6144, [0, 1, 17, 64]),
        ]:
            yield Sample(f"{dtype.name}-{name}", _arguments(rng, dtype, leading, width, offsets))
    large = _arguments(rng, F32, (1, 2048), 512, [0, 500, 501, 1024, 2048])
    yield Sample("F32-2048x512", large, tags=frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, (1, 9), 8, [0, 4, 9]))
    yield from error.nulls()
    doubles = {"output": empty((1, 2, 8), F64), "hidden_states": empty((1, 9, 8), F64)}
    yield error("f64", Status.BAD_TENSOR_DTYPE, "output", **doubles)
    yield error("hidden-dtype", Status.BAD_TENSOR_DTYPE, "hidden_states", hidden_states=empty((1, 9, 8), F16))
    yield error("offsets-i64", Status.BAD_TENSOR_DTYPE, "input_offsets", input_offsets=empty((3,), I64))
    yield error("output-rank", Status.BAD_TENSOR_SHAPE, "output", output=empty((2, 8), F32))
    yield error("output-first", Status.BAD_TENSOR_SHAPE, "output", output=empty((2, 2, 8), F32))
    yield error("output-width", Status.BAD_TENSOR_SHAPE, "hidden_states", output=empty((1, 2, 7), F32))
    yield error("hidden-rank", Status.BAD_TENSOR_SHAPE, "hidden_states", hidden_states=empty((9, 8), F32))
    yield error("offsets-length", Status.BAD_TENSOR_SHAPE, "input_offsets", input_offsets=empty((4,), I32))
    yield error("offsets-rank", Status.BAD_TENSOR_SHAPE, "input_offsets", input_offsets=empty((1, 3), I32))
    nobody = {"output": empty((1, 0, 8), F32), "input_offsets": empty((1,), I32)}
    yield error("no-requests", Status.BAD_TENSOR_SHAPE, "input_offsets", **nobody)
    yield error("no-tokens", Status.BAD_TENSOR_SHAPE, "hidden_states", hidden_states=empty((1, 0, 8), F32))
    narrow = {"output": empty((1, 2, 0), F32), "hidden_states": empty((1, 9, 0), F32)}
    yield error("no-width", Status.BAD_TENSOR_SHAPE, "hidden_states", **narrow)
    for name, shape, strides in (
        ("output", (1, 2, 8), (32, 16, 1)), ("hidden_states", (1, 9, 8), (81, 9, 1)), ("input_offsets", (3,), (2,)),
    ):  # fmt: skip
        dtype = I32 if name == "input_offsets" else F32
        yield error(f"{name}-strides", Status.BAD_TENSOR_STRIDES, name, **{name: empty(shape, dtype, strides)})
    for offsets in ([0, 0, 9], [0, 4, 10], [0, 4, -1], [0, 4, -(2**31)], [0, 4, 2**31 - 1]):
        values = np.array(offsets, np.int32)
        name = f"offsets-{offsets[1]}-{offsets[2]}"
        yield error(name, Status.BAD_PARAM, "input_offsets", at="run", input_offsets=values)


select_last_token_hidden = Operator(
    name="select_last_token_hidden",
    symbol="SelectLastTokenHidden",
    summary="Gather the hidden row of each request's last token.",
    axes={
        "one": "1",
        "nreq": "requests",
        "h": "hidden size",
        "rows": "first axis of the tokens",
        "columns": "second axis of the tokens",
        "noffsets": "requests + 1",
    },
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("output", Role.OUT, "one nreq h", "T", Strides.CONTIGUOUS, "selected rows"),
        Tensor("hidden_states", Role.IN, "rows columns h", "T", Strides.CONTIGUOUS, "hidden rows of all tokens"),
        Tensor("input_offsets", Role.IN, "noffsets", I32.name, Strides.CONTIGUOUS, "where requests begin; the end"),
    ),
    constraints=(
        Constraint("one == 1", "output", "a first axis of 1"),
        Constraint("noffsets >= 2", "input_offsets", "at least two offsets"),
        Constraint("noffsets == nreq + 1", "input_offsets", "one offset more than there are requests"),
        Constraint("rows * columns > 0 and h > 0", "hidden_states", "tokens, and a hidden size of at least 1"),
    ),
    infer={"one": "1", "nreq": "noffsets - 1"},
    workspace=False,
    semantics=(
        "output[0, r] = hidden[input_offsets[r + 1] - 1], an exact copy; hidden is [rows * columns, h].",
        "A request without tokens selects the token before it.",
        "A row outside the tokens is BAD_PARAM on the CPU, before anything is written; other devices skip it.",
    ),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
)
