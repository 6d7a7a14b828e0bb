"""Devices whose memory Python manages: the runtime table of a Python backend."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from ._library import ffi, lib
from .memory import NULL
from .schema import Status

_alive: list[Any] = []  # C keeps the addresses of tables and callbacks


class PythonRuntime:
    """A device. The methods as they stand give a device that lives in host memory; override what differs.

    Addresses are integers. Work is done when a call returns, so that streams and events have nothing to wait for. A
    method fails by raising.
    """

    def __init__(self, devices: int = 1):
        self.devices = devices
        self._blocks: dict[int, Any] = {}

    def device_count(self) -> int:
        return self.devices

    def malloc(self, device_id: int, size: int) -> int:
        block = ffi.new("char[]", max(size, 1))
        address = int(ffi.cast("uintptr_t", block))
        self._blocks[address] = block
        return address

    def free(self, device_id: int, address: int) -> None:
        self._blocks.pop(address, None)

    def memcpy(self, device_id: int, target: int, source: int, size: int, kind: int) -> None:
        """`kind`: 0 host to host, 1 host to device, 2 device to host, 3 device to device."""
        ffi.memmove(ffi.cast("char *", target), ffi.cast("char *", source), size)

    def memset(self, device_id: int, address: int, value: int, count: int) -> None:
        ffi.buffer(ffi.cast("char *", address), count)[:] = bytes([value & 0xFF]) * count

    def synchronize(self, device_id: int) -> None:
        """Wait for all work on the device."""


class _Table:
    """The functions of `infinirtRuntime`, by field name."""

    def __init__(self, runtime: PythonRuntime):
        self.runtime = runtime
        self._handles = itertools.count(1)
        self._times: dict[int, float] = {}

    def device_count(self, count: Any) -> None:
        count[0] = self.runtime.device_count()

    def synchronize(self, device_id: int) -> None:
        self.runtime.synchronize(device_id)

    def malloc(self, device_id: int, pointer: Any, size: int) -> None:
        pointer[0] = ffi.cast("void *", self.runtime.malloc(device_id, size))

    def free(self, device_id: int, pointer: Any) -> None:
        if pointer != NULL:
            self.runtime.free(device_id, _address(pointer))

    def memcpy(self, device_id: int, target: Any, source: Any, size: int, kind: int, stream: Any = None) -> None:
        self.runtime.memcpy(device_id, _address(target), _address(source), size, int(kind))

    def memset(self, device_id: int, pointer: Any, value: int, count: int, stream: Any = None) -> None:
        self.runtime.memset(device_id, _address(pointer), value, count)

    memcpy_async, memset_async = memcpy, memset

    def stream_create(self, device_id: int, stream: Any) -> None:
        stream[0] = ffi.cast("void *", next(self._handles))

    def stream_destroy(self, stream: Any) -> None:
        """Streams are numbers."""

    def stream_synchronize(self, device_id: int, stream: Any) -> None:
        self.runtime.synchronize(device_id)

    def stream_wait_event(self, device_id: int, stream: Any, event: Any) -> None:
        """What came before the event is done."""

    def event_create(self, device_id: int, event: Any, flags: int) -> None:
        event[0] = ffi.cast("void *", next(self._handles))

    def event_record(self, device_id: int, event: Any, stream: Any) -> None:
        self._times[_address(event)] = time.perf_counter()

    def event_query(self, event: Any, status: Any) -> None:
        status[0] = lib.INFINIRT_EVENT_COMPLETE

    def event_synchronize(self, event: Any) -> None:
        """Recorded events have passed."""

    def event_elapsed(self, milliseconds: Any, start: Any, end: Any) -> None:
        milliseconds[0] = (self._times[_address(end)] - self._times[_address(start)]) * 1e3

    def event_destroy(self, event: Any) -> None:
        self._times.pop(_address(event), None)


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


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
    def called(*arguments: Any) -> int:
        from .python_backend import report

        try:
            function(*arguments)
            return int(Status.SUCCESS)
        except BaseException as error:
            return report(error, field)

    return called
