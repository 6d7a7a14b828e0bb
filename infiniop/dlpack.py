"""DLPack both ways, versioned and unversioned: structs through cffi, capsules through the C API."""

from __future__ import annotations

import ctypes
import itertools
import sys
from typing import TYPE_CHECKING, Any

from ._library import callback, ffi, lib
from .device import Device
from .errors import TensorDtypeError, check
from .memory import NULL, address_of, current, require_aligned
from .schema import dtypes as _dtypes
from .schema.dtypes import DType
from .streams import Event, lane_of

if TYPE_CHECKING:
    from .tensor import Tensor

_CPU, _CUDA = 1, 2  # kDLCPU, kDLCUDA
_DEVICES = {"cpu": _CPU, "nvidia": _CUDA}
_NAMES = {code: name for name, code in _DEVICES.items()}
_NAMES |= {3: "cpu", 13: "nvidia"}  # pinned host memory, managed memory
_READ_ONLY = 1
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL, _F8 = 0, 1, 2, 4, 5, 6, 10
_TYPES: dict[DType, tuple[int, int]] = {
    _dtypes.BYTE: (_UINT, 8), _dtypes.BOOL: (_BOOL, 8), _dtypes.F8: (_F8, 8), _dtypes.BF16: (_BFLOAT, 16),
    _dtypes.I8: (_INT, 8), _dtypes.I16: (_INT, 16), _dtypes.I32: (_INT, 32), _dtypes.I64: (_INT, 64),
    _dtypes.F16: (_FLOAT, 16), _dtypes.F32: (_FLOAT, 32), _dtypes.F64: (_FLOAT, 64),
    _dtypes.C16: (_COMPLEX, 16), _dtypes.C32: (_COMPLEX, 32), _dtypes.C64: (_COMPLEX, 64),
    _dtypes.C128: (_COMPLEX, 128),
    _dtypes.U8: (_UINT, 8), _dtypes.U16: (_UINT, 16), _dtypes.U32: (_UINT, 32), _dtypes.U64: (_UINT, 64),
}  # fmt: skip
_FROM_TYPES = {pair: made for made, pair in _TYPES.items()}

_OWN, _USED = b"dltensor", b"used_dltensor"
_OWN_VERSIONED, _USED_VERSIONED = b"dltensor_versioned", b"used_dltensor_versioned"

_api = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(
    ("PyCapsule_New", _api)
)
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
# Of a capsule that is being destroyed: it must not be turned into a Python object again.
_dying_is = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_lent: dict[int, tuple[Any, ...]] = {}  # what exported structs refer to, until their consumer deletes them
_ticket = itertools.count(1)


def device_pair(device: Device) -> tuple[int, int]:
    """(DLDeviceType, device id)."""
    if device.name not in _DEVICES:
        raise BufferError(f"DLPack has no number for device {device.name!r}: copy to the CPU first")
    return _DEVICES[device.name], device.index


# ---- lending ------------------------------------------------------------------------------------------------


def _forget(managed: Any) -> None:
    _lent.pop(int(ffi.cast("uintptr_t", managed.manager_ctx)), None)


_delete = callback("infiniop_py_dlpack_delete", _forget)
_delete_versioned = callback("infiniop_py_dlpack_delete_versioned", _forget)


@_Destructor
def _drop_capsule(capsule: int) -> None:
    """A capsule that nobody consumed."""
    for name, kind in ((_OWN, "DLManagedTensor *"), (_OWN_VERSIONED, "DLManagedTensorVersioned *")):
        if _dying_is(capsule, name):
            managed = ffi.cast(kind, _dying_pointer(capsule, name))
            if managed.deleter != NULL:
                managed.deleter(managed)


def export(tensor: Tensor, stream: Any, max_version: Any, dl_device: Any, copy: bool | None) -> Any:
    """`Tensor.__dlpack__`."""
    if dl_device is not None and tuple(dl_device) != device_pair(tensor.device):
        if copy is False or dl_device[0] not in (_CPU, _CUDA):
            raise BufferError(f"a tensor on {tensor.device} cannot be lent as DLPack device {tuple(dl_device)}")
        tensor = tensor.to(Device(_NAMES[dl_device[0]], dl_device[1]))
    elif copy:
        tensor = tensor.copy()
    versioned = max_version is not None and tuple(max_version) >= (1, 0)
    if tensor.readonly and not versioned:
        raise BufferError("read-only memory needs DLPack 1.0: pass max_version=(1, 0)")
    _order_after_ours(tensor.device, stream)
    managed = _managed(tensor, versioned)
    name = _OWN_VERSIONED if versioned else _OWN
    return _new_capsule(int(ffi.cast("uintptr_t", managed)), name, _drop_capsule)


def _managed(tensor: Tensor, versioned: bool) -> Any:
    code, bits = _TYPES[tensor.dtype]
    extents = ffi.new("int64_t[]", tensor.shape) if tensor.ndim else NULL
    strides = ffi.new("int64_t[]", tensor.strides) if tensor.ndim else NULL
    managed = ffi.new("DLManagedTensorVersioned *" if versioned else "DLManagedTensor *")
    dl = managed.dl_tensor
    dl.data = tensor._ptr
    dl.device.device_type, dl.device.device_id = device_pair(tensor.device)
    dl.ndim, dl.shape, dl.strides, dl.byte_offset = tensor.ndim, extents, strides, 0
    dl.dtype.code, dl.dtype.bits, dl.dtype.lanes = code, bits, 1
    ticket = next(_ticket)
    managed.manager_ctx = ffi.cast("void *", ticket)
    managed.deleter = _delete_versioned if versioned else _delete
    if versioned:
        managed.version.major, managed.version.minor = 1, 0
        managed.flags = _READ_ONLY if tensor.readonly else 0
    _lent[ticket] = (managed, extents, strides, tensor._owner)
    return managed


def _order_after_ours(device: Device, stream: Any) -> None:
    """Make the consumer's stream wait for the work given so far."""
    if device.is_cpu or stream == -1:
        return
    consumer = ffi.cast("void *", 0 if stream in (None, 1) else stream)
    ours = lane_of(device).handle
    if consumer != ours:
        event = Event(device).record()
        with current(device):
            check(lib.infinirtStreamWaitEvent(consumer, event.handle))


# ---- borrowing ----------------------------------------------------------------------------------------------


class _Borrowed:
    """Calls the lender's deleter when the last view is gone."""

    __slots__ = ("managed",)

    def __init__(self, managed: Any):
        self.managed = managed

    def __del__(self, NULL: Any = NULL) -> None:
        if self.managed.deleter != NULL:
            self.managed.deleter(self.managed)


def borrow(source: Any) -> Tensor:
    """A tensor over the memory of anything that has `__dlpack__`."""
    if not hasattr(source, "__dlpack__") or not hasattr(source, "__dlpack_device__"):
        raise TypeError(f"{type(source).__name__} has no __dlpack__")
    if getattr(source, "is_neg", bool)():  # of torch: a negation put off, which its export passes over
        raise BufferError("memory whose negation is put off cannot be lent: call .resolve_neg()")
    kind, index = source.__dlpack_device__()
    if int(kind) not in _NAMES:
        raise BufferError(f"DLPack device type {int(kind)} is not known here")
    device = Device(_NAMES[int(kind)], 0 if int(kind) in (1, 3) else index)
    wait = {} if device.is_cpu else {"stream": int(ffi.cast("uintptr_t", lane_of(device).handle)) or 1}
    try:
        capsule = source.__dlpack__(max_version=(1, 0), **wait)
    except TypeError:
        capsule = source.__dlpack__(**wait)
    return from_capsule(capsule, device, _is_immutable(source))


def _is_immutable(source: Any) -> bool:
    """JAX's arrays never change, but their capsules do not say so."""
    array = getattr(sys.modules.get("jax"), "Array", None)
    return array is not None and isinstance(source, array)


def from_capsule(capsule: Any, device: Device, immutable: bool = False) -> Tensor:
    for name, used, kind in (
        (_OWN_VERSIONED, _USED_VERSIONED, "DLManagedTensorVersioned *"),
        (_OWN, _USED, "DLManagedTensor *"),
    ):
        if _is_capsule(capsule, name):
            managed = ffi.cast(kind, _pointer_of(capsule, name))
            if name is _OWN_VERSIONED and managed.version.major != 1:
                raise BufferError(f"DLPack {managed.version.major}.{managed.version.minor}: version 1 is known here")
            readonly = immutable or bool(name is _OWN_VERSIONED and managed.flags & _READ_ONLY)
            made = _tensor(managed, device, readonly)
            _rename(capsule, used)
            return made
    raise TypeError("not a DLPack capsule, or one that was consumed already")


def _tensor(managed: Any, device: Device, readonly: bool) -> Tensor:
    from .tensor import Signature, Tensor, row_major

    dl = managed.dl_tensor
    pair = (dl.dtype.code, dl.dtype.bits)
    if pair not in _FROM_TYPES or dl.dtype.lanes != 1:
        raise TensorDtypeError(f"DLPack type code {pair[0]}, {pair[1]} bits, {dl.dtype.lanes} lanes is not known here")
    shape = tuple(dl.shape[i] for i in range(dl.ndim))
    strides = row_major(shape) if dl.strides == NULL else tuple(dl.strides[i] for i in range(dl.ndim))
    sig = Signature.of(shape, strides, _FROM_TYPES[pair], device, readonly)
    ptr = ffi.cast("char *", dl.data)
    ptr = ptr + dl.byte_offset if ptr != NULL else ptr
    if 0 not in shape:
        require_aligned(address_of(ptr), sig.dtype)
    return Tensor._make(ptr, sig, _Borrowed(managed))
