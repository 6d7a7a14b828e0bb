"""linear: y = x Wᵀ + bias with a plain or packed weight; linear_pack and linear_packed_size make packed weights."""

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
    I64,
    U8,
    Attr,
    BadValue,
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
from infiniop.schema.samples import Call, empty, layout, padded, uniform

from ._floats import f64, store
from ._packed import HEADER_BYTES, ROW_MAJOR, Header, row_major_bytes
from ._samples import Errors
from .gemm import TOLERANCES

OWN_DTYPE, INT8, INT4 = range(3)
"""Formats of a packed weight."""


def reference(y, x, weight, bias) -> None:
    if weight.ndim == 1:
        weight = _unpack(weight, y.shape[1], x.shape[1], x.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        result = f64(x) @ f64(weight).T
        store(y, result if bias is None else result + f64(bias))


def _unpack(packed: np.ndarray, n: int, k: int, expected: np.dtype) -> np.ndarray:
    header = Header.read(packed)
    if header.layout != ROW_MAJOR:
        raise BadValue("weight", f"layout {ROW_MAJOR}, packed by this backend", f"layout {header.layout}")
    for name, want in (("n", n), ("k", k), ("dtype", dtype_of(expected).code), ("format", OWN_DTYPE)):
        if getattr(header, name) != want:
            raise BadValue("weight", f"a packed weight with {name} {want}", f"{getattr(header, name)}")
    size = HEADER_BYTES + n * k * expected.itemsize
    if len(packed) < size:
        raise BadValue("weight", f"{size} bytes", f"{len(packed)}")
    return packed[HEADER_BYTES:size].view(expected).reshape(n, k)


def pack_reference(packed, weight, scales, zeros, format, group_size) -> None:
    _check_format(format)
    n, k = weight.shape
    size = row_major_bytes(weight)
    if len(packed) < size:
        raise BadValue("packed", f"{size} bytes, as linear_packed_size says", f"{len(packed)}")
    Header(format, n, k, group_size, dtype_of(weight.dtype).code).write(packed)
    packed[HEADER_BYTES:size] = np.frombuffer(np.ascontiguousarray(weight).tobytes(), np.uint8)


def size_reference(size, weight, format, group_size) -> None:
    _check_format(format)
    size[...] = row_major_bytes(weight)


def _check_format(format: int) -> None:
    if format != OWN_DTYPE:
        raise NotImplementedError(f"format: expected {OWN_DTYPE}, the weight's own dtype, got {format}")


def pack(call: Call, weight: np.ndarray) -> np.ndarray:
    """`weight` packed by the backend that `call` runs on."""
    attrs = {"format": OWN_DTYPE, "group_size": 0}
    size = empty((), I64)
    call("linear_packed_size", {"size": size, "weight": weight}, attrs)
    packed = empty((int(size),), U8)
    call("linear_pack", {"packed": packed, "weight": weight, "scales": None, "zeros": None}, attrs)
    return packed


# ---- linear -------------------------------------------------------------------------------------------------


def _row_major(weight: np.ndarray) -> np.ndarray:
    packed = empty((row_major_bytes(weight),), U8)
    pack_reference(packed, weight, None, None, OWN_DTYPE, 0)
    return packed


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


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    def plain_and_packed(name, tensors, tags=frozenset()):
        yield Sample(name, tensors, tags=tags)
        weight = tensors["weight"]
        changed = {**tensors, "weight": _row_major(weight)}
        yield Sample(f"{name}-packed", changed, tags=tags, prepare=lambda call: {"weight": pack(call, weight)})

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


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, 3, 5, 4)
    error = Errors(good)
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
    for name, packed in _bad_packed(good["weight"]):
        yield error(f"packed-{name}", Status.BAD_PARAM, "weight", at="run", weight=packed)


def _bad_packed(weight: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Packed weights that every backend must refuse for [5, 4] in F32."""
    good = _row_major(weight)
    header = Header.read(good)
    room = np.concatenate([good, np.zeros(4096, np.uint8)])
    yield "empty", empty((0,), U8)
    yield "short-header", good[:63].copy()
    yield "header-only", good[:64].copy()
    yield "zeros", np.zeros_like(room)
    for name, changes in (
        ("foreign-layout", {"layout": 0x7FFFFFFF}), ("n", {"n": 6}), ("k", {"k": 3}), ("n-negative", {"n": -5}),
        ("n-huge", {"n": 2**62}), ("dtype", {"dtype": F16.code}), ("format", {"format": 9}),
    ):  # fmt: skip
        changed = room.copy()
        dataclasses.replace(header, **changes).write(changed)
        yield name, changed
    for name, byte in (("magic", 0), ("version", 8)):
        changed = room.copy()
        changed[byte] += 1
        yield name, changed


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
    constraints=(
        Constraint(
            "(W == T and rank(weight) == 2) or (W == U8 and rank(weight) == 1)", "weight",
            "the dtype of x with rank 2, or packed bytes (U8) with rank 1", Status.BAD_TENSOR_DTYPE,
        ),
    ),
    infer={"n": "out_features"},
    semantics=(
        "y = x Wᵀ + bias, without bias y = x Wᵀ. Sums are f32; the result is rounded to nearest even once.",
        "A packed weight was made by linear_pack on the same backend, of a weight with the dtype of x. Any other "
        "buffer (a foreign layout, other extents, another dtype, too short) is BAD_PARAM where its header can be "
        "read, before anything is written. Its out_features come from y.",
        "Without terms (k == 0) y is the bias, or 0. y must not overlap the other tensors.",
    ),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
    tolerances=TOLERANCES,
    own=True,
)  # fmt: skip


# ---- linear_pack and linear_packed_size -----------------------------------------------------------------------

_PACK_SIZES = ((1, 1), (1, 64), (7, 3), (8, 16), (17, 15), (33, 129), (64, 64), (257, 40), (0, 5), (5, 0))
_PACK_AXES = {"n": "output features", "k": "input features"}
_PACK_ATTRS = (
    Attr("format", "int", default=OWN_DTYPE, doc="0: the weight's own dtype, 1: int8, 2: int4"),
    Attr("group_size", "size_t", default=0, doc="elements of a row that share a scale; 0: the whole row"),
)
_GROUPS = (
    Constraint("format in (0, 1, 2)", "format", "0 (the weight's own dtype), 1 (int8) or 2 (int4)", Status.BAD_PARAM),
    Constraint(
        "group_size == 0 or (format > 0 and group_size > 0 and k % group_size == 0)", "group_size",
        "0, or with int8 and int4 a divisor of the input features", Status.BAD_PARAM,
    ),
)  # fmt: skip
_FORMATS = "int8 and int4 are shaped here for a later version: NOT_IMPLEMENTED."


def _weights(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    for dtype in FLOATS:
        for shape in _PACK_SIZES:
            yield f"{dtype.name}-{shape[0]}x{shape[1]}", uniform(rng, shape, dtype)
        gaps = layout((9, 33), (50, 1), dtype)
        gaps[...] = uniform(rng, (9, 33), dtype)
        yield f"{dtype.name}-row-gaps", gaps


def pack_samples(rng: np.random.Generator) -> Iterator[Sample]:
    attrs = {"format": OWN_DTYPE, "group_size": 0}

    def sized(weight):
        def prepare(call: Call):
            size = empty((), I64)
            call("linear_packed_size", {"size": size, "weight": weight}, attrs)
            return {"packed": empty((int(size),), U8)}

        return prepare

    for name, weight in _weights(rng):
        packed = empty((row_major_bytes(weight),), U8)
        tensors = {"packed": packed, "weight": weight, "scales": None, "zeros": None}
        yield Sample(name, tensors, attrs, prepare=sized(weight))


def compare_packed(expected, actual, inputs, attrs) -> str | None:
    """The header, but for the layout; the rest is the backend's own."""
    try:
        want, got = (Header.read(side["packed"]) for side in (expected, actual))
    except BadValue as error:
        return f"packed: {error}"
    return None if dataclasses.replace(got, layout=want.layout) == want else f"packed: expected {want}, got {got}"


def pack_error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    weight = uniform(rng, (5, 8), F32)
    attrs = {"format": OWN_DTYPE, "group_size": 0}
    error = Errors({"packed": empty((4096,), U8), "weight": weight, "scales": None, "zeros": None}, attrs)
    for name in ("packed", "weight"):
        yield error(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
        yield error(f"null-pointer-{name}", Status.NULL_POINTER, name, at="run", null=[name])
    yield error("packed-i8", Status.BAD_TENSOR_DTYPE, "packed", packed=empty((4096,), I8))
    yield error("packed-rank", Status.BAD_TENSOR_SHAPE, "packed", packed=empty((64, 64), U8))
    yield error("packed-stride", Status.BAD_TENSOR_STRIDES, "packed", packed=empty((4096,), U8, (2,)))
    for bytes_ in (1, 63, 64, 100):
        yield error(f"packed-{bytes_}-bytes", Status.BAD_PARAM, "packed", at="run", packed=empty((bytes_,), U8))
    yield error("weight-i32", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 8), I32))
    yield error("weight-rank", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((40,), F32))
    yield error("weight-stride", Status.BAD_TENSOR_STRIDES, "weight", weight=empty((5, 8), F32, (20, 2)))
    scales = empty((5, 2), F32)
    quantised = {"weight": empty((5, 8), I8), "scales": scales}
    for format in (-1, 3):
        yield error(f"format-{format}", Status.BAD_PARAM, "format", attrs={"format": format})
    for group_size in (3, 16, 2**64 - 1):
        yield error(
            f"group-{group_size}", Status.BAD_PARAM, "group_size", attrs={"format": INT8, "group_size": group_size}
        )
    yield error("group-of-own-dtype", Status.BAD_PARAM, "group_size", attrs={"group_size": 4})
    yield error("integers-in-own-dtype", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 8), I8))
    yield error("integers-without-scales", Status.BAD_PARAM, "scales", attrs={"format": INT8}, weight=empty((5, 8), I8))
    yield error("floats-with-scales", Status.BAD_PARAM, "scales", scales=scales)
    grouped = {"format": INT8, "group_size": 4}
    yield error(
        "scales-extent", Status.BAD_TENSOR_SHAPE, "scales", attrs=grouped, **{**quantised, "scales": empty((5, 3), F32)}
    )
    yield error(
        "scales-rows", Status.BAD_TENSOR_SHAPE, "scales", attrs=grouped, **{**quantised, "scales": empty((4, 2), F32)}
    )
    yield error(
        "scales-dtype", Status.BAD_TENSOR_DTYPE, "scales", attrs=grouped, **{**quantised, "scales": empty((5, 2), I8)}
    )
    yield error("zeros-extent", Status.BAD_TENSOR_SHAPE, "zeros", attrs=grouped, **quantised, zeros=empty((5, 3), I8))
    yield error("zeros-dtype", Status.BAD_TENSOR_DTYPE, "zeros", attrs=grouped, **quantised, zeros=empty((5, 2), F32))
    yield error("zeros-without-scales", Status.BAD_PARAM, "zeros", attrs=grouped, zeros=empty((5, 2), I8))


linear_pack = Operator(
    name="linear_pack",
    symbol="LinearPack",
    summary="Pack a weight into the layout that a backend's linear likes best.",
    axes={
        **_PACK_AXES,
        "groups": "scales per row: k / group_size, or 1",
        "bytes": "size of the packed weight, at least what linear_packed_size says",
    },
    dtypes={"W": (*FLOATS, I8, U8), "S": FLOATS, "Z": (I8, U8)},
    tensors=(
        Tensor("packed", Role.OUT, "bytes", U8.name, Strides.CONTIGUOUS, "header and weight", opaque=True,
               written="the header, and as many bytes as the layout takes"),
        Tensor("weight", Role.IN, "n k", "W", Strides.UNIT_LAST, "floats, or integers (one per byte) with scales"),
        Tensor("scales", Role.IN, "n groups", "S", Strides.UNIT_LAST, "scale of each group", optional=True),
        Tensor("zeros", Role.IN, "n groups", "Z", Strides.UNIT_LAST, "integer that means 0", optional=True),
    ),
    attrs=_PACK_ATTRS,
    constraints=(
        *_GROUPS,
        Constraint("W in (F16, BF16, F32) or format > 0", "weight", "floats", Status.BAD_TENSOR_DTYPE),
        Constraint("W in (F16, BF16, F32) or has(scales)", "scales", "scales of an integer weight", Status.BAD_PARAM),
        Constraint("W in (I8, U8) or not has(scales)", "scales", "none for a float weight", Status.BAD_PARAM),
        Constraint("has(scales) or not has(zeros)", "zeros", "none without scales", Status.BAD_PARAM),
        Constraint(
            "not has(scales) or (group_size == 0 and groups == 1) or groups * group_size == k", "scales",
            "k / group_size columns, or 1",
        ),
    ),
    infer={"bytes": "packed_bytes"},
    semantics=(
        "The caller owns the buffer; linear_packed_size gives its size on the backend at hand.",
        "It begins with 64 bytes, little-endian: 'INFINIPK', u32 version (1), u32 format, i64 n, i64 k, i64 "
        "group_size, u32 dtype of the weight, u32 layout (the backend's own id), zeros. The rest is the backend's "
        "business.",
        "An integer weight q stands for (q - zero) * scale; a float weight is quantised here when the format asks "
        "for it. "
        + _FORMATS,
        "A buffer that is too small is BAD_PARAM, before anything is written.",
    ),
    reference=pack_reference,
    compare=compare_packed,
    samples=pack_samples,
    error_samples=pack_error_samples,
    own=True,
    header="linear.h",
)  # fmt: skip


def size_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, weight in _weights(rng):
        yield Sample(name, {"size": empty((), I64), "weight": weight}, {"format": OWN_DTYPE, "group_size": 0})


def compare_size(expected, actual, inputs, attrs) -> str | None:
    """A layout may pad, but not lose anything."""
    least, got = int(expected["size"]), int(actual["size"])
    return None if got >= least else f"size: expected at least {least}, got {got}"


def size_error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    attrs = {"format": OWN_DTYPE, "group_size": 0}
    error = Errors({"size": empty((), I64), "weight": uniform(rng, (5, 8), F32)}, attrs)
    for name in ("size", "weight"):
        yield error(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
    yield error("null-pointer-size", Status.NULL_POINTER, "size", at="run", null=["size"])
    yield error("size-i32", Status.BAD_TENSOR_DTYPE, "size", size=empty((), I32))
    yield error("size-rank", Status.BAD_TENSOR_SHAPE, "size", size=empty((1,), I64))
    yield error("weight-i32", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 8), I32))
    yield error("weight-rank", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((40,), F32))
    yield error("integers-in-own-dtype", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 8), I8))
    for format in (-1, 3):
        yield error(f"format-{format}", Status.BAD_PARAM, "format", attrs={"format": format})
    for group_size in (3, 2**64 - 1):
        yield error(
            f"group-{group_size}", Status.BAD_PARAM, "group_size", attrs={"format": INT8, "group_size": group_size}
        )


linear_packed_size = Operator(
    name="linear_packed_size",
    symbol="LinearPackedSize",
    summary="Bytes that linear_pack writes for a weight, on the backend at hand.",
    axes=_PACK_AXES,
    dtypes={"W": (*FLOATS, I8, U8)},
    tensors=(
        Tensor("size", Role.OUT, "", I64.name, doc="bytes, the header included"),
        Tensor(
            "weight", Role.IN, "n k", "W", Strides.UNIT_LAST, "weight; only its description is used", null_at_run=True
        ),
    ),
    attrs=_PACK_ATTRS,
    constraints=(
        *_GROUPS,
        Constraint("W in (F16, BF16, F32) or format > 0", "weight", "floats", Status.BAD_TENSOR_DTYPE),
    ),
    semantics=("size is what linear_pack with the same weight and attributes needs; at least 64.", _FORMATS),
    reference=size_reference,
    compare=compare_size,
    samples=size_samples,
    error_samples=size_error_samples,
    own=True,
    header="linear.h",
)
