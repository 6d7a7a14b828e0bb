"""Device memory that Python owns: allocated by infinirt, freed when nothing refers to it and its stream has passed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ._library import ffi, lib
from .device import Device
from .errors import BadParamError, InternalError, check, last_error
from .schema.dtypes import DType

NULL = ffi.NULL
H2H, H2D, D2H, D2D = range(4)  # infinirtMemcpyKind_t
_CHAR_POINTER = ffi.typeof("char *")
_ADDRESS = ffi.typeof("uintptr_t")


class _Current(threading.local):
    """Room for the answers of infinirtGetDevice and infinirtMalloc, one per thread."""

    def __init__(self) -> None:
        self.code = ffi.new("infiniDevice_t *")
        self.index = ffi.new("int *")
        self.pointer = ffi.new("void **")


_current = _Current()


def address_of(pointer: Any) -> int:
    return int(ffi.cast(_ADDRESS, pointer))


def pointer_to(address: int) -> Any:
    return ffi.cast(_CHAR_POINTER, address)


def current_device() -> Device:
    """The calling thread's."""
    check(lib.infinirtGetDevice(_current.code, _current.index))
    return Device(int(_current.code[0]), int(_current.index[0]))


def require_aligned(address: int, dtype: DType) -> None:
    """Elements must lie at multiples of their size; complex ones of half of it."""
    unit = dtype.itemsize // 2 if dtype.name.startswith("C") else dtype.itemsize
    if address % unit:
        raise BadParamError(
            expected=f"an address that is a multiple of {unit} bytes", got=f"{address:#x}: copy the array first"
        )


@contextlib.contextmanager
def current(device: Device) -> Iterator[None]:
    """Calls without a device argument act on `device` inside."""
    previous = enter(device)
    try:
        yield
    finally:
        leave(previous)


def enter(device: Device) -> tuple[int, int] | None:
    """Make `device` this thread's current one; what to hand to `leave`."""
    here = _current
    check(lib.infinirtGetDevice(here.code, here.index))
    code, index = here.code[0], here.index[0]
    if code == device.code and (index == device.index or device.is_cpu):
        return None
    check(lib.infinirtSetDevice(device.code, device.index))
    return code, index


def leave(previous: tuple[int, int] | None) -> None:
    if previous is not None:
        lib.infinirtSetDevice(*previous)


# Small blocks of the CPU are handed out again, up to 4 MiB per size: its work is done when a call returns, and this
# spares two C calls. By the logarithm of the block's size.
_LARGEST_KEPT = 20
_kept: list[list[Any]] = [[] for _ in range(_LARGEST_KEPT + 1)]


class Storage:
    """A block of device memory."""

    __slots__ = ("__weakref__", "device", "nbytes", "ptr", "size_class", "stream", "streams")

    def __init__(self, device: Device, nbytes: int, stream: Any = NULL):
        self.device, self.nbytes, self.stream = device, nbytes, stream
        self.streams: list[Any] | None = None  # others that have used this memory
        self.ptr = NULL
        self.size_class = nbytes.bit_length() if device.is_cpu else -1
        if 0 < self.size_class <= _LARGEST_KEPT:
            try:
                self.ptr = _kept[self.size_class].pop()
            except IndexError:
                self._allocate(1 << self.size_class)
        elif nbytes:
            self._allocate(nbytes)

    def _allocate(self, size: int) -> None:
        if size >> 64:
            raise InternalError(f"{self.device}: cannot allocate {size:,} bytes: no address is so long")
        previous = enter(self.device)
        room = _current.pointer
        room[0] = NULL
        if self.device.is_cpu:
            status = lib.infinirtMalloc(room, size)
        else:
            status = lib.infinirtMallocAsync(room, size, self.stream)
        error = self._failure(status) if status or room[0] == NULL else None
        leave(previous)
        if error is not None:
            raise error
        self.ptr = ffi.cast(_CHAR_POINTER, room[0])

    def _failure(self, status: int) -> InternalError:
        cause = str(last_error(status)) if status else "no memory"
        free = ffi.new("size_t[2]")
        known = lib.infinirtGetMemInfo(self.device.code, self.device.index, free, free + 1) == 0
        left = f"{free[0]:,} of {free[1]:,} bytes free" if known else "free memory unknown"
        return InternalError(f"{self.device}: cannot allocate {self.nbytes:,} bytes ({left}): {cause}")

    def used_on(self, stream: Any) -> None:
        """Work on another stream than the one that allocated uses this memory."""
        if stream != self.stream:
            self.streams = [*(s for s in self.streams or () if s != stream), stream]

    def __del__(self, NULL: Any = NULL, kept: Any = _kept) -> None:
        if self.ptr == NULL:
            return
        size_class = self.size_class
        if 0 < size_class < len(kept) and len(kept[size_class]) <= (4 << 20) >> size_class:
            kept[size_class].append(self.ptr)
        elif _release is not None:  # None while the interpreter shuts down
            _release(self)


def _release(storage: Storage) -> None:
    try:
        previous = enter(storage.device)
    except Exception:
        return  # the device is gone, and its memory with it
    if storage.device.is_cpu:
        lib.infinirtFree(storage.ptr)
    else:
        for stream in storage.streams or ():
            lib.infinirtStreamSynchronize(stream)
        lib.infinirtFreeAsync(storage.ptr, storage.stream)
    leave(previous)


def clear(target: Any, nbytes: int, device: Device, stream: Any) -> None:
    """Fill bytes with zeros, in the order of `stream`."""
    if nbytes:
        with current(device):
            check(lib.infinirtMemsetAsync(target, 0, nbytes, stream))


def copy(target: Any, source: Any, nbytes: int, to: Device, of: Device, stream: Any) -> None:
    """Copy bytes between devices, in the order of `stream`, which belongs to the device among the two."""
    if nbytes == 0:
        return
    kind = (H2H if of.is_cpu else D2H) if to.is_cpu else (H2D if of.is_cpu else D2D)
    acting = of if to.is_cpu else to
    with current(acting):
        check(lib.infinirtMemcpyAsync(target, source, nbytes, kind, stream))
        if kind in (H2D, D2H):
            check(lib.infinirtStreamSynchronize(stream))  # host memory may be changed or read at once
