"""The doors through which arrays come in: our Tensor, NumPy, torch, and whatever has `__dlpack__`,
`__array_interface__` or `__cuda_array_interface__`.

A door turns an array into a *key* (hashable: what a descriptor depends on) and a pointer, fast; the key into a
`Signature` only when a descriptor has to be made; and makes new arrays of its kind for outputs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ._library import accelerator, ffi
from .device import Device
from .errors import ArgumentTypeError, BadParamError, TensorDtypeError
from .memory import pointer_to, require_aligned
from .schema import dtypes as _dtypes
from .schema.dtypes import DType, dtype
from .tensor import Signature, Tensor, from_cuda_array, from_dlpack, from_numpy, new

Array = Any  # Tensor | np.ndarray | torch.Tensor | SupportsDLPack | ...: the annotation of operator arguments

_from_buffer, _cast = ffi.from_buffer, ffi.cast
_CHAR_POINTER = ffi.typeof("char *")


torch_tensor: type | None = None  # torch.Tensor, once an array of torch has come in
fast = accelerator()
accelerated: set[type] = set()  # kinds of arrays that `fast` knows
if fast is not None:
    import _cffi_backend

    fast.use(Tensor, np.ndarray, _cffi_backend._C_API, ffi.typeof("void *"))
    accelerated.update((Tensor, np.ndarray))


class SupportsDLPack(Protocol):
    def __dlpack__(self, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


class Door(Protocol):
    """One kind of array."""

    name: str
    suffix: str  # of the names of this kind's caches
    borrows: bool  # every call asks for the memory anew, and works on the Tensor that comes of it

    def enter(self, array: Any) -> tuple[Any, Any]:
        """(key, pointer): what a descriptor depends on, cheap and hashable; the first element's address."""

    def short_key(self, array: Any, output: bool) -> tuple:
        """The key's parts, as the generated functions write them out."""

    def signature(self, array: Any) -> Signature: ...

    def new(self, sig: Signature, like: Any) -> tuple[Any, Any]:
        """An uninitialised array, and its pointer."""

    def tensor(self, array: Any) -> Tensor:
        """The same memory."""

    def stream(self, array: Any) -> Any:
        """The stream that the array's library works on now; None: infiniop's own."""


class _TensorDoor:
    name, suffix, borrows = "tensor", "", False

    def enter(self, array: Tensor) -> tuple[Any, Any]:
        return array._sig, array._ptr

    def signature(self, array: Tensor) -> Signature:
        return array._sig

    def short_key(self, array: Tensor, output: bool) -> tuple:
        return (array._sig,)

    def new(self, sig: Signature, like: Any) -> tuple[Any, Any]:
        made = new(sig)
        return made, made._ptr

    def tensor(self, array: Tensor) -> Tensor:
        return array

    def stream(self, array: Tensor) -> None:
        return None


# ---- NumPy --------------------------------------------------------------------------------------------------


def numpy_pointer(array: np.ndarray) -> Any:
    try:
        return _from_buffer(array)
    except (ValueError, BufferError):  # not one block of memory
        return pointer_to(array.__array_interface__["data"][0])


def _require_plain(array: np.ndarray) -> None:
    """What an operator cannot see in an array's memory."""
    if isinstance(array, np.ma.MaskedArray):
        raise BadParamError(expected="an array without a mask (call .filled() first)", got="a numpy.ma.MaskedArray")
    if not array.flags.aligned:
        raise BadParamError(
            expected=f"an address that is a multiple of {array.dtype.alignment} bytes",
            got=f"{array.__array_interface__['data'][0]:#x}: copy the array first",
        )


def numpy_signature(array: np.ndarray) -> Signature:
    _require_plain(array)
    return _numpy_signature(array.shape, array.strides, array.dtype, not array.flags.writeable)


def _numpy_signature(shape: tuple[int, ...], strides: tuple[int, ...], kind: np.dtype, readonly: bool) -> Signature:
    made = numpy_dtype(kind)
    size = made.itemsize
    if any(s % size for s, n in zip(strides, shape, strict=True) if n > 1):
        raise BadParamError(f"strides of {strides} bytes are no multiples of the {size}-byte element")
    return Signature.of(shape, tuple(s // size for s in strides), made, Device("cpu"), readonly)


@functools.lru_cache(maxsize=64)
def numpy_dtype(kind: np.dtype) -> DType:
    if not kind.isnative:
        raise TensorDtypeError(f"NumPy dtype {kind} is not in this machine's byte order", got=str(kind))
    try:
        return dtype(kind)
    except TypeError:
        raise TensorDtypeError(f"NumPy dtype {kind} is not one of infiniop's", got=str(kind)) from None


class _NumpyDoor:
    name, suffix, borrows = "numpy", "_numpy", False

    def enter(self, array: np.ndarray) -> tuple[Any, Any]:
        _require_plain(array)
        try:
            pointer = _from_buffer(array)
        except (ValueError, BufferError):
            pointer = numpy_pointer(array)
        return (array.shape, array.strides, array.dtype, array.flags.writeable), pointer

    signature = staticmethod(numpy_signature)

    def short_key(self, array: np.ndarray, output: bool) -> tuple:
        flags = array.flags  # behaved: aligned and writeable
        return array.shape, array.strides, array.dtype, flags.behaved if output else flags.aligned

    def new(self, sig: Signature, like: Any) -> tuple[Any, Any]:
        made = np.empty(sig.shape, sig.dtype.numpy)
        return made, _from_buffer(made)

    def tensor(self, array: np.ndarray) -> Tensor:
        return from_numpy(array)

    def stream(self, array: np.ndarray) -> None:
        return None


# ---- torch --------------------------------------------------------------------------------------------------


@functools.cache
def torch_dtypes() -> tuple[dict[Any, DType], dict[DType, Any]]:
    """torch's dtypes that infiniop has, and the other way round."""
    torch = sys.modules["torch"]
    names = {
        "bool": _dtypes.BOOL, "int8": _dtypes.I8, "int16": _dtypes.I16, "int32": _dtypes.I32, "int64": _dtypes.I64,
        "uint8": _dtypes.U8, "uint16": _dtypes.U16, "uint32": _dtypes.U32, "uint64": _dtypes.U64,
        "float8_e4m3fn": _dtypes.F8, "float16": _dtypes.F16, "float32": _dtypes.F32, "float64": _dtypes.F64,
        "bfloat16": _dtypes.BF16, "complex64": _dtypes.C64, "complex128": _dtypes.C128, "complex32": _dtypes.C32,
    }  # fmt: skip
    found = {getattr(torch, name): made for name, made in names.items() if hasattr(torch, name)}
    return found, {made: key for key, made in found.items()}


def _torch_address(array: Any) -> int:
    if array.is_neg() or array.is_conj():
        raise BadParamError("a torch tensor whose negation or conjugation is put off: call resolve_neg, resolve_conj")
    try:
        address = int(array.data_ptr())
    except RuntimeError as error:  # sparse, or one that stands for another
        raise BadParamError(f"a torch tensor without memory of its own ({array.layout}): {error}") from None
    known = torch_dtypes()[0].get(array.dtype)
    if known is not None and array.numel():
        require_aligned(address, known)
    return address


class _TorchDoor:
    name, suffix, borrows = "torch", "_torch", False

    def enter(self, array: Any) -> tuple[Any, Any]:
        return (array.shape, array.stride(), array.dtype, array.device), _cast(_CHAR_POINTER, _torch_address(array))

    def signature(self, array: Any) -> Signature:
        made = torch_dtypes()[0].get(array.dtype)
        if made is None:
            raise TensorDtypeError(f"{array.dtype} is not one of infiniop's dtypes", got=str(array.dtype))
        if array.device.type == "meta":
            raise BadParamError(f"a torch tensor without memory ({array.device})")
        return Signature.of(tuple(array.shape), array.stride(), made, Device(array.device))

    def short_key(self, array: Any, output: bool) -> tuple:
        misaligned = array.data_ptr() % array.itemsize
        return array.shape, array.stride(), array.dtype, array.device, misaligned, array.is_neg() or array.is_conj()

    def new(self, sig: Signature, like: Any) -> tuple[Any, Any]:
        torch = sys.modules["torch"]
        if sig.dtype not in torch_dtypes()[1]:
            raise TensorDtypeError(f"torch has no {sig.dtype.name}: give out=", got=sig.dtype.name)
        made = torch.empty(sig.shape, dtype=torch_dtypes()[1][sig.dtype], device=like.device)
        return made, pointer_to(made.data_ptr())

    def tensor(self, array: Any) -> Tensor:
        return Tensor._make(pointer_to(_torch_address(array)), self.signature(array), array)

    def stream(self, array: Any) -> Any:
        if array.is_cuda:
            return sys.modules["torch"].cuda.current_stream(array.device)
        return None


# ---- everything else ----------------------------------------------------------------------------------------


class _BorrowingDoor:
    """Arrays of other libraries. New outputs are Tensors, unless the library takes them over."""

    suffix, borrows = "", True

    def __init__(self, name: str, borrow: Callable[[Any], Tensor]):
        self.name, self.tensor = name, borrow

    def enter(self, array: Any) -> tuple[Any, Any]:
        raise NotImplementedError("a call turns these arrays into tensors first")

    def short_key(self, array: Any, output: bool) -> tuple:
        raise NotImplementedError("every call asks for the memory anew")

    def signature(self, array: Any) -> Signature:
        return self.tensor(array)._sig

    def new(self, sig: Signature, like: Any) -> tuple[Any, Any]:
        made = new(sig)
        namespace = getattr(like, "__array_namespace__", None)
        return (made if namespace is None else namespace().from_dlpack(made)), made._ptr

    def stream(self, array: Any) -> None:
        return None


class _InterfaceDoor(_BorrowingDoor):
    """Arrays that NumPy can look into: new outputs are NumPy's."""

    def new(self, sig: Signature, like: Any) -> tuple[Any, Any]:
        return _NUMPY.new(sig, like)


def _from_interface(array: Any) -> Tensor:
    if array.__array_interface__.get("mask") is not None:
        raise BadParamError(expected="an array without a mask", got="a masked one")
    return from_numpy(np.asarray(array))


_TENSOR, _NUMPY, _TORCH = _TensorDoor(), _NumpyDoor(), _TorchDoor()
_DLPACK = _BorrowingDoor("dlpack", from_dlpack)
_CUDA_INTERFACE = _BorrowingDoor("cuda_array_interface", from_cuda_array)
_INTERFACE = _InterfaceDoor("array_interface", _from_interface)


class _Doors(dict[type, Door]):
    """The door of a type; found once per type."""

    def __missing__(self, kind: type) -> Door:
        found = self[kind] = _find(kind)
        return found


def _find(kind: type) -> Door:
    if issubclass(kind, Tensor):
        return _TENSOR
    if issubclass(kind, np.ndarray):
        return _NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, torch.Tensor):
        _meet(torch.Tensor, torch.nn.Parameter)
        return _TORCH
    if hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__"):
        return _DLPACK
    if hasattr(kind, "__cuda_array_interface__"):
        return _CUDA_INTERFACE
    if hasattr(kind, "__array_interface__") and not issubclass(kind, np.generic):  # a scalar's memory is a copy
        return _INTERFACE
    raise ArgumentTypeError(
        expected="an infiniop.Tensor, a NumPy or torch array, or anything with __dlpack__, __array_interface__ or "
        "__cuda_array_interface__", got=f"a {kind.__name__}, which is no array",
    )  # fmt: skip


def _meet(kind: type, parameter: type) -> None:
    """The first array of torch has come in."""
    global torch_tensor
    torch_tensor = kind
    exchange = getattr(kind, "__dlpack_c_exchange_api__", None)
    if fast is not None and exchange is not None and fast.use_torch(kind, parameter, exchange):
        accelerated.update((kind, parameter))


doors = _Doors()


def describe(array: Any) -> Signature:
    """The signature of any array."""
    return doors[array.__class__].signature(array)


def as_tensor(array: Any) -> Tensor:
    """Any array as a Tensor over the same memory."""
    return doors[array.__class__].tensor(array)
