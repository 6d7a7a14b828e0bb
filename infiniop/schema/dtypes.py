"""Element types: name, C enumerator, size in bytes and NumPy counterpart."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class DType:
    """One element type. `code` is the value of its `infiniDtype_t` enumerator."""

    name: str
    code: int
    itemsize: int
    numpy: np.dtype | None

    @property
    def enumerator(self) -> str:
        return f"INFINI_DTYPE_{self.name}"

    @property
    def is_float(self) -> bool:
        return self.name in ("F8", "F16", "F32", "F64", "BF16")

    def __repr__(self) -> str:
        return f"infiniop.{_PUBLIC_NAMES.get(self.name, self.name)}"

    def __reduce__(self):
        return (dtype, (self.name,))


def _define(name: str, code: int, itemsize: int, numpy_type: type | None) -> DType:
    return DType(name, code, itemsize, None if numpy_type is None else np.dtype(numpy_type))


BYTE = _define("BYTE", 1, 1, None)
BOOL = _define("BOOL", 2, 1, np.bool_)
I8 = _define("I8", 3, 1, np.int8)
I16 = _define("I16", 4, 2, np.int16)
I32 = _define("I32", 5, 4, np.int32)
I64 = _define("I64", 6, 8, np.int64)
U8 = _define("U8", 7, 1, np.uint8)
U16 = _define("U16", 8, 2, np.uint16)
U32 = _define("U32", 9, 4, np.uint32)
U64 = _define("U64", 10, 8, np.uint64)
F8 = _define("F8", 11, 1, ml_dtypes.float8_e4m3fn)
F16 = _define("F16", 12, 2, np.float16)
F32 = _define("F32", 13, 4, np.float32)
F64 = _define("F64", 14, 8, np.float64)
C16 = _define("C16", 15, 2, None)
C32 = _define("C32", 16, 4, None)
C64 = _define("C64", 17, 8, np.complex64)
C128 = _define("C128", 18, 16, np.complex128)
BF16 = _define("BF16", 19, 2, ml_dtypes.bfloat16)

ALL = (BYTE, BOOL, I8, I16, I32, I64, U8, U16, U32, U64, F8, F16, F32, F64, C16, C32, C64, C128, BF16)
HALVES = (F16, BF16)
FLOATS = (F16, BF16, F32)
FLOATS64 = (F16, BF16, F32, F64)
INTEGERS = (I8, I16, I32, I64, U8, U16, U32, U64)

_PUBLIC_NAMES = {
    "BOOL": "bool8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8": "float8_e4m3", "F16": "float16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "C128": "complex128", "BF16": "bfloat16",
}  # fmt: skip

_BY_NAME = {d.name: d for d in ALL}
_BY_NAME |= {public: _BY_NAME[name] for name, public in _PUBLIC_NAMES.items()}
_BY_CODE = {d.code: d for d in ALL}
_BY_NUMPY = {d.numpy: d for d in ALL if d.numpy is not None}


def dtype(key: object) -> DType:
    """The `DType` for a name ("F32", "float32"), an enum value, a NumPy dtype or a `DType`. Raises `TypeError`."""
    if isinstance(key, DType):
        return key
    if isinstance(key, str) and key in _BY_NAME:
        return _BY_NAME[key]
    if isinstance(key, int) and not isinstance(key, bool) and key in _BY_CODE:
        return _BY_CODE[key]
    try:
        return _BY_NUMPY[np.dtype(key)]  # type: ignore[call-overload]
    except (TypeError, KeyError):
        raise TypeError(f"not an infiniop dtype: {key!r}") from None
