"""Devices whose memory Python manages: the runtime table of a Python backend."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

from ._library import ffi, lib
from .memory import NULL, address_of

ALIGNMENT = 64  # bytes, of device memory

_alive: list[Any] = []  # C keeps the addresses of tables and callbacks


class PythonRuntime:
    """A device. The methods as they stand give a device that lives in host memory; override what differs.

    Addresses, streams and events are integers; stream 0 is the device's default one. Work is done when a call returns,
    so that streams and events have nothing to wait for: a device that works asynchronously overrides them, and the
    calls that take a stream. A method fails by raising.
    """

    memory_info: Callable[[int], tuple[int, int]] | None = None
    """(free, total) bytes of a device, by its number; None: unknown."""

    def __init__(self, devices: int = 1):
        self.devices = devices
        self._blocks: dict[int, Any] = {}
        self._handles = itertools.count(1)
        self._times: dict[int, float] = {}

    def device_count(self) -> int:
        return self.devices

    def synchronize(self, device_id: int) -> None:
        """Wait for all work on the device."""

    # ---- memory ---------------------------------------------------------------------------------------------

    def malloc(self, device_id: int, size: int) -> int:
        block = ffi.new("char[]", size + ALIGNMENT)
        address = -(-address_of(block) // ALIGNMENT) * ALIGNMENT
        self._blocks[address] = block
        return address

    def free(self, device_id: int, address: int) -> None:
        self._blocks.pop(address, None)

    def memcpy(self, device_id: int, target: int, source: int, size: int, kind: int) -> None:
        """`kind`: 0 host to host, 1 host to device, 2 device to host, 3 device to device."""
        ffi.memmove(ffi.cast("char *", target), ffi.cast("char *", source), size)

    def memcpy_async(self, device_id: int, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self.memcpy(device_id, target, source, size, kind)

    def memset(self, device_id: int, address: int, value: int, count: int) -> None:
        """`value` is a byte; `count` is in bytes."""
        ffi.buffer(ffi.cast("char *", address), count)[:] = bytes([value & 0xFF]) * count

    def memset_async(self, device_id: int, address: int, value: int, count: int, stream: int) -> None:
        self.memset(device_id, address, value, count)

    # ---- streams and events ---------------------------------------------------------------------------------

    def stream_create(self, device_id: int) -> int:
        return next(self._handles)

    def stream_destroy(self, stream: int) -> None:
        """Streams are numbers."""

    def stream_synchronize(self, device_id: int, stream: int) -> None:
        self.synchronize(device_id)

    def stream_wait_event(self, device_id: int, stream: int, event: int) -> None:
        """What came before the event is done."""

    def event_create(self, device_id: int) -> int:
        return next(self._handles)

    def event_record(self, device_id: int, event: int, stream: int) -> None:
        self._times[event] = time.perf_counter()

    def event_done(self, event: int) -> bool:
        return True

    def event_synchronize(self, event: int) -> None:
        """Recorded events have passed."""

    def event_elapsed(self, start: int, end: int) -> float:
        """Milliseconds."""
        return (self._times[end] - self._times[start]) * 1e3

    def event_destroy(self, event: int) -> None:
        self._times.pop(event, None)


class _Table:
    """The functions of `infinirtRuntime`, by field name."""

    def __init__(self, runtime: PythonRuntime):
        self.runtime = runtime
        if runtime.memory_info is not None:
            self.mem_info = self._mem_info

    def device_count(self, count: Any) -> None:
        count[0] = self.runtime.device_count()

    def synchronize(self, device_id: int) -> None:
        self.runtime.synchronize(device_id)

    def _mem_info(self, device_id: int, free: Any, total: Any) -> None:
        assert self.runtime.memory_info is not None
        free[0], total[0] = self.runtime.memory_info(device_id)

    def malloc(self, device_id: int, pointer: Any, size: int) -> None:
        pointer[0] = ffi.cast("void *", self.runtime.malloc(device_id, size))

    def free(self, device_id: int, pointer: Any) -> None:
        if pointer != NULL:
            self.runtime.free(device_id, address_of(pointer))

    def memcpy(self, device_id: int, target: Any, source: Any, size: int, kind: int) -> None:
        self.runtime.memcpy(device_id, address_of(target), address_of(source), size, int(kind))

    def memcpy_async(self, device_id: int, target: Any, source: Any, size: int, kind: int, stream: Any) -> None:
        self.runtime.memcpy_async(
            device_id, address_of(target), address_of(source), size, int(kind), address_of(stream)
        )

    def memset(self, device_id: int, pointer: Any, value: int, count: int) -> None:
        self.runtime.memset(device_id, address_of(pointer), value & 0xFF, count)

    def memset_async(self, device_id: int, pointer: Any, value: int, count: int, stream: Any) -> None:
        self.runtime.memset_async(device_id, address_of(pointer), value & 0xFF, count, address_of(stream))

    def stream_create(self, device_id: int, stream: Any) -> None:
        stream[0] = ffi.cast("void *", self.runtime.stream_create(device_id))

    def stream_destroy(self, stream: Any) -> None:
        self.runtime.stream_destroy(address_of(stream))

    def stream_synchronize(self, device_id: int, stream: Any) -> None:
        self.runtime.stream_synchronize(device_id, address_of(stream))

    def stream_wait_event(self, device_id: int, stream: Any, event: Any) -> None:
        self.runtime.stream_wait_event(device_id, address_of(stream), address_of(event))

    def event_create(self, device_id: int, event: Any, flags: int) -> None:
        event[0] = ffi.cast("void *", self.runtime.event_create(device_id))

    def event_record(self, device_id: int, event: Any, stream: Any) -> None:
        self.runtime.event_record(device_id, address_of(event), address_of(stream))

    def event_query(self, event: Any, status: Any) -> None:
        done = self.runtime.event_done(address_of(event))
        status[0] = lib.INFINIRT_EVENT_COMPLETE if done else lib.INFINIRT_EVENT_NOT_READY

    def event_synchronize(self, event: Any) -> None:
        self.runtime.event_synchronize(address_of(event))

    def event_elapsed(self, milliseconds: Any, start: Any, end: Any) -> None:
        milliseconds[0] = self.runtime.event_elapsed(address_of(start), address_of(end))

    def event_destroy(self, event: Any) -> None:
        self.runtime.event_destroy(address_of(event))


def runtime_table(runtime: PythonRuntime) -> Any:
    """An `infinirtRuntime *` for the device."""
    functions, table = _Table(runtime), ffi.new("infinirtRuntime *")
    table.struct_size = ffi.sizeof("infinirtRuntime")
    for field, _ in ffi.typeof("infinirtRuntime").fields:
        function = getattr(functions, field, None)
        if function is not None:
            made = ffi.callback(ffi.typeof(getattr(table, field)), _with_status(field, function), error=1)
            setattr(table, field, made)
            _alive.append(made)
    _alive.append(table)
    return table


def _with_status(field: str, function: Callable[..., None]) -> Callable[..., int]:
    from .python_backend import report

    def called(*arguments: Any, ending: Callable[[], bool] = sys.is_finalizing) -> int:
        try:
            function(*arguments)
            return 0
        except BaseException as error:
            return 0 if ending() else report(error, field)  # modules are gone then, and nobody asks

    return called
