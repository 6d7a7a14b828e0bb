"""Arrays over memory that a C caller owns: what Python kernels get."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._library import ffi
from .device import Device
from .errors import TensorDtypeError
from .schema import dtypes as _dtypes
from .tensor import Signature, Tensor, extent

_CHAR_POINTER = ffi.typeof("char *")


def numpy_view(pointer: Any, sig: Signature) -> np.ndarray:
    """A NumPy array over the memory; not writable when the signature is read-only."""
    kind = np.dtype(np.uint8) if sig.dtype is _dtypes.BYTE else sig.dtype.numpy
    if kind is None:
        raise TensorDtypeError(f"NumPy has no {sig.dtype.name}", got=sig.dtype.name)
    low, high = extent(sig.shape, sig.strides)
    if high < low:
        return np.empty(sig.shape, kind)
    size = kind.itemsize
    memory = ffi.buffer(ffi.cast(_CHAR_POINTER, pointer) + low * size, (high - low + 1) * size)
    made = np.ndarray(sig.shape, kind, memory, -low * size, tuple(s * size for s in sig.strides))
    made.flags.writeable = not sig.readonly
    return made


def tensor_view(pointer: Any, sig: Signature) -> Tensor:
    """A Tensor over the memory, valid as long as its owner keeps it."""
    return Tensor._make(ffi.cast(_CHAR_POINTER, pointer), sig, None)


def bytes_at(address: int, nbytes: int, device: Device) -> np.ndarray | Tensor:
    """The bytes of memory that somebody else owns, `[nbytes]` of uint8: an array of NumPy on the CPU, else a Tensor.
    Other libraries borrow either through DLPack."""
    sig = Signature.of((nbytes,), (1,), _dtypes.U8, device)
    return numpy_view(address, sig) if device.is_cpu else tensor_view(address, sig)


def signature_of(view: Any, device: Any, readonly: bool) -> Signature:
    """The signature of an infiniopTensorView."""
    shape = tuple(view.shape[i] for i in range(view.ndim))
    strides = tuple(view.strides[i] for i in range(view.ndim))
    return Signature.of(shape, strides, _dtypes.dtype(int(view.dtype)), device, readonly)
