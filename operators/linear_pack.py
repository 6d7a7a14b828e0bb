"""linear_pack makes packed weights for linear, in their own dtype, int8 or int4; linear_packed_size says how large."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import Call, empty, layout, uniform

from . import _packed
from ._packed import INT4, INT8, OWN_DTYPE, Header, group_count
from ._samples import Errors


@dataclass(frozen=True)
class Weight:
    """What is packed, and how."""

    weight: np.ndarray
    scales: np.ndarray | None = None
    zeros: np.ndarray | None = None
    format: int = OWN_DTYPE
    group_size: int = 0

    @property
    def tensors(self) -> dict[str, np.ndarray | None]:
        return {"weight": self.weight, "scales": self.scales, "zeros": self.zeros}

    @property
    def attrs(self) -> dict[str, int]:
        return {"format": self.format, "group_size": self.group_size}

    @property
    def least_bytes(self) -> int:
        return _packed.packed_bytes(self.weight, self.scales, self.zeros, self.format, self.group_size)


def pack_reference(packed, weight, scales, zeros, format, group_size) -> None:
    _packed.write(packed, weight, scales, zeros, format, group_size)


def size_reference(size, weight, scales, zeros, format, group_size) -> None:
    size[...] = _packed.packed_bytes(weight, scales, zeros, format, group_size)


def packed_by(call: Call, weight: Weight) -> np.ndarray:
    """What the backend that `call` runs on packs."""
    packed = _room(call, weight)
    call("linear_pack", {"packed": packed, **weight.tensors}, weight.attrs)
    return packed


def _room(call: Call, weight: Weight) -> np.ndarray:
    size = empty((), I64)
    call("linear_packed_size", {"size": size, **weight.tensors}, weight.attrs)
    return empty((int(size),), U8)


def packed_by_reference(weight: Weight) -> np.ndarray:
    packed = empty((weight.least_bytes,), U8)
    pack_reference(packed, **weight.tensors, **weight.attrs)
    return packed


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Integers that the format takes, and room for what is packed."""
    weight, zeros = sample.array("weight"), sample.tensors["zeros"]
    limit = 7 if sample.attrs["format"] == INT4 else 127
    for array in (weight, zeros):
        if array is not None and array.dtype.kind in "iu":
            array[...] = rng.integers(0, limit, array.shape, endpoint=True)
    if "packed" not in sample.tensors:
        return sample
    attrs: Any = sample.attrs
    described = Weight(weight, sample.tensors["scales"], zeros, **attrs)
    room = empty((described.least_bytes,), U8)
    return dataclasses.replace(
        sample, tensors={**sample.tensors, "packed": room}, prepare=lambda call: {"packed": _room(call, described)}
    )


# ---- samples ----------------------------------------------------------------------------------------------------

_SIZES = ((1, 1), (1, 64), (7, 3), (8, 16), (17, 15), (33, 129), (64, 64), (257, 40), (0, 5), (5, 0))
_QUANTISED_SIZES = (
    (1, 1, 0), (3, 7, 0), (5, 1, 1), (6, 12, 3), (9, 40, 20), (31, 64, 32), (32, 64, 64), (33, 130, 0), (65, 384, 128),
    (70, 512, 256), (0, 8, 4), (4, 0, 0), (4, 0, 8),
)  # fmt: skip
"""n, k, group size"""


def integers(
    rng: np.random.Generator, n: int, k: int, group_size: int, format: int, dtype: DType,
    scales: DType, zeros: DType | None, gap: int = 0,
) -> Weight:  # fmt: skip
    """A quantised weight as a checkpoint holds it. `gap`: unused elements after every row."""
    bits = 4 if format == INT4 else 8
    low = 0 if dtype is U8 else -(1 << bits - 1)
    high = low + (1 << bits) - 1
    groups = group_count(k, group_size)
    of_zeros = (max(low, 0), high) if zeros is U8 else (low, min(high, 127))
    return Weight(
        uniform(rng, (n, k), dtype, low, high, (k + gap, 1)),
        uniform(rng, (n, groups), scales, -2 / (1 << bits), 2 / (1 << bits), (groups + gap, 1)),
        None if zeros is None else uniform(rng, (n, groups), zeros, *of_zeros, (groups + gap, 1)),
        format,
        group_size,
    )


def quantised(rng: np.random.Generator) -> Iterator[tuple[str, Weight]]:
    """int8 and int4 weights, of floats and of integers."""
    for format, bits in ((INT8, 8), (INT4, 4)):
        for n, k, group in _QUANTISED_SIZES:
            name = f"int{bits}-{n}x{k}-groups-of-{group}"
            yield f"{name}-F32", Weight(uniform(rng, (n, k), F32), format=format, group_size=group)
            yield f"{name}-I8", integers(rng, n, k, group, format, I8, F16, None)
            yield f"{name}-U8-zeros", integers(rng, n, k, group, format, U8, F16, U8)
        for dtype in FLOATS:
            rows = uniform(rng, (40, 96), dtype, strides=(100, 1))
            yield f"int{bits}-of-{dtype.name}", Weight(rows, format=format, group_size=32)
            for zeros in (None, I8, U8):
                for kind in (I8, U8):
                    name = f"int{bits}-{kind.name}-scales-{dtype.name}-zeros-{zeros and zeros.name}"
                    yield name, integers(rng, 40, 96, 32, format, kind, dtype, zeros, gap=3)
        small = uniform(rng, (3, 64), F32, -1e-41, 1e-41)
        small[1], small[2, 32:] = 0, -0.0
        yield f"int{bits}-of-zeros-and-subnormals", Weight(small, format=format, group_size=32)


def _weights(rng: np.random.Generator) -> Iterator[tuple[str, Weight]]:
    for dtype in FLOATS:
        for shape in _SIZES:
            yield f"{dtype.name}-{shape[0]}x{shape[1]}", Weight(uniform(rng, shape, dtype))
        gaps = layout((9, 33), (50, 1), dtype)
        gaps[...] = uniform(rng, (9, 33), dtype)
        yield f"{dtype.name}-row-gaps", Weight(gaps)
    yield from quantised(rng)


def pack_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, weight in _weights(rng):

        def prepare(call: Call, weight: Weight = weight):
            return {"packed": _room(call, weight)}

        yield Sample(
            name, {"packed": empty((weight.least_bytes,), U8), **weight.tensors}, weight.attrs, prepare=prepare
        )


def compare_packed(expected, actual, inputs, attrs) -> str | None:
    """The header, but for the layout; the rest is the backend's own."""
    try:
        want, got = (Header.read(side["packed"]) for side in (expected, actual))
    except BadValue as error:
        return f"packed: {error}"
    return None if dataclasses.replace(got, layout=want.layout) == want else f"packed: expected {want}, got {got}"


def size_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, weight in _weights(rng):
        yield Sample(name, {"size": empty((), I64), **weight.tensors}, weight.attrs)


def compare_size(expected, actual, inputs, attrs) -> str | None:
    """A layout may pad, but not lose anything."""
    least, got = int(expected["size"]), int(actual["size"])
    return None if got >= least else f"size: expected at least {least}, got {got}"


# ---- error samples ----------------------------------------------------------------------------------------------


def _weight_errors(error: Errors) -> Iterator[ErrorSample]:
    """What both operators refuse."""
    yield error("weight-i32", Status.BAD_TENSOR_DTYPE, "weight", weight=empty((5, 8), I32))
    yield error("weight-rank", Status.BAD_TENSOR_SHAPE, "weight", weight=empty((40,), F32))
    yield error("weight-stride", Status.BAD_TENSOR_STRIDES, "weight", weight=empty((5, 8), F32, (20, 2)))
    for format in (-1, 3):
        yield error(f"format-{format}", Status.BAD_PARAM, "format", attrs={"format": format})
    int8 = {"format": INT8}
    for group_size in (3, 16, 2**64 - 1):
        attrs = {**int8, "group_size": group_size}
        yield error(f"group-{group_size}", Status.BAD_PARAM, "group_size", attrs=attrs)
    yield error("group-of-own-dtype", Status.BAD_PARAM, "group_size", attrs={"group_size": 4})
    scales, integers = empty((5, 2), F32), empty((5, 8), I8)
    yield error("integers-in-own-dtype", Status.BAD_TENSOR_DTYPE, "weight", weight=integers)
    yield error("integers-without-scales", Status.BAD_PARAM, "scales", attrs=int8, weight=integers)
    yield error("floats-with-scales", Status.BAD_PARAM, "scales", scales=scales)
    grouped = {"format": INT8, "group_size": 4}
    yield error("zeros-without-scales", Status.BAD_PARAM, "zeros", attrs=grouped, zeros=empty((5, 2), I8))
    good = {"weight": integers, "scales": scales}
    for name, status, changed in (
        ("scales-extent", Status.BAD_TENSOR_SHAPE, empty((5, 3), F32)),
        ("scales-rows", Status.BAD_TENSOR_SHAPE, empty((4, 2), F32)),
        ("scales-dtype", Status.BAD_TENSOR_DTYPE, empty((5, 2), I8)),
    ):
        yield error(name, status, "scales", attrs=grouped, **{**good, "scales": changed})
    nothing = {"weight": empty((5, 0), I8), "scales": empty((5, 0), F32)}
    yield error("scales-of-no-columns", Status.BAD_TENSOR_SHAPE, "scales", attrs=int8, **nothing)
    zeros = empty((5, 3), I8)
    yield error("zeros-extent", Status.BAD_TENSOR_SHAPE, "zeros", attrs=grouped, **good, zeros=zeros)
    zeros = empty((5, 2), F32)
    yield error("zeros-dtype", Status.BAD_TENSOR_DTYPE, "zeros", attrs=grouped, **good, zeros=zeros)


def pack_error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    weight = uniform(rng, (5, 8), F32)
    error = Errors({"packed": empty((4096,), U8), **Weight(weight).tensors}, {"format": OWN_DTYPE, "group_size": 0})
    for name in ("packed", "weight"):
        yield error(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
        yield error(f"null-pointer-{name}", Status.NULL_POINTER, name, at="run", null=[name])
    yield error("packed-i8", Status.BAD_TENSOR_DTYPE, "packed", packed=empty((4096,), I8))
    yield error("packed-rank", Status.BAD_TENSOR_SHAPE, "packed", packed=empty((64, 64), U8))
    yield error("packed-stride", Status.BAD_TENSOR_STRIDES, "packed", packed=empty((4096,), U8, (2,)))
    for bytes_ in (1, 63, 64, 100):
        yield error(f"packed-{bytes_}-bytes", Status.BAD_PARAM, "packed", at="run", packed=empty((bytes_,), U8))
    yield from _weight_errors(error)
    for format in (INT8, INT4):
        attrs = {"format": format, "group_size": 4}
        small = empty((72,), U8)
        yield error(f"int-{format}-packed-small", Status.BAD_PARAM, "packed", at="run", attrs=attrs, packed=small)
        for value in (np.inf, np.nan):
            spoiled = weight.copy()
            spoiled[4, 7] = value
            yield error(f"int-{format}-of-{value}", Status.BAD_PARAM, "weight", at="run", attrs=attrs, weight=spoiled)
    int4 = {"format": INT4, "group_size": 4}
    for dtype, value in ((I8, 8), (I8, -9), (I8, 127), (U8, 16), (U8, 255)):
        spoiled = uniform(rng, (5, 8), dtype, 0, 7)
        spoiled[4, 7] = value
        tensors = {"weight": spoiled, "scales": uniform(rng, (5, 2), F32)}
        yield error(f"int4-{dtype.name}-{value}", Status.BAD_PARAM, "weight", at="run", attrs=int4, **tensors)


def size_error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    weight = Weight(uniform(rng, (5, 8), F32)).tensors
    error = Errors({"size": empty((), I64), **weight}, {"format": OWN_DTYPE, "group_size": 0})
    for name in ("size", "weight"):
        yield error(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
    yield error("null-pointer-size", Status.NULL_POINTER, "size", at="run", null=["size"])
    yield error("size-i32", Status.BAD_TENSOR_DTYPE, "size", size=empty((), I32))
    yield error("size-rank", Status.BAD_TENSOR_SHAPE, "size", size=empty((1,), I64))
    yield from _weight_errors(error)


# ---- the operators ----------------------------------------------------------------------------------------------

_AXES = {
    "n": "output features",
    "k": "input features",
    "groups": "scales per row: k / group_size, or 1",
}
_ATTRS = (
    Attr("format", "int", default=OWN_DTYPE, doc="0: the weight's own dtype, 1: int8, 2: int4"),
    Attr("group_size", "size_t", default=0, doc="elements of a row that share a scale; 0: the whole row"),
)
_CONSTRAINTS = (
    Constraint("format in (0, 1, 2)", "format", "0 (the weight's own dtype), 1 (int8) or 2 (int4)", Status.BAD_PARAM),
    Constraint(
        "group_size == 0 or (format > 0 and group_size > 0 and k % group_size == 0)", "group_size",
        "0, or with int8 and int4 a divisor of the input features", Status.BAD_PARAM,
    ),
    Constraint("W in (F16, BF16, F32) or format > 0", "weight", "floats", Status.BAD_TENSOR_DTYPE),
    Constraint("W in (F16, BF16, F32) or has(scales)", "scales", "scales of an integer weight", Status.BAD_PARAM),
    Constraint("W in (I8, U8) or not has(scales)", "scales", "none for a float weight", Status.BAD_PARAM),
    Constraint("has(scales) or not has(zeros)", "zeros", "none without scales", Status.BAD_PARAM),
    Constraint(
        "not has(scales) or (group_size == 0 and groups == 1) or (group_size > 0 and groups * group_size == k)",
        "scales",
        "k / group_size columns, or 1",
    ),
)  # fmt: skip
_DTYPES = {"W": (*FLOATS, I8, U8), "S": FLOATS, "Z": (I8, U8)}
_WEIGHT_DOCS = ("floats, or integers (one per byte) with scales", "scale of each group", "integer that means 0")


def _weight_tensors(only_described: bool = False) -> tuple[Tensor, ...]:
    note = "; only its description is used" if only_described else ""
    names, shapes = ("weight", "scales", "zeros"), ("n k", "n groups", "n groups")
    return tuple(
        Tensor(name, Role.IN, shape, dtype, Strides.UNIT_LAST, doc + note, optional=name != "weight",
               null_at_run=only_described, only_described=only_described)
        for name, shape, dtype, doc in zip(names, shapes, "WSZ", _WEIGHT_DOCS, strict=True)
    )  # fmt: skip


linear_pack = Operator(
    name="linear_pack",
    symbol="LinearPack",
    summary="Pack a weight into the layout that a backend's linear likes best, as it is or in int8 or int4.",
    axes={**_AXES, "bytes": "size of the packed weight, at least what linear_packed_size says"},
    dtypes=_DTYPES,
    tensors=(
        Tensor("packed", Role.OUT, "bytes", U8.name, Strides.CONTIGUOUS, "header and weight", opaque=True,
               written="the header, and as many bytes as the layout takes"),
        *_weight_tensors(),
    ),
    attrs=_ATTRS,
    constraints=_CONSTRAINTS,
    infer={"bytes": "packed_bytes"},
    semantics=(
        "The caller owns the buffer; linear_packed_size gives its size on the backend at hand.",
        "It begins with 64 bytes, little-endian: 'INFINIPK', u32 version (1), u32 format, i64 n, i64 k, i64 "
        "group_size, u32 dtype of the weight, u32 layout (the backend's own id), zeros. The rest is the backend's "
        "business.",
        "An integer weight q stands for (q - zero) * scale, without zeros for q * scale; scales and zeros are kept "
        "as given. int4 takes integers from -8 to 7 (I8) or 0 to 15 (U8); others are BAD_PARAM.",
        "A float weight is quantised where the format asks for it, per group and without zeros. The scale is "
        "max |w| / 127 for int8; for int4 it is m / -8, where m is the element of largest magnitude (of two that tie "
        "the negative one). It is rounded to bf16, then q is w / scale in f32, rounded to nearest even and kept within "
        "-127 … 127 or -8 … 7. Where the scale is 0, q is 0. An infinity or NaN is BAD_PARAM.",
        "A buffer that is too small is BAD_PARAM. Whatever is refused is refused before anything is written.",
    ),
    reference=pack_reference,
    complete=complete,
    compare=compare_packed,
    samples=pack_samples,
    error_samples=pack_error_samples,
    own=True,
    header="linear.h",
)  # fmt: skip

linear_packed_size = Operator(
    name="linear_packed_size",
    symbol="LinearPackedSize",
    summary="Bytes that linear_pack writes for a weight, on the backend at hand.",
    axes=_AXES,
    dtypes=_DTYPES,
    tensors=(
        Tensor("size", Role.OUT, "", I64.name, doc="bytes, the header included"),
        *_weight_tensors(only_described=True),
    ),
    attrs=_ATTRS,
    constraints=_CONSTRAINTS,
    semantics=("size is what linear_pack with the same weight, scales, zeros and attributes needs; at least 64.",),
    reference=size_reference,
    complete=complete,
    compare=compare_size,
    samples=size_samples,
    error_samples=size_error_samples,
    own=True,
    header="linear.h",
)
