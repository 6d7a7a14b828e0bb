"""topk: the largest or smallest entries along one axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS,
    I32,
    I64,
    U8,
    Attr,
    Constraint,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, padded, uniform

from ._samples import Errors, column_major, special


def reference(values_output, indices_output, input, k, dim, largest, sorted) -> None:
    x = np.moveaxis(input, dim, -1).astype(np.float64)
    nan = np.isnan(x)
    # NaN counts as the largest number; the sort is stable, so that the lower index wins.
    order = np.lexsort((-x, ~nan) if largest else (x, nan), axis=-1)[..., :k]
    indices_output[...] = np.moveaxis(order, -1, dim)
    values_output[...] = np.take_along_axis(input, np.moveaxis(order, -1, dim), dim)


def compare(expected, actual, inputs, attrs) -> str | None:
    """Exact; without `sorted` the pairs may come in any order."""
    dim, reorder = attrs["dim"], not attrs["sorted"]
    indices = {"expected": expected["indices_output"], "actual": actual["indices_output"]}
    values = {"expected": expected["values_output"], "actual": actual["values_output"]}
    if reorder:
        orders = {side: np.argsort(array, axis=dim, kind="stable") for side, array in indices.items()}
        indices = {side: np.take_along_axis(array, orders[side], dim) for side, array in indices.items()}
        values = {side: np.take_along_axis(array, orders[side], dim) for side, array in values.items()}
    for name, sides in (("indices_output", indices), ("values_output", values)):
        want, got = (sides[side].astype(np.float64) for side in ("expected", "actual"))
        wrong = np.argwhere((want != got) & ~(np.isnan(want) & np.isnan(got)))
        if len(wrong):
            place = tuple(int(i) for i in wrong[0])
            return f"{name} at {list(place)}: expected {want[place]:g}, got {got[place]:g}"
    return None


def _sample(
    rng, name, dtype, shape, k, dim, largest=True, sorted=True, strides=(None, None, None), index=I32, ties=False
):
    out = tuple(k if i == dim else n for i, n in enumerate(shape))
    x = uniform(rng, shape, dtype, -4, 4, strides[2])
    if ties:
        x[...] = np.rint(x.astype(np.float32)).astype(x.dtype)
    tensors = {
        "values_output": empty(out, dtype, strides[0]),
        "indices_output": empty(out, index, strides[1]),
        "input": x,
    }
    attrs = {"k": k, "dim": dim, "largest": largest, "sorted": sorted}
    return Sample(f"{dtype.name}-{name}", tensors, attrs)


_CASES = (
    ((6, 8), 1, 1), ((8, 4), 3, 0), ((5, 5), 5, 1), ((3, 7), 2, 1), ((10, 3), 4, 0), ((2, 16), 5, 1), ((1,), 1, 0),
    ((17,), 17, 0), ((33,), 1, 0), ((64,), 63, 0), ((65,), 64, 0), ((257,), 8, 0), ((1025,), 50, 0), ((3, 5, 9), 4, 1),
    ((2, 3, 4, 5), 2, 2), ((4, 1, 6), 1, 1), ((129, 3), 16, 0),
)  # fmt: skip


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape, k, dim in _CASES:
            for largest in (True, False):
                name = f"{'x'.join(map(str, shape))}-{k}-of-axis-{dim}-{'largest' if largest else 'smallest'}"
                yield _sample(rng, name, dtype, shape, k, dim, largest)
                yield _sample(rng, f"{name}-ties", dtype, shape, k, dim, largest, ties=True)
                yield _sample(rng, f"{name}-unsorted", dtype, shape, k, dim, largest, False, ties=True)
        yield _sample(rng, "i64", dtype, (7, 33), 5, 1, index=I64)
        yield _sample(rng, "row-gaps", dtype, (8, 4), 3, 1, strides=(None, None, (16, 1)))
        rows = {"values": (9, 2), "indices": (20, 3), "input": (70, 2)}
        yield _sample(rng, "all-gaps", dtype, (7, 33), 4, 1, strides=tuple(rows.values()))
        yield _sample(
            rng, "column-major", dtype, (7, 33), 4, 1, strides=(column_major((7, 4)), None, column_major((7, 33)))
        )
        yield _sample(rng, "reversed", dtype, (7, 33), 4, 1, strides=(None, (4, 1), (33, -1)))
        yield _sample(rng, "padded-3d", dtype, (3, 17, 5), 6, 1, strides=(padded((3, 6, 5)), None, padded((3, 17, 5))))
        yield _sample(rng, "broadcast-rows", dtype, (5, 17), 3, 1, strides=(None, None, (0, 1)))
        yield _sample(rng, "one-value", dtype, (5, 17), 3, 1, strides=(None, None, (0, 0)))
        yield _sample(rng, "k-0", dtype, (5, 17), 0, 1)
        yield _sample(rng, "no-rows", dtype, (0, 17), 3, 1)
        yield _sample(rng, "no-entries", dtype, (3, 0), 0, 1)
        yield _sample(rng, "vocabulary", dtype, (4, 32000), 50, 1)
        yield _sample(rng, "vocabulary-half", dtype, (1, 32000), 16000, 1, ties=True)
        for largest in (True, False):
            values = np.concatenate([special(dtype), special(dtype)])[rng.permutation(2 * len(special(dtype)))]
            mixed = _sample(rng, f"special-{largest}", dtype, values.shape, 20, 0, largest)
            yield Sample(mixed.name, {**mixed.tensors, "input": values}, mixed.attrs, frozenset({"nan"}))
            late = _sample(rng, f"late-nan-{largest}", dtype, (2, 1000), 3, 1, largest)
            late.array("input")[:, 900] = np.nan
            yield Sample(late.name, late.tensors, late.attrs, frozenset({"nan"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _sample(rng, "", F32, (5, 9), 3, 1)
    error = Errors(good.tensors, good.attrs)
    yield from error.nulls()
    yield error(
        "integers", Status.BAD_TENSOR_DTYPE, "values_output", values_output=empty((5, 3), I32), input=empty((5, 9), I32)
    )
    yield error("input-dtype", Status.BAD_TENSOR_DTYPE, "input", input=empty((5, 9), F16))
    yield error("indices-u8", Status.BAD_TENSOR_DTYPE, "indices_output", indices_output=empty((5, 3), U8))
    yield error("values-extent", Status.BAD_TENSOR_SHAPE, "values_output", values_output=empty((5, 4), F32),
                indices_output=empty((5, 4), I32))  # fmt: skip
    yield error("indices-extent", Status.BAD_TENSOR_SHAPE, "indices_output", indices_output=empty((5, 4), I32))
    yield error("indices-rank", Status.BAD_TENSOR_SHAPE, "indices_output", indices_output=empty((5, 3, 1), I32))
    yield error("input-rows", Status.BAD_TENSOR_SHAPE, "input", input=empty((6, 9), F32))
    yield error("input-rank", Status.BAD_TENSOR_SHAPE, "input", input=empty((5, 9, 1), F32))
    wide = {"values_output": empty((5, 10), F32), "indices_output": empty((5, 10), I32)}
    yield error("k-beyond", Status.BAD_PARAM, "k", attrs={"k": 10}, **wide)
    yield error("dim-beyond", Status.BAD_PARAM, "dim", attrs={"dim": 2}, input=empty((5, 3), F32))
    yield error("dim-huge", Status.BAD_PARAM, "dim", attrs={"dim": 2**64 - 1}, input=empty((5, 3), F32))
    yield error(
        "values-broadcast", Status.BAD_TENSOR_STRIDES, "values_output", values_output=empty((5, 3), F32, (0, 1))
    )
    yield error(
        "indices-broadcast", Status.BAD_TENSOR_STRIDES, "indices_output", indices_output=empty((5, 3), I32, (0, 1))
    )


topk = Operator(
    name="topk",
    symbol="TopK",
    summary="The largest or smallest entries along one axis.",
    axes={
        "before": "axes before dim",
        "after": "axes after dim",
        "n": "entries to choose from",
        "count": "entries chosen, k",
    },
    dtypes={"T": FLOATS, "I": (I32, I64)},
    group_rank={"before": "max(0, min(dim, rank(input) - 1))"},
    tensors=(
        Tensor("values_output", Role.OUT, "*before count *after", "T", doc="the entries"),
        Tensor("indices_output", Role.OUT, "*before count *after", "I", doc="where they are along dim"),
        Tensor("input", Role.IN, "*before n *after", "T", doc="what to choose from"),
    ),
    attrs=(
        Attr("k", "size_t", "both", doc="how many"),
        Attr("dim", "size_t", "both", doc="the axis, counted from 0"),
        Attr("largest", "bool", "both", True, "the largest, else the smallest"),
        Attr("sorted", "bool", "both", True, "best first, else in any order"),
    ),
    constraints=(
        Constraint("dim >= 0 and dim < rank(input)", "dim", "an axis of input", Status.BAD_PARAM),
        Constraint("k >= 0 and k <= n", "k", "at most the entries along dim", Status.BAD_PARAM),
        Constraint("count == k", "values_output", "k entries along dim"),
    ),
    infer={"count": "k", "I": "I32"},
    semantics=(
        "values_output holds the k largest (or smallest) entries of input along dim, indices_output their positions.",
        "Sorted: descending for the largest, ascending for the smallest; else in any order.",
        "Among equal entries the lower index is chosen, and comes first. NaN counts as larger than every number.",
        "The attributes given at run repeat those given at create; others are BAD_PARAM.",
    ),
    reference=reference,
    compare=compare,
    samples=samples,
    error_samples=error_samples,
)
