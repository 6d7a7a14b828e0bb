"""Tensor: a strided view of device memory. Shape, strides, dtype, device and views; no arithmetic."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import memory
from .device import Device, DeviceLike
from .errors import BadParamError, TensorDtypeError, TensorShapeError, TensorStridesError
from .memory import Storage, address_of
from .schema import dtypes as _dtypes
from .schema.dtypes import DType
from .streams import lane_of

if TYPE_CHECKING:
    from .arrays import Array

_INTERNED_LIMIT = 1 << 16


class Signature:
    """What a descriptor depends on. Equal signatures are one object, so that comparing them is comparing addresses."""

    __slots__ = ("device", "dtype", "readonly", "shape", "strides")

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    dtype: DType
    device: Device
    readonly: bool

    _known: ClassVar[dict[tuple, Signature]] = {}

    @classmethod
    def of(
        cls, shape: tuple[int, ...], strides: tuple[int, ...], dtype: DType, device: Device, readonly: bool = False
    ) -> Signature:
        key = (shape, strides, dtype.code, device, readonly)
        known = cls._known.get(key)
        if known is None:
            known = object.__new__(cls)
            known.shape, known.strides, known.dtype, known.device, known.readonly = (
                shape,
                strides,
                dtype,
                device,
                readonly,
            )
            if len(cls._known) >= _INTERNED_LIMIT:
                cls._known.clear()  # two objects for one signature only cost a second descriptor
            known = cls._known.setdefault(key, known)
        return known

    @property
    def nbytes(self) -> int:
        """Of all elements, whatever lies between them."""
        return math.prod(self.shape) * self.dtype.itemsize


def _extents(given: Sequence[Any]) -> tuple[int, ...]:
    """Integers that were given one by one, or as one sequence."""
    listed = given[0] if len(given) == 1 and isinstance(given[0], Iterable) else given
    try:
        return tuple(operator.index(n) for n in listed)
    except TypeError:
        raise TypeError(f"expected integers, got {listed!r}") from None


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def extent(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Lowest and highest element offset that a view reaches; (0, -1) when it has no elements."""
    if 0 in shape:
        return 0, -1
    low = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    high = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)
    return low, high


class Tensor:
    """A strided view of memory that infinirt allocated or that another library lent. Views keep the memory alive."""

    __slots__ = ("__weakref__", "_owner", "_ptr", "_sig")

    _ptr: Any  # char * of the first element
    _sig: Signature
    _owner: object  # whoever keeps the memory alive

    def __init__(self, data: Any, *, dtype: object = None, device: DeviceLike = None):
        """A new tensor that holds a copy of `data` (anything NumPy takes)."""
        made = asarray(data, dtype=dtype, device=device)
        is_new = made is not data and isinstance(made._owner, Storage)
        copied = made if is_new else made.copy()
        self._ptr, self._sig, self._owner = copied._ptr, copied._sig, copied._owner

    @classmethod
    def _make(cls, ptr: Any, sig: Signature, owner: object) -> Tensor:
        self = object.__new__(cls)
        self._ptr, self._sig, self._owner = ptr, sig, owner
        return self

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self._sig.shape

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements."""
        return self._sig.strides

    @property
    def dtype(self) -> DType:
        return self._sig.dtype

    @property
    def device(self) -> Device:
        return self._sig.device

    @property
    def ndim(self) -> int:
        return len(self._sig.shape)

    @property
    def readonly(self) -> bool:
        """Whether the memory was lent for reading only."""
        return self._sig.readonly

    @property
    def itemsize(self) -> int:
        return self._sig.dtype.itemsize

    @property
    def data_ptr(self) -> int:
        """The address of the first element."""
        return address_of(self._ptr)

    def numel(self) -> int:
        return math.prod(self._sig.shape)

    @property
    def nbytes(self) -> int:
        return self._sig.nbytes

    def is_contiguous(self) -> bool:
        """Row-major without gaps; strides of axes with extent 1 do not matter."""
        if 0 in self.shape:
            return True
        expected = 1
        for n, s in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and s != expected:
                return False
            expected *= n
        return True

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __repr__(self) -> str:
        where = "" if self.device.is_cpu else f", device={str(self.device)!r}"
        if self.numel() > 1000 or self.numel() == 0:
            return f"Tensor(shape={list(self.shape)}, dtype={self.dtype!r}{where})"
        body = np.array2string(self._host(), separator=", ", prefix="Tensor(")
        return f"Tensor({body}, dtype={self.dtype!r}{where})"

    # ---- views ------------------------------------------------------------------------------------------

    def _view(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Tensor:
        sig = self._sig
        ptr = self._ptr + offset * sig.dtype.itemsize if offset else self._ptr
        return Tensor._make(ptr, Signature.of(shape, strides, sig.dtype, sig.device, sig.readonly), self._owner)

    def _axis(self, axis: int, rank: int | None = None) -> int:
        rank = self.ndim if rank is None else rank
        if not -rank <= axis < rank:
            raise TensorShapeError(f"axis {axis} of a tensor with {self.ndim} axes", got=str(axis))
        return axis % rank

    def as_strided(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Tensor:
        """Any view that stays within what this tensor reaches; offset and strides in elements."""
        shape, strides = _extents((shape,)), _extents((strides,))
        if len(shape) != len(strides):
            raise TensorShapeError(argument="strides", expected=f"{len(shape)} strides", got=f"{len(strides)}")
        if any(n < 0 for n in shape):
            raise TensorShapeError(argument="shape", expected="extents of 0 or more", got=str(list(shape)))
        low, high = extent(shape, strides)
        first, last = extent(self.shape, self.strides)
        if low + offset < first or high + offset > last:
            raise TensorShapeError(f"a view of elements {low + offset}..{high + offset} leaves {first}..{last}")
        return self._view(tuple(shape), tuple(strides), offset)

    def view(self, *shape: Any) -> Tensor:
        """Another shape over the same memory; raises where only a copy would do."""
        wanted = self._resolve(shape)
        strides = _view_strides(self.shape, self.strides, wanted)
        if strides is None:
            raise TensorStridesError(
                f"{list(self.shape)} with strides {list(self.strides)} is no {list(wanted)} without a copy: use reshape"
            )
        return self._view(wanted, strides)

    def reshape(self, *shape: Any) -> Tensor:
        """Another shape: a view where strides allow it, a copy where not."""
        wanted = self._resolve(shape)
        strides = _view_strides(self.shape, self.strides, wanted)
        return self._view(wanted, strides) if strides is not None else self.contiguous().reshape(wanted)

    def _resolve(self, shape: tuple[Any, ...]) -> tuple[int, ...]:
        wanted = _extents(shape)
        if wanted.count(-1) == 1:
            known = -math.prod(wanted)
            wanted = tuple((self.numel() // known if known else 0) if n == -1 else n for n in wanted)
        if any(n < 0 for n in wanted) or math.prod(wanted) != self.numel():
            raise TensorShapeError(
                f"shape {list(wanted)} does not hold the {self.numel()} elements of {list(self.shape)}"
            )
        return wanted

    def permute(self, *axes: Any) -> Tensor:
        order = tuple(self._axis(a) for a in _extents(axes))
        if sorted(order) != list(range(self.ndim)):
            raise TensorShapeError(f"not a permutation of {self.ndim} axes: {list(order)}")
        return self._view(tuple(self.shape[a] for a in order), tuple(self.strides[a] for a in order))

    def transpose(self, a: int = -2, b: int = -1) -> Tensor:
        order = list(range(self.ndim))
        a, b = self._axis(a), self._axis(b)
        order[a], order[b] = order[b], order[a]
        return self.permute(order)

    @property
    def T(self) -> Tensor:
        return self.permute(tuple(reversed(range(self.ndim))))

    def unsqueeze(self, axis: int) -> Tensor:
        axis = self._axis(axis, self.ndim + 1)
        stride = self.shape[axis] * self.strides[axis] if axis < self.ndim else 1
        return self._view(
            (*self.shape[:axis], 1, *self.shape[axis:]), (*self.strides[:axis], stride, *self.strides[axis:])
        )

    def squeeze(self, axis: int | None = None) -> Tensor:
        """Without the axis (or all axes) of extent 1."""
        gone = {i for i, n in enumerate(self.shape) if n == 1}
        if axis is not None:
            gone &= {self._axis(axis)}
        keep = [i for i in range(self.ndim) if i not in gone]
        return self._view(tuple(self.shape[i] for i in keep), tuple(self.strides[i] for i in keep))

    def expand(self, *shape: Any) -> Tensor:
        """Axes of extent 1 repeated (stride 0); -1 keeps an axis; new axes come first."""
        wanted = _extents(shape)
        new = len(wanted) - self.ndim
        if new < 0:
            raise TensorShapeError(f"{list(self.shape)} cannot be expanded to {list(wanted)}")
        extents, strides = [], []
        for i, n in enumerate(wanted):
            have, stride = (1, 0) if i < new else (self.shape[i - new], self.strides[i - new])
            n = have if n == -1 else n
            if have not in (1, n):
                raise TensorShapeError(f"{list(self.shape)} cannot be expanded to {list(wanted)}")
            extents.append(n)
            strides.append(stride if have == n else 0)
        return self._view(tuple(extents), tuple(strides))

    def __getitem__(self, key: Any) -> Tensor:
        """Basic indexing: integers, slices, Ellipsis, None. Always a view."""
        keys = key if isinstance(key, tuple) else (key,)
        named = sum(1 for k in keys if k is not None and k is not Ellipsis)
        open_ended = sum(1 for k in keys if k is Ellipsis)
        if named > self.ndim:
            raise IndexError(f"{named} indices for {self.ndim} axes")
        if open_ended > 1:
            raise IndexError("an index holds one Ellipsis at most")
        shape: list[int] = []
        strides: list[int] = []
        offset = axis = 0
        for k in keys if open_ended else (*keys, Ellipsis):
            if k is None:
                shape.append(1)
                strides.append(0)
            elif k is Ellipsis:
                rest = self.ndim - named
                shape += self.shape[axis : axis + rest]
                strides += self.strides[axis : axis + rest]
                axis += rest
            else:
                offset += self._index(k, axis, shape, strides)
                axis += 1
        return self._view(tuple(shape), tuple(strides), 0 if 0 in shape else offset)

    def _index(self, key: Any, axis: int, shape: list[int], strides: list[int]) -> int:
        """One axis of an index: appends what is left of it, returns its offset."""
        n, stride = self.shape[axis], self.strides[axis]
        if isinstance(key, slice):
            start, stop, step = key.indices(n)
            shape.append(len(range(start, stop, step)))
            strides.append(stride * step)
            return start * stride
        try:
            if isinstance(key, bool | np.bool_):  # a mask, which is not a view
                raise TypeError
            index = operator.index(key)
        except TypeError:
            raise TypeError(f"not an index: {key!r} (integers, slices, Ellipsis and None)") from None
        if not -n <= index < n:
            raise IndexError(f"index {index} is out of bounds for axis {axis} of extent {n}")
        return (index % n) * stride

    # ---- copies -----------------------------------------------------------------------------------------

    def contiguous(self) -> Tensor:
        """This tensor when it is row-major, else a copy that is."""
        return self if self.is_contiguous() else self.copy()

    def copy(self) -> Tensor:
        """A new row-major tensor with the same values."""
        return empty(self.shape, self.dtype, self.device).copy_(self)

    def copy_(self, source: Array) -> Tensor:
        """Overwrite this tensor with the values of another of its shape and dtype, on any device."""
        other = asarray(source)
        if other.shape != self.shape:
            raise TensorShapeError(argument="source", expected=str(list(self.shape)), got=str(list(other.shape)))
        if other.dtype is not self.dtype:
            raise TensorDtypeError(argument="source", expected=self.dtype.name, got=other.dtype.name)
        if self.readonly:
            raise BadParamError(argument="self", expected="writable memory", got="a read-only tensor")
        if self.numel() == 0:
            return self
        if self.device is not other.device:
            return self._copy_between(other)
        lane = lane_of(self.device)
        if self.is_contiguous() and other.is_contiguous():
            lane.keep(lane.handle, self, other)
            memory.copy(self._ptr, other._ptr, self.nbytes, self.device, other.device, lane.handle)
        else:
            from .ops import rearrange  # type: ignore[attr-defined]  # generated at build

            rearrange(other, out=self)
        return self

    def _copy_between(self, other: Tensor) -> Tensor:
        packed = other.contiguous()
        target = self if self.is_contiguous() else empty(self.shape, self.dtype, self.device)
        lane = lane_of(other.device if self.device.is_cpu else self.device)
        if not self.device.is_cpu and not other.device.is_cpu:
            packed, lane = packed.to("cpu"), lane_of(self.device)
        memory.copy(target._ptr, packed._ptr, self.nbytes, self.device, packed.device, lane.handle)
        return self if target is self else self.copy_(target)

    def to(self, device: DeviceLike) -> Tensor:
        """This tensor when it lives there, else a copy on that device."""
        where = Device(device)
        return self if where is self.device else empty(self.shape, self.dtype, where).copy_(self)

    # ---- other libraries --------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The same memory as a NumPy array (bf16 as `ml_dtypes.bfloat16`). CPU only: use `.to("cpu")` first."""
        if not self.device.is_cpu:
            raise BadParamError(argument="self", expected="a tensor on cpu", got=f"one on {self.device}")
        kind = self.dtype.numpy if self.dtype is not _dtypes.BYTE else np.dtype(np.uint8)
        if kind is None:
            raise TensorDtypeError(argument="self", expected="a dtype that NumPy has", got=self.dtype.name)
        if self.numel() == 0:
            return np.empty(self.shape, kind)
        return np.asarray(_ArrayInterface(self)).view(kind)

    def _host(self) -> np.ndarray:
        return self.to("cpu").numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError("another dtype needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self.numel() != 1:
            raise TensorShapeError(f"item() of a tensor with {self.numel()} elements", got=str(list(self.shape)))
        value = self._host().reshape(())[()]
        return float(value) if self.dtype.is_float else value.item()

    def tolist(self) -> Any:
        array = self._host()
        return (array.astype(np.float64) if self.dtype.is_float else array).tolist()

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        from . import dlpack

        return dlpack.export(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        from . import dlpack

        return dlpack.device_pair(self.device)


class _ArrayInterface:
    """NumPy reads this and keeps it, and with it the memory."""

    def __init__(self, tensor: Tensor):
        self.owner = tensor._owner
        size = tensor.itemsize
        self.__array_interface__ = {
            "shape": tensor.shape,
            "strides": tuple(s * size for s in tensor.strides),
            "typestr": f"|V{size}",
            "data": (tensor.data_ptr, tensor.readonly),
            "version": 3,
        }


def _view_strides(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of another shape over the same elements; None when only a copy would do."""
    if math.prod(shape) == 0:
        return row_major(wanted)
    runs = _merged(shape, strides)
    result = [0] * len(wanted)
    axis = len(wanted) - 1
    for size, stride in reversed(runs):
        filled = 1
        while axis >= 0 and (filled < size or wanted[axis] == 1):
            result[axis] = stride * filled
            filled *= wanted[axis]
            axis -= 1
        if filled != size:
            return None
    for i in range(axis, -1, -1):  # what is left has extent 1
        result[i] = result[i + 1] * wanted[i + 1] if i + 1 < len(wanted) else 1
    return tuple(result)


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal runs of axes that one stride describes, as (elements, stride)."""
    runs: list[tuple[int, int]] = []
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * s:
            runs[-1] = (runs[-1][0] * n, s)
        else:
            runs.append((n, s))
    return runs


# ---- making tensors -----------------------------------------------------------------------------------------


def new(sig: Signature) -> Tensor:
    """An uninitialised tensor with a row-major signature."""
    storage = Storage(sig.device, sig.nbytes, lane_of(sig.device).handle)
    return Tensor._make(storage.ptr, sig, storage)


def empty(shape: int | Sequence[int], dtype: object = "float32", device: DeviceLike = None) -> Tensor:
    """Uninitialised memory."""
    wanted = _extents((shape,))
    if any(n < 0 for n in wanted):
        raise TensorShapeError(argument="shape", expected="extents of 0 or more", got=str(list(wanted)))
    return new(Signature.of(wanted, row_major(wanted), _dtypes.dtype(dtype), Device(device)))


def zeros(shape: int | Sequence[int], dtype: object = "float32", device: DeviceLike = None) -> Tensor:
    made = empty(shape, dtype, device)
    memory.clear(made._ptr, made.nbytes, made.device, lane_of(made.device).handle)
    return made


def from_numpy(array: np.ndarray) -> Tensor:
    """The same memory as a tensor; read-only when the array is."""
    from .arrays import numpy_pointer, numpy_signature

    if not isinstance(array, np.ndarray):
        raise TypeError(f"not a NumPy array: {type(array).__name__}")
    return Tensor._make(numpy_pointer(array), numpy_signature(array), array)


def from_dlpack(source: Any) -> Tensor:
    """The memory of anything that has `__dlpack__`, as a tensor; read-only when it was lent so."""
    from . import dlpack

    return dlpack.borrow(source)


def from_cuda_array(source: Any) -> Tensor:
    """The device memory of anything that has `__cuda_array_interface__`; read-only when it was lent so."""
    from . import cuda_array

    return cuda_array.borrow(source)


def asarray(data: Any, *, dtype: object = None, device: DeviceLike = None) -> Tensor:
    """A tensor: `data` itself, its memory where that is possible, a copy where not."""
    if isinstance(data, Tensor):
        made = data
    elif isinstance(data, np.ndarray):
        made = from_numpy(data)
    elif hasattr(data, "__dlpack__"):
        made = from_dlpack(data)
    elif hasattr(data, "__cuda_array_interface__"):
        made = from_cuda_array(data)
    else:
        made = from_numpy(np.asarray(data, None if dtype is None else _dtypes.dtype(dtype).numpy))
    if dtype is not None and made.dtype is not _dtypes.dtype(dtype):
        made = from_numpy(made._host().astype(_dtypes.dtype(dtype).numpy))
    return made if device is None else made.to(device)
