"""The header of a packed weight: 64 bytes, little-endian, before whatever layout a backend chose."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

import numpy as np

from infiniop.schema import BadValue

HEADER_BYTES = 64
MAGIC = b"INFINIPK"
VERSION = 1
ROW_MAJOR = 0
"""The layout of the reference: the weight's rows, as they were given."""

_HEADER = struct.Struct("<8sIIqqqII16x")


@dataclass(frozen=True)
class Header:
    """`dtype` is the enum value of the weight's type, `layout` a backend's own id."""

    format: int
    n: int
    k: int
    group_size: int
    dtype: int
    layout: int = ROW_MAJOR

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


def row_major_bytes(weight: np.ndarray) -> int:
    """Size of a packed weight in the reference's layout."""
    return HEADER_BYTES + weight.size * weight.itemsize
