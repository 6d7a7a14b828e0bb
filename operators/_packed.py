"""Packed weights: the header that every backend writes, and the layout of the reference.

64 bytes, little-endian, before whatever layout a backend chose. The reference keeps the weight's rows as they were
given; of a quantised one the integers (int4: two per byte, the first in the low half), then the scales, then the zeros.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

import numpy as np

from infiniop.schema import BF16, FLOATS, I8, U8, BadValue
from infiniop.schema import dtype as dtype_of

HEADER_BYTES = 64
MAGIC = b"INFINIPK"
VERSION = 1
OWN_DTYPE, INT8, INT4 = range(3)
"""Formats of a packed weight."""

_HEADER = struct.Struct("<8sIIqqqII16x")
_SCALES = [d.numpy for d in FLOATS]
_ZEROS = [None, I8.numpy, U8.numpy]
BAD_FLOATS = "finite elements, to be quantised"


@dataclass(frozen=True)
class Header:
    """`dtype` is the enum value of the weight's type, `layout` a backend's own id."""

    format: int
    n: int
    k: int
    group_size: int
    dtype: int
    layout: int = 0

    def write(self, buffer: np.ndarray) -> None:
        """Into the first 64 bytes of a u8 array."""
        buffer[:HEADER_BYTES] = np.frombuffer(_HEADER.pack(MAGIC, VERSION, *astuple(self)), np.uint8)

    @staticmethod
    def read(buffer: np.ndarray) -> Header:
        """Raises `BadValue` when the buffer does not begin with a header."""
        if len(buffer) < HEADER_BYTES:
            raise BadValue("weight", f"a packed weight of at least {HEADER_BYTES} bytes", f"{len(buffer)} bytes")
        magic, version, *fields = _HEADER.unpack(buffer[:HEADER_BYTES].tobytes())
        if (magic, version) != (MAGIC, VERSION):
            raise BadValue("weight", f"a packed weight of version {VERSION}", f"{magic!r}, version {version}")
        return Header(*fields)


@dataclass(frozen=True)
class Layout:
    """The types of scales and zeros, None where there are none."""

    scales: np.dtype | None = None
    zeros: np.dtype | None = None

    @staticmethod
    def of(scales: np.ndarray | None, zeros: np.ndarray | None, format: int) -> Layout:
        if format == OWN_DTYPE:
            return Layout()
        return Layout(BF16.numpy if scales is None else scales.dtype, None if zeros is None else zeros.dtype)

    @staticmethod
    def read(code: int) -> Layout:
        if not 0 <= code <= len(_SCALES) * len(_ZEROS):
            raise BadValue("weight", "a layout of the reference", f"layout {code}, packed by another backend")
        return Layout(_SCALES[(code - 1) % 3], _ZEROS[(code - 1) // 3]) if code else Layout()

    @property
    def code(self) -> int:
        """The layout's id: 0 for floats, else 1 + which scales + 3 * which zeros."""
        return 0 if self.scales is None else 1 + _SCALES.index(self.scales) + 3 * _ZEROS.index(self.zeros)

    def sizes(self, header: Header, itemsize: int) -> list[int]:
        """Bytes of floats or integers, scales and zeros."""
        elements, groups = header.n * header.k, header.n * group_count(header.k, header.group_size)
        integers = (elements + 1) // 2 if header.format == INT4 else elements
        if self.scales is None:
            return [elements * itemsize, 0, 0]
        return [integers, groups * self.scales.itemsize, groups if self.zeros else 0]


def group_count(k: int, group_size: int) -> int:
    """Scales per row."""
    return k // group_size if group_size else 1


def _describe(weight: np.ndarray, scales, zeros, format: int, group_size: int) -> tuple[Header, Layout, int]:
    """Header and layout of what is packed, and its size in bytes."""
    layout = Layout.of(scales, zeros, format)
    n, k = weight.shape
    header = Header(format, n, k, group_size, dtype_of(weight.dtype).code, layout.code)
    return header, layout, HEADER_BYTES + sum(layout.sizes(header, weight.itemsize))


def packed_bytes(weight: np.ndarray, scales, zeros, format: int, group_size: int) -> int:
    """Size of a packed weight in the reference's layout."""
    return _describe(weight, scales, zeros, format, group_size)[2]


def write(packed: np.ndarray, weight: np.ndarray, scales, zeros, format: int, group_size: int) -> None:
    """The reference of linear_pack."""
    header, _, size = _describe(weight, scales, zeros, format, group_size)
    if len(packed) < size:
        raise BadValue("packed", f"{size} bytes, as linear_packed_size says", f"{len(packed)}")
    if format != OWN_DTYPE and scales is None:
        weight, scales = quantise(weight, format, group_size)
    if format == INT4:
        low, high = (0, 15) if weight.dtype == np.uint8 else (-8, 7)
        if ((weight < low) | (weight > high)).any():
            raise BadValue("weight", f"elements from {low} to {high}", f"{weight.min()} to {weight.max()}")
        flat = np.append(weight.ravel().view(np.uint8) & 15, np.uint8(0))[: (weight.size + 1) // 2 * 2]
        weight = flat[::2] | flat[1::2] << 4
    parts = [np.ascontiguousarray(a).tobytes() for a in (weight, scales, zeros) if a is not None]
    header.write(packed)
    packed[HEADER_BYTES:size] = np.frombuffer(b"".join(parts), np.uint8)


def quantise(weight: np.ndarray, format: int, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers [n, k] and bf16 scales [n, groups] of a float weight, as linear_pack's semantics say."""
    n, k = weight.shape
    groups = group_count(k, group_size)
    w = weight.astype(np.float32).reshape(n, groups, k // groups if groups else 0)
    if not np.isfinite(w).all():
        raise BadValue("weight", BAD_FLOATS, "an infinity or NaN")
    low, high = w.min(-1, initial=0.0), w.max(-1, initial=0.0)
    if format == INT8:
        scales = np.maximum(-low, high) / np.float32(127)
    else:
        scales = np.where(-low >= high, low, high) / np.float32(-8)
    scales = scales.astype(BF16.numpy)
    wide = scales.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.where(wide == 0, np.float32(0), w / wide)
    limits = (-127, 127) if format == INT8 else (-8, 7)
    return np.rint(np.clip(steps, *limits)).astype(np.int8).reshape(n, k), scales


@dataclass(frozen=True)
class Unpacked:
    """A packed weight's values [n, k], float64 where quantised; `group`: elements per scale, None of floats."""

    values: np.ndarray
    group: int | None = None


def read(packed: np.ndarray, n: int, k: int, expected: np.dtype) -> Unpacked:
    """What linear makes of packed bytes for y [m, n] and x [m, k] of dtype `expected`. Raises `BadValue`."""
    header = Header.read(packed)
    layout = Layout.read(header.layout)
    quantised = header.format in (INT8, INT4)
    wanted = {"n": n, "k": k} | ({} if quantised else {"dtype": dtype_of(expected).code, "format": OWN_DTYPE})
    for name, want in wanted.items():
        if getattr(header, name) != want:
            raise BadValue("weight", f"a packed weight with {name} {want}", f"{getattr(header, name)}")
    if quantised != (layout.scales is not None):
        raise BadValue("weight", "a layout of its format", f"layout {header.layout}, format {header.format}")
    group = header.group_size
    if (group < 0 or (group and k % group)) if quantised else group:
        raise BadValue("weight", "a packed weight with a group size that divides k", f"{group}")
    if quantised and header.dtype not in (I8.code, U8.code, *(d.code for d in FLOATS)):
        raise BadValue("weight", "a packed weight of a dtype that linear_pack takes", f"dtype {header.dtype}")
    sizes = layout.sizes(header, expected.itemsize)
    if len(packed) < HEADER_BYTES + sum(sizes):
        raise BadValue("weight", f"{HEADER_BYTES + sum(sizes)} bytes", f"{len(packed)}")
    first, scales, zeros = np.split(packed[HEADER_BYTES : HEADER_BYTES + sum(sizes)], np.cumsum(sizes)[:2])
    if not quantised:
        return Unpacked(first.view(expected).reshape(n, k))
    return Unpacked(_dequantised(first, scales, zeros, header, layout), group or k)


def _dequantised(
    first: np.ndarray, scales: np.ndarray, zeros: np.ndarray, header: Header, layout: Layout
) -> np.ndarray:
    """(q - zero) * scale."""
    n, k, groups = header.n, header.k, group_count(header.k, header.group_size)
    unsigned = header.dtype == U8.code
    assert layout.scales is not None
    if header.format == INT4:
        first = np.stack([first & 15, first >> 4], -1).ravel()[: n * k]
        first = first if unsigned else ((first ^ 8) - np.uint8(8)).view(np.int8)
    q = (first if unsigned else first.view(np.int8)).astype(np.float64)
    q = q.reshape(n, groups, k // groups if groups else 0)
    if layout.zeros is not None:
        q -= zeros.view(layout.zeros).astype(np.float64).reshape(n, groups, 1)
    with np.errstate(invalid="ignore"):
        q *= scales.view(layout.scales).astype(np.float64).reshape(n, groups, 1)
    return q.reshape(n, k)
