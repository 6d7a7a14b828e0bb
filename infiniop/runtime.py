"""Devices and their memory, as infinirt sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import plugins
from ._library import ffi, lib
from .device import Device, DeviceLike
from .errors import check


@dataclass(frozen=True)
class Snapshot:
    """What a device's monitor knows; None where it does not. Sizes in bytes, utilisations from 0 to 1."""

    free_bytes: int | None
    total_bytes: int | None
    used_bytes: int | None
    compute_utilization: float | None
    memory_bandwidth_utilization: float | None
    kernel_time_ratio: float | None
    communication_time_ratio: float | None
    communication_bytes: int | None


def device_count(device: DeviceLike = None) -> int:
    """How many devices of this kind there are."""
    plugins.discover()
    room = ffi.new("int *")
    check(lib.infinirtGetDeviceCount(Device(device).code, room))
    return int(room[0])


def memory_info(device: DeviceLike = None) -> tuple[int, int]:
    """(free, total) in bytes."""
    where = Device(device)
    room = ffi.new("size_t[2]")
    check(lib.infinirtGetMemInfo(where.code, where.index, room, room + 1))
    return int(room[0]), int(room[1])


def snapshot(device: DeviceLike = None) -> Snapshot:
    where = Device(device)
    found = ffi.new("infinirtDeviceResourceSnapshot_t *")
    check(lib.infinirtGetDeviceResourceSnapshot(where.code, where.index, found))

    def known(bit: int, value: Any) -> Any:
        return value if found.valid_fields & bit else None

    memory, compute = lib.INFINIRT_RESOURCE_FIELD_MEMORY_CAPACITY, lib.INFINIRT_RESOURCE_FIELD_COMPUTE_UTILIZATION
    bandwidth = lib.INFINIRT_RESOURCE_FIELD_MEMORY_BANDWIDTH_UTILIZATION
    kernels, traffic = lib.INFINIRT_RESOURCE_FIELD_KERNEL_TIME_RATIO, lib.INFINIRT_RESOURCE_FIELD_COMMUNICATION
    return Snapshot(
        known(memory, found.free_bytes), known(memory, found.total_bytes), known(memory, found.used_bytes),
        known(compute, found.compute_utilization), known(bandwidth, found.memory_bandwidth_utilization),
        known(kernels, found.kernel_time_ratio), known(traffic, found.communication_time_ratio),
        known(traffic, found.communication_bytes),
    )  # fmt: skip


def version() -> str:
    """The native library's version."""
    return str(ffi.string(lib.infiniopGetVersion()).decode())


def plugin_abi() -> tuple[int, int]:
    """(major, minor) of the plugin ABI."""
    room = ffi.new("uint32_t[2]")
    check(lib.infiniopGetBackendAbiVersion(room, room + 1))
    return int(room[0]), int(room[1])
