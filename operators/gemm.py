"""gemm: matrix product with scaled accumulation, batched by broadcasting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS,
    I8,
    Attr,
    Constraint,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, layout, padded, uniform

from ._floats import f64, store, tolerances
from ._samples import Errors, column_major


def _batched(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[None]


def reference(c, a, b, alpha, beta) -> None:
    out = _batched(c)
    with np.errstate(over="ignore", invalid="ignore"):
        result = alpha * np.matmul(f64(_batched(a)), f64(_batched(b)))
        if beta != 0:
            result = result + beta * f64(out)
    store(out, np.broadcast_to(result, out.shape))


def _matrix(rng: np.random.Generator, shape, dtype: DType, kind: str = "row") -> np.ndarray:
    """Uniform in [-1, 1). `kind`: row, column, padded (rows), padded-column, or shared (by the whole batch)."""
    *batch, rows, columns = shape
    if kind in ("column", "padded-column"):
        turned = (*batch, columns, rows)
        strides = padded(turned) if kind == "padded-column" else padded(turned, 0)
        return uniform(rng, shape, dtype, strides=(*strides[:-2], 1, strides[-2]))
    if kind == "shared":
        return uniform(rng, shape, dtype, strides=(0, columns, 1))
    return uniform(rng, shape, dtype, strides=padded(shape) if kind == "padded" else None)


def _sample(rng, dtype, c, a, b, alpha=1.0, beta=0.0, kinds=("row", "row", "row"), name="", integers=False):
    tensors = {n: _matrix(rng, s, dtype, k) for n, s, k in zip("cab", (c, a, b), kinds, strict=True)}
    if integers:
        for array in tensors.values():
            array[...] = np.rint(2 * array.astype(np.float32)).astype(array.dtype)
    name = name or "-".join("x".join(map(str, s)) for s in (a, b))
    return Sample(f"{dtype.name}-{name}", tensors, {"alpha": alpha, "beta": beta})


_SIZES = (
    (1, 1, 1), (1, 16, 8), (2, 7, 3), (3, 15, 17), (4, 33, 31), (5, 8, 64), (7, 65, 9), (8, 31, 33), (16, 64, 64),
    (17, 63, 65), (33, 129, 127), (64, 17, 256), (65, 5, 257), (128, 128, 1), (1, 257, 1), (257, 1, 129),
)  # fmt: skip


def _dtype_samples(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    def sample(m, k, n, **more):
        return _sample(rng, dtype, (m, n), (m, k), (k, n), **more)

    for m, k, n in _SIZES:
        yield sample(m, k, n)
        yield sample(m, k, n, alpha=0.5, beta=-1.5, kinds=("padded", "row", "column"), name=f"b-column-{m}x{k}x{n}")
    for kinds in (("row", "column", "row"), ("column", "row", "row"), ("column", "column", "column"),
                  ("padded-column", "padded", "padded-column"), ("padded", "padded-column", "padded")):  # fmt: skip
        for m, k, n in ((1, 65, 33), (9, 33, 40), (33, 17, 1), (40, 70, 50)):
            yield sample(m, k, n, beta=0.25, kinds=kinds, name=f"{'-'.join(kinds)}-{m}x{k}x{n}")
    yield sample(0, 4, 3, name="no-rows")
    yield sample(4, 0, 3, name="no-terms", beta=2.0)
    yield sample(4, 0, 3, name="no-terms-beta-0")
    yield sample(4, 3, 0, name="no-columns")
    for n in (25, 49):  # one column more than one vector, in a product of many rows
        yield sample(40, 300, n)
    yield sample(6, 512, 48, integers=True, name="integers", beta=1.0)
    yield sample(40, 8300, 41, integers=True, name="integers-long", beta=1.0)
    yield from _batches(rng, dtype)
    broadcast = sample(5, 19, 13, name="row-for-all-rows")
    row = layout((5, 19), (0, 1), dtype)
    row[...] = broadcast.tensors["a"][:1]
    yield Sample(broadcast.name, {**broadcast.tensors, "a": row}, broadcast.attrs)
    garbage = sample(3, 33, 20, name="beta-0-over-nan")
    garbage.tensors["c"][...] = np.nan
    yield Sample(garbage.name, garbage.tensors, garbage.attrs, frozenset({"nan"}))


def _batches(rng: np.random.Generator, dtype: DType) -> Iterator[Sample]:
    def sample(name, c, a, b, **more):
        return _sample(rng, dtype, c, a, b, name=name, **more)

    yield sample("batch", (4, 48, 6), (4, 48, 64), (4, 64, 6), alpha=0.125)
    yield sample("batch-beta", (3, 5, 7), (3, 5, 9), (3, 9, 7), beta=1.0, kinds=("padded", "padded", "padded"))
    yield sample("a-broadcast", (3, 5, 17), (1, 5, 33), (3, 33, 17), kinds=("row", "row", "column"))
    yield sample("b-broadcast-rank-2", (3, 5, 17), (3, 5, 33), (33, 17))
    yield sample("both-rank-2", (3, 5, 17), (5, 33), (33, 17), beta=0.5)
    yield sample("c-rank-2", (5, 17), (1, 5, 33), (1, 33, 17))
    yield sample("a-stride-0", (3, 5, 17), (3, 5, 33), (3, 33, 17), kinds=("row", "shared", "column"))
    yield sample("decode-batch", (8, 1, 33), (8, 1, 64), (8, 64, 33), kinds=("row", "row", "column"))
    yield sample("no-batch", (0, 5, 17), (0, 5, 33), (1, 33, 17))


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        yield from _dtype_samples(rng, dtype)
        large = _sample(rng, dtype, (6, 2560), (6, 2048), (2048, 2560), 1.0, 1.0, ("row", "row", "column"))
        for array in large.tensors.values():
            np.abs(array, out=array)
        yield Sample(large.name, large.tensors, large.attrs, frozenset({"large"}))
        rows = _sample(
            rng, dtype, (1, 2048), (1, 2048), (2048, 2048), kinds=("padded", "padded", "padded"), integers=True
        )
        yield Sample(rows.name, rows.tensors, rows.attrs, frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _sample(rng, F32, (3, 5), (3, 4), (4, 5))
    error = Errors(good.tensors, good.attrs)
    yield from error.nulls()
    yield error("integers", Status.BAD_TENSOR_DTYPE, "c", **{n: empty(t.shape, I8) for n, t in good.tensors.items()})
    for name, array in good.tensors.items():
        if name != "c":
            yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty(array.shape, F16)})
        for rank, shape in ((1, (4,)), (4, (1, 1, *array.shape))):
            yield error(f"{name}-rank-{rank}", Status.BAD_TENSOR_SHAPE, name, **{name: empty(shape, F32)})
        gaps = empty(array.shape, F32, (20, 2))
        yield error(f"{name}-no-unit-stride", Status.BAD_TENSOR_STRIDES, name, **{name: gaps})
    yield error("m", Status.BAD_TENSOR_SHAPE, "a", a=empty((2, 4), F32))
    yield error("k", Status.BAD_TENSOR_SHAPE, "b", b=empty((3, 5), F32))
    yield error("n", Status.BAD_TENSOR_SHAPE, "b", b=empty((4, 6), F32))
    yield error("a-batch", Status.BAD_TENSOR_SHAPE, "a", a=empty((2, 3, 4), F32))
    yield error("b-batch", Status.BAD_TENSOR_SHAPE, "b", c=empty((3, 3, 5), F32), b=empty((2, 4, 5), F32))
    yield error("c-batch-1", Status.BAD_TENSOR_SHAPE, "a", c=empty((1, 3, 5), F32), a=empty((2, 3, 4), F32))
    yield error("c-broadcast", Status.BAD_TENSOR_STRIDES, "c", c=empty((3, 5), F32, (0, 1)))
    yield error("c-broadcast-batch", Status.BAD_TENSOR_STRIDES, "c", c=empty((2, 3, 5), F32, (0, 5, 1)))
    yield error(
        "c-column-broadcast", Status.BAD_TENSOR_STRIDES, "c", c=empty((3, 5), F32, (column_major((3, 5))[0], 0))
    )


# f32 sums of up to some thousand terms: inputs in [-1, 1) cancel, so that a small absolute part is needed; upstream
# compares sums of positive terms only.
TOLERANCES = tolerances(f32=(2e-5, 1e-5), half_atol=2e-5)

gemm = Operator(
    name="gemm",
    symbol="Gemm",
    summary="Matrix product c = alpha a b + beta c.",
    axes={
        "m": "rows of the result",
        "n": "columns of the result",
        "k": "terms of each sum",
        "batch": "products",
        "batch_a": "matrices in a: batch, or 1 for all",
        "batch_b": "matrices in b: batch, or 1 for all",
    },
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("c", Role.OUT, "m n | batch m n", "T", Strides.MATRIX, "result", read_when="beta != 0"),
        Tensor("a", Role.IN, "m k | batch_a m k", "T", Strides.MATRIX, "left operand"),
        Tensor("b", Role.IN, "k n | batch_b k n", "T", Strides.MATRIX, "right operand"),
    ),
    attrs=(
        Attr("alpha", "float", "run", 1.0, "factor of the product"),
        Attr("beta", "float", "run", 0.0, "factor of what c held"),
    ),
    constraints=(
        Constraint("batch_a in (1, batch)", "a", "the batch of c, or 1"),
        Constraint("batch_b in (1, batch)", "b", "the batch of c, or 1"),
    ),
    infer={"batch": "max(batch_a, batch_b)"},
    semantics=(
        "c[g] = alpha * a[g] b[g] + beta * c[g] for every g; an operand with batch 1 serves them all.",
        "A matrix is transposed by its strides: one of its two strides is 1, the other is the leading dimension.",
        "With beta == 0, c is not read: it may hold NaN.",
        "Sums are f32, alpha and beta act in f32, and the result is rounded to nearest even once.",
        "A backend may take subnormal bf16 numbers for 0, as AVX512-BF16 does.",
        "Without terms (k == 0) c = beta * c. c must not overlap a or b.",
    ),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
    tolerances=TOLERANCES,
)
