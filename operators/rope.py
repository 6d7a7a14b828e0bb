"""rope: rotary position embedding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    F64,
    FLOATS64,
    HALVES,
    I8,
    I32,
    I64,
    INTEGERS,
    U64,
    Attr,
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
from infiniop.schema.samples import empty, layout, padded, uniform

from ._floats import f64, store, tolerances
from ._samples import Errors

GPT_J, GPT_NEOX = 0, 1


def reference(y, x, pos_ids, sin_table, cos_table, algo) -> None:
    if y.size == 0:
        return
    rows = sin_table.shape[0]
    for index, position in np.ndenumerate(pos_ids):
        if not 0 <= int(position) < rows:
            raise BadValue("pos_ids", f"values in 0..{rows - 1}", f"{position} at {list(index)}")
    half = x.shape[-1] // 2
    first = (..., slice(0, None, 2)) if algo == GPT_J else (..., slice(0, half))
    second = (..., slice(1, None, 2)) if algo == GPT_J else (..., slice(half, None))
    table_rows = pos_ids.astype(np.int64)
    if table_rows.ndim == 2 and x.ndim == 3:
        table_rows = table_rows[0]
    sin, cos = (f64(table[table_rows])[..., None, :] for table in (sin_table, cos_table))
    p, q = f64(x[first]), f64(x[second])
    store(y[first], p * cos - q * sin)
    store(y[second], p * sin + q * cos)


def complete(rng: np.random.Generator, sample: Sample) -> Sample | None:
    """Positions that the tables have."""
    positions, rows = sample.array("pos_ids"), len(sample.array("sin_table"))
    if positions.size and not rows:
        return None
    most = min(rows - 1, int(np.iinfo(positions.dtype).max))
    positions[...] = rng.integers(0, max(most, 0), positions.shape, endpoint=True)
    return sample


def _tables(dtype: DType, rows: int, half: int, theta: float = 1e5) -> dict[str, np.ndarray]:
    angles = np.arange(rows)[:, None] * theta ** (-np.arange(half) / max(half, 1))[None, :]
    tables = {"sin_table": empty((rows, half), dtype), "cos_table": empty((rows, half), dtype)}
    for name, function in (("sin_table", np.sin), ("cos_table", np.cos)):
        tables[name][...] = function(angles).astype(dtype.numpy)
    return tables


def _arguments(rng, dtype: DType, shape, strides=None, x_strides=None, positions: DType = I32, per_batch=False,
               pos_strides=None, rows=None, scale=1.0):  # fmt: skip
    """Positions are distinct and out of order, so that a kernel that counts instead of reading them fails."""
    sequence = shape[-3]
    rows = rows or sequence + 3
    batch = (shape[0] if len(shape) == 4 else 1,) if per_batch else ()
    pos_ids = layout((*batch, sequence), pos_strides, positions)
    for index in np.ndindex(*batch):
        pos_ids[index] = rng.permutation(rows)[:sequence]
    x = uniform(rng, shape, dtype, -scale, scale, x_strides)
    return {"y": empty(shape, dtype, strides), "x": x, "pos_ids": pos_ids, **_tables(dtype, rows, shape[-1] // 2)}


_CASES: tuple[tuple[str, dict], ...] = (
    ("1x32x128", {"shape": (1, 32, 128)}),
    ("10x8x64", {"shape": (10, 8, 64)}),
    ("4x1x32", {"shape": (4, 1, 32), "x_strides": (64, 64, 1)}),
    ("11x5x128", {"shape": (11, 5, 128), "strides": (1100, 200, 1)}),
    ("3x7x128", {"shape": (3, 7, 128), "strides": (1000, 140, 1), "x_strides": (1200, 150, 1)}),
    ("8x1x32x128", {"shape": (8, 1, 32, 128)}),
    ("3x10x4x64", {"shape": (3, 10, 4, 64)}),
    ("3x7x5x64-heads-first", {"shape": (3, 7, 5, 64), "strides": (2240, 64, 448, 1), "x_strides": (2240, 64, 448, 1)}),
    ("2x9x4x64-cache", {"shape": (2, 9, 4, 64), "x_strides": (65536, 64, 16384, 1)}),
    ("padded", {"shape": (2, 5, 3, 40), "strides": padded((2, 5, 3, 40)), "x_strides": padded((2, 5, 3, 40), 7)}),
    ("5x3x32-reversed", {"shape": (5, 3, 32), "strides": (-96, 32, 1), "x_strides": (96, -32, 1)}),
    ("5x3x32-broadcast", {"shape": (5, 3, 32), "x_strides": (32, 0, 1)}),
    ("per-batch", {"shape": (3, 5, 2, 32), "per_batch": True}),
    ("per-batch-rank-3", {"shape": (5, 2, 32), "per_batch": True}),
    ("positions-strided", {"shape": (3, 5, 2, 32), "per_batch": True, "pos_strides": (1, 3)}),
    ("positions-reversed", {"shape": (6, 2, 32), "pos_strides": (-2,)}),
    ("long-table", {"shape": (6, 2, 64), "rows": 4096}),
    ("no-tokens", {"shape": (0, 4, 32)}),
    ("no-heads", {"shape": (4, 0, 32)}),
    ("no-batch", {"shape": (0, 4, 2, 32)}),
)  # fmt: skip


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS64:
        for algo, attrs in (("gpt-j", {"algo": GPT_J}), ("gpt-neox", {"algo": GPT_NEOX})):
            for name, keywords in _CASES:
                yield Sample(f"{dtype.name}-{algo}-{name}", _arguments(rng, dtype, **keywords), attrs)
            for width in (2, 4, 6, 14, 16, 18, 30, 34, 62, 66, 126, 130, 254, 258):
                yield Sample(f"{dtype.name}-{algo}-3x2x{width}", _arguments(rng, dtype, (3, 2, width)), attrs)
            if dtype in HALVES:
                yield Sample(
                    f"{dtype.name}-{algo}-large-values", _arguments(rng, dtype, (4, 2, 64), scale=100.0), attrs
                )
            for shape, strides in (((7, 3, 64), None), ((2, 5, 3, 32), (800, 32, 160, 1))):
                arguments = _arguments(rng, dtype, shape, x_strides=strides)
                name = f"{dtype.name}-{algo}-in-place-rank-{len(shape)}"
                yield Sample(name, {**arguments, "y": arguments["x"]}, attrs)
    for positions in INTEGERS:
        yield Sample(f"positions-{positions.name}", _arguments(rng, F32, (9, 2, 16), positions=positions), {"algo": 1})
    yield Sample("F32-8x20x32x64", _arguments(rng, F32, (8, 20, 32, 64)), {"algo": 1}, frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, (6, 2, 8), rows=10), {"algo": GPT_NEOX})
    yield from error.nulls()
    for algo in (2, 1000, 2**31 - 1):
        yield error(f"algo-{algo}", Status.NULL_POINTER, "algo", attrs={"algo": algo})
    integers = {n: empty(error.tensors[n].shape, I32) for n in ("y", "x", "sin_table", "cos_table")}
    yield error("integers", Status.BAD_TENSOR_DTYPE, "y", **integers)
    yield error("x-dtype", Status.BAD_TENSOR_DTYPE, "x", x=empty((6, 2, 8), F16))
    yield error("sin-dtype", Status.BAD_TENSOR_DTYPE, "sin_table", sin_table=empty((10, 4), F64))
    yield error("cos-dtype", Status.BAD_TENSOR_DTYPE, "cos_table", cos_table=empty((10, 4), F16))
    yield error("positions-float", Status.BAD_TENSOR_DTYPE, "pos_ids", pos_ids=empty((6,), F32))
    for rank, shape in (("2", (6, 8)), ("5", (1, 1, 6, 2, 8))):
        yield error(f"rank-{rank}", Status.BAD_TENSOR_SHAPE, "y", y=empty(shape, F32), x=empty(shape, F32))
    yield error("x-rank", Status.BAD_TENSOR_SHAPE, "x", x=empty((1, 6, 2, 8), F32))
    yield error("x-heads", Status.BAD_TENSOR_SHAPE, "x", x=empty((6, 3, 8), F32))
    yield error("positions-length", Status.BAD_TENSOR_SHAPE, "pos_ids", pos_ids=empty((5,), I32))
    yield error("positions-rank", Status.BAD_TENSOR_SHAPE, "pos_ids", pos_ids=empty((1, 1, 6), I32))
    yield error("positions-batch-of-rank-3", Status.BAD_TENSOR_SHAPE, "pos_ids", pos_ids=empty((2, 6), I32))
    batched = {"y": empty((3, 6, 2, 8), F32), "x": empty((3, 6, 2, 8), F32)}
    yield error("positions-batch", Status.BAD_TENSOR_SHAPE, "pos_ids", pos_ids=empty((2, 6), I32), **batched)
    yield error("positions-one-row", Status.BAD_TENSOR_SHAPE, "pos_ids", pos_ids=empty((1, 6), I32), **batched)
    yield error("cos-rows", Status.BAD_TENSOR_SHAPE, "cos_table", cos_table=empty((11, 4), F32))
    wide = {n: empty((10, 8), F32) for n in ("sin_table", "cos_table")}
    yield error("table-width", Status.BAD_TENSOR_SHAPE, "sin_table", **wide)
    odd = {n: empty((6, 2, 9), F32) for n in "xy"}
    yield error("odd-head", Status.BAD_TENSOR_SHAPE, "sin_table", **odd)
    yield error("sin-rank", Status.BAD_TENSOR_SHAPE, "sin_table", sin_table=empty((40,), F32))
    yield error("x-last-stride", Status.BAD_TENSOR_STRIDES, "x", x=empty((6, 2, 8), F32, (32, 16, 2)))
    yield error("y-last-stride", Status.BAD_TENSOR_STRIDES, "y", y=empty((6, 2, 8), F32, (2, 12, 24)))
    yield error("y-broadcast", Status.BAD_TENSOR_STRIDES, "y", y=empty((6, 2, 8), F32, (0, 8, 1)))
    yield error("sin-rows", Status.BAD_TENSOR_STRIDES, "sin_table", sin_table=empty((10, 4), F32, (5, 1)))
    yield error("cos-columns", Status.BAD_TENSOR_STRIDES, "cos_table", cos_table=empty((10, 4), F32, (1, 10)))
    for dtype, bad in ((I32, 10), (I32, -1), (I8, 127), (I64, -(2**63)), (I64, 2**40), (U64, 2**64 - 1)):
        positions = np.array([0, 1, bad, 2, 3, 4], dtype.numpy)
        yield error(f"position-{bad}-{dtype.name}", Status.BAD_PARAM, "pos_ids", at="run", pos_ids=positions)
    last = np.zeros((3, 6), np.int32)
    last[2, 5] = 10
    yield error("position-of-the-last-batch", Status.BAD_PARAM, "pos_ids", at="run", pos_ids=last, **batched)


rope = Operator(
    name="rope",
    symbol="RoPE",
    summary="Rotary position embedding of whole heads.",
    axes={
        "batch": "sequences: one leading axis, or none",
        "b": "sequences that have positions of their own",
        "s": "tokens of a sequence",
        "h": "heads",
        "d": "head size",
        "rows": "positions in the tables",
        "half": "angles: half the head size",
    },
    dtypes={"T": FLOATS64, "P": INTEGERS},
    tensors=(
        Tensor("y", Role.OUT, "*batch s h d", "T", Strides.UNIT_LAST, "result", rank=(3, 4)),
        Tensor("x", Role.IN, "*batch s h d", "T", Strides.UNIT_LAST, "queries or keys", rank=(3, 4)),
        Tensor("pos_ids", Role.IN, "s | b s", "P", doc="position of each token; without b, of every sequence"),
        Tensor("sin_table", Role.IN, "rows half", "T", Strides.CONTIGUOUS, "sines by position and angle"),
        Tensor("cos_table", Role.IN, "rows half", "T", Strides.CONTIGUOUS, "cosines by position and angle"),
    ),
    attrs=(
        Attr(
            "algo",
            "infiniopRoPEAlgo_t",
            default="GPT_NEOX",
            enum=("GPT_J", "GPT_NEOX"),
            doc="which elements pair up: neighbours (GPT_J) or the two halves (GPT_NEOX)",
        ),
    ),
    constraints=(
        Constraint("0 <= algo and algo < 2", "algo", "GPT_J (0) or GPT_NEOX (1)", Status.NULL_POINTER),
        Constraint("d == 2 * half", "sin_table", "half as many columns as the head has elements"),
        Constraint("rank(pos_ids) == 1 or b == size(batch)", "pos_ids", "one row for each sequence"),
    ),
    aliases=(("y", "x"),),
    semantics=(
        "For each pair (p, q) of a head's elements and the angle i of the token's position: y_p = x_p * cos_i - x_q * "
        "sin_i and y_q = x_p * sin_i + x_q * cos_i (Su et al. 2021, arXiv:2104.09864).",
        "Pair i is (2i, 2i + 1) for GPT_J and (i, i + d / 2) for GPT_NEOX.",
        "A position outside the tables is BAD_PARAM on the CPU, before anything is written; other devices skip it.",
        "F16 and BF16 are computed in f32, F32 and F64 in their own type; one rounding at the store.",
        "y may be x, with the same strides.",
        "Without elements nothing is touched.",
    ),
    tolerances=tolerances(f32=(5e-7, 1e-6), f64=(1e-13, 1e-13), half_atol=1e-4),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
)
