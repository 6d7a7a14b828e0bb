"""linear: y = x Wᵀ + bias with a plain or a packed weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS,
    I8,
    I32,
    U8,
    Attr,
    Constraint,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema import dtype as dtype_of
from infiniop.schema.samples import Call, empty, padded, uniform

from . import _packed, linear_pack
from ._floats import f64, store
from ._packed import INT4, INT8, OWN_DTYPE, Header
from ._samples import Errors
from .gemm import TOLERANCES
from .linear_pack import Weight

STEPS = {16: 65_000, 8: 250}
"""x is off by at most 1 / STEPS[activation_bits] of the largest |x| of its block."""
BLOCK = 128
"""Elements of x that are rounded together, at most; a block lies within a group."""


def reference(y, x, weight, bias, activation_bits=16) -> None:
    if weight.ndim == 1:
        weight = _packed.read(weight, y.shape[1], x.shape[1], x.dtype).values
    with np.errstate(over="ignore", invalid="ignore"):
        result = f64(x) @ f64(weight).T
        store(y, result if bias is None else result + f64(bias))


def compare(expected, actual, inputs, attrs) -> str | None:
    """Within the tolerance of the dtype, and with int8 and int4 weights what rounding x may add."""
    want, got = f64(expected["y"]), f64(actual["y"])
    absolute, relative = TOLERANCES[dtype_of(expected["y"].dtype)]
    with np.errstate(invalid="ignore", over="ignore"):
        rounding = _rounding_of_x(inputs, want.shape[1], attrs["activation_bits"])
        bound = absolute + relative * np.abs(want) + rounding
        wrong = ~((np.abs(got - want) <= bound) | (want == got) | (np.isnan(want) & np.isnan(got)))
        wrong &= np.isfinite(rounding) | np.isfinite(got)
    if not wrong.any():
        return None
    at = tuple(np.argwhere(wrong)[0].tolist())
    return (
        f"y: {wrong.sum()} of {wrong.size} elements differ, the first at {list(at)}: expected {want[at]}, "
        f"got {got[at]}, allowed difference {bound[at]:.3g}"
    )


def _rounding_of_x(inputs, n: int, bits: int) -> np.ndarray:
    """[m, n]: over the blocks, max |x| * sum |w| / STEPS. Not finite where a row of x is not."""
    x, packed = inputs["x"], inputs["weight"]
    k = x.shape[1]
    unpacked = _packed.read(packed, n, k, x.dtype) if packed.ndim == 1 else None
    if unpacked is None or unpacked.group is None or not k:
        return np.zeros((len(x), n))
    group = np.arange(k) // unpacked.group
    starts = np.flatnonzero(np.diff(group, prepend=-1) | (np.arange(k) % unpacked.group % BLOCK == 0))
    largest = np.maximum.reduceat(np.abs(f64(x)), starts, axis=1)
    sums = np.add.reduceat(np.abs(unpacked.values), starts, axis=1)
    return largest @ sums.T / STEPS[bits]


def _arguments(rng, dtype, m, n, k, bias=True, gap=0, scale=1.0):
    def rows(*shape):
        return uniform(rng, shape, dtype, -scale, scale, padded(shape, gap))

    return {
        "y": rows(m, n),
        "x": rows(m, k),
        "weight": rows(n, k),
        "bias": uniform(rng, (n,), dtype) if bias else None,
    }


_SIZES = (
    (1, 1, 1), (1, 8, 16), (1, 64, 64), (1, 257, 129), (2, 7, 3), (3, 17, 15), (4, 31, 33), (5, 64, 8), (7, 9, 65),
    (8, 33, 31), (16, 64, 64), (17, 65, 63), (33, 127, 129), (64, 256, 17), (65, 257, 5), (128, 1, 128),
)  # fmt: skip


_QUANTISED_ROWS = (1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 40)


def _packed_sample(
    name: str, tensors: dict, weight: Weight, bits: int = 16, tags: frozenset[str] = frozenset()
) -> Sample:
    """`weight` in place of the plain one, packed by the backend at hand."""

    def prepare(call: Call):
        return {"weight": linear_pack.packed_by(call, weight)}

    changed = {**tensors, "weight": linear_pack.packed_by_reference(weight)}
    return Sample(name, changed, {"activation_bits": bits}, tags, prepare)


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """A weight of bytes is one that the backend at hand has packed."""
    if sample.array("weight").ndim == 2:
        return sample
    (_, n), (_, k) = sample.array("y").shape, sample.array("x").shape
    format = int(rng.choice([OWN_DTYPE, INT8, INT4]))
    dtype = dtype_of(sample.array("x").dtype) if format == OWN_DTYPE else F32
    weight = Weight(uniform(rng, (n, k), dtype), format=format)
    bits = sample.attrs["activation_bits"]
    assert isinstance(bits, int)
    return _packed_sample(sample.name, dict(sample.tensors), weight, bits)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    def plain_and_packed(name, tensors, tags=frozenset()):
        yield Sample(name, tensors, {"activation_bits": 16}, tags)
        yield _packed_sample(f"{name}-packed", tensors, Weight(tensors["weight"]), tags=tags)

    for dtype in FLOATS:
        for m, n, k in _SIZES:
            for bias in (False, True):
                name = f"{dtype.name}-{m}x{n}x{k}{'-bias' if bias else ''}"
                yield from plain_and_packed(name, _arguments(rng, dtype, m, n, k, bias))
        for name, m, n, k in (("no-rows", 0, 3, 4), ("no-columns", 3, 0, 4), ("no-terms", 3, 5, 0)):
            yield from plain_and_packed(f"{dtype.name}-{name}", _arguments(rng, dtype, m, n, k))
        for m in (1, 6):
            yield from plain_and_packed(f"{dtype.name}-row-gaps-{m}", _arguments(rng, dtype, m, 40, 33, gap=5))
        one_row = _arguments(rng, dtype, 4, 20, 33)
        one_row["x"] = uniform(rng, (4, 33), dtype, strides=(0, 1))
        yield from plain_and_packed(f"{dtype.name}-one-row-for-all", one_row)
        large = _arguments(rng, dtype, 3, 1000, 2048, scale=0.25)
        yield from plain_and_packed(f"{dtype.name}-3x1000x2048", large, frozenset({"large"}))
    yield from _quantised_samples(rng)


def _quantised_samples(rng: np.random.Generator) -> Iterator[Sample]:
    """Every weight with a few rows, then with many: dtypes of x, bits, bias and gaps take turns."""
    for i, (name, weight) in enumerate(linear_pack.quantised(rng)):
        n, k = weight.weight.shape
        for m in (_QUANTISED_ROWS[i % 9], 17 + i % 20):
            dtype, bits = FLOATS[i % 3], (16, 8)[(i + m) % 2]
            tensors = _arguments(rng, dtype, m, n, k, bias=i % 2 == 0, gap=i % 3)
            yield _packed_sample(f"{name}-{dtype.name}-{m}-rows-{bits}-bits", tensors, weight, bits)
    for format in (INT8, INT4):
        weight = linear_pack.integers(rng, 45, 256, 64, format, U8, F16, U8)
        for m in _QUANTISED_ROWS:
            for dtype in FLOATS:
                for bits in (16, 8):
                    name = f"format-{format}-{dtype.name}-{m}-rows-{bits}-bits"
                    yield _packed_sample(name, _arguments(rng, dtype, m, 45, 256), weight, bits)
        for m in (3, 20):
            name = f"format-{format}-{m}-rows"
            spoiled = _arguments(rng, F32, m, 45, 256)
            spoiled["x"][0, 70], spoiled["x"][1, 255] = np.inf, np.nan
            yield _packed_sample(f"{name}-infinity-and-nan", spoiled, weight, tags=frozenset({"nan"}))
            small = _arguments(rng, F32, m, 45, 256, scale=1e-38)
            yield _packed_sample(f"{name}-tiny-x", small, weight)
            huge = _arguments(rng, F32, m, 45, 256, scale=1e35)
            yield _packed_sample(f"{name}-huge-x", huge, weight)
        none = _arguments(rng, F32, 0, 45, 256)
        yield _packed_sample(f"format-{format}-no-rows", none, weight)


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, 3, 5, 4)
    error = Errors(good, {"activation_bits": 16})
    yield from error.nulls(optional=("bias",))
    yield error("integers", Status.BAD_TENSOR_DTYPE, "y", y=empty((3, 5), I32))
    yield error("x-dtype", Status.BAD_TENSOR_DTYPE, "x", x=empty((3, 4), F16))
    yield error("bias-dtype", Status.BAD_TENSOR_DTYPE, "bias", bias=empty((5,), F16))
    yield error("weight-dtype", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 4), F16))
    yield error("weight-i8", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 4), I8))
    yield error("weight-bytes-of-rank-2", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 4), U8))
    yield error("weight-floats-of-rank-1", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((20,), F32))
    yield error("m", Status.BAD_TENSOR_SHAPE, "x", x=empty((2, 4), F32))
    yield error("k", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((5, 3), F32))
    yield error("n", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((6, 4), F32))
    yield error("bias-extent", Status.BAD_TENSOR_SHAPE, "bias", bias=empty((4,), F32))
    for name, shape in (("y", (1, 3, 5)), ("x", (12,)), ("weight", (1, 5, 4)), ("bias", (1, 5))):
        yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: empty(shape, F32)})
    for name, shape in (("y", (3, 5)), ("x", (3, 4)), ("weight", (5, 4))):
        gaps = empty(shape, F32, (20, 2))
        yield error(f"{name}-last-stride", Status.BAD_TENSOR_STRIDES, name, **{name: gaps})
    yield error("bias-stride", Status.BAD_TENSOR_STRIDES, "bias", bias=empty((5,), F32, (2,)))
    yield error("y-broadcast", Status.BAD_TENSOR_STRIDES, "y", y=empty((3, 5), F32, (0, 1)))
    yield error("packed-stride", Status.BAD_TENSOR_STRIDES, "weight", weight=empty((200,), U8, (2,)))
    for bits in (-1, 0, 4, 32):
        yield error(f"{bits}-bits", Status.BAD_PARAM, "activation_bits", attrs={"activation_bits": bits})
    for name, packed in _bad_packed(good["weight"]):
        yield error(f"packed-{name}", Status.BAD_PARAM, "weight", at="run", weight=packed)


def _bad_packed(weight: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Packed weights that every backend must refuse for [5, 4] in F32."""
    good = linear_pack.packed_by_reference(Weight(weight))
    yield "empty", empty((0,), U8)
    yield "short-header", good[:63].copy()
    yield "header-only", good[:64].copy()
    room = np.concatenate([good, np.zeros(4096, np.uint8)])
    yield "zeros", np.zeros_like(room)

    def changed(packed: np.ndarray, **fields: int) -> np.ndarray:
        result = np.concatenate([packed, np.zeros(4096, np.uint8)])
        dataclasses.replace(Header.read(packed), **fields).write(result)
        return result

    for name, fields in (
        ("foreign-layout", {"layout": 0x7FFFFFFF}), ("n", {"n": 6}), ("k", {"k": 3}), ("n-negative", {"n": -5}),
        ("n-huge", {"n": 2**62}), ("dtype", {"dtype": F16.code}), ("format", {"format": 9}),
        ("group", {"group_size": 2}), ("int8-of-floats", {"format": INT8}),
    ):  # fmt: skip
        yield name, changed(good, **fields)
    for name, byte in (("magic", 0), ("version", 8)):
        spoiled = room.copy()
        spoiled[byte] += 1
        yield name, spoiled
    for format in (INT8, INT4):
        good = linear_pack.packed_by_reference(Weight(weight, format=format, group_size=2))
        yield f"format-{format}-short", good[:-1].copy()
        for name, fields in (
            ("n", {"n": 6}), ("k", {"k": 2}), ("group-3", {"group_size": 3}), ("group-negative", {"group_size": -2}),
            ("group-huge", {"group_size": 2**62}), ("foreign-layout", {"layout": 0x7FFFFFFF}),
            ("dtype", {"dtype": I32.code}), ("own-dtype", {"format": OWN_DTYPE}),
        ):  # fmt: skip
            yield f"format-{format}-{name}", changed(good, **fields)


linear = Operator(
    name="linear",
    symbol="Linear",
    summary="Linear layer: y = x Wᵀ + bias.",
    axes={
        "m": "rows (tokens)",
        "n": "output features",
        "k": "input features",
        "bytes": "size of the packed weight, as linear_packed_size says",
    },
    dtypes={"T": FLOATS, "W": (*FLOATS, U8)},
    tensors=(
        Tensor("y", Role.OUT, "m n", "T", Strides.UNIT_LAST, "result"),
        Tensor("x", Role.IN, "m k", "T", Strides.UNIT_LAST, "rows"),
        Tensor("weight", Role.IN, "n k | bytes", "W", Strides.UNIT_LAST, "weight, or what linear_pack made of it"),
        Tensor("bias", Role.IN, "n", "T", Strides.CONTIGUOUS, "added to every row", optional=True),
    ),
    attrs=(
        Attr("activation_bits", "int", default=16,
             doc="with an int8 or int4 weight: the bits to which x may be rounded, 16 or 8"),
    ),
    constraints=(
        Constraint("activation_bits in (8, 16)", "activation_bits", "8 or 16", Status.BAD_PARAM),
        Constraint(
            "(W == T and rank(weight) == 2) or (W == U8 and rank(weight) == 1)", "weight",
            "the dtype of x with rank 2, or packed bytes (U8) with rank 1", Status.BAD_TENSOR_DTYPE,
        ),
    ),
    infer={"n": "out_features"},
    semantics=(
        "y = x Wᵀ + bias, without bias y = x Wᵀ. Sums are f32; the result is rounded to nearest even once. "
        "A backend may take subnormal bf16 numbers for 0, as AVX512-BF16 does.",
        "A packed weight was made by linear_pack on the same backend, of a weight with the dtype of x, or as int8 or "
        "int4 for any dtype of x. Any other buffer (a foreign layout, other extents, another dtype, too short) is "
        "BAD_PARAM where its header can be read, before anything is written. Its out_features come from y.",
        "An int8 or int4 weight counts as the numbers that linear_pack says. A backend may round x to "
        "activation_bits: then a result lies within the tolerance of its dtype plus the sum, over blocks of at most "
        f"{BLOCK} neighbours within a group, of max |x| * sum |w| / {STEPS[16]}, with 8 bits / {STEPS[8]}. 16 bits "
        "add about 2e-5 of a typical result, a hundredth of what rounding it to bf16 does; 8 bits about 5e-3.",
        "With an int8 or int4 weight an infinity or NaN in a row of x gives infinities and NaN in that row of y: which "
        "of them is open.",
        "Without terms (k == 0) y is the bias, or 0. y must not overlap the other tensors.",
    ),
    reference=reference,
    complete=complete,
    compare=compare,
    samples=samples,
    error_samples=error_samples,
    tolerances=TOLERANCES,
    own=True,
)  # fmt: skip
