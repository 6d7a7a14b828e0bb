"""Memory that a process and a device have in use."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

from infiniop.device import Device
from infiniop.errors import InfiniopError
from infiniop.runtime import memory_info

_ROUNDS = 4
_CALLS = 100
_LEAST = 8  # bytes per call


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def growth(call: Callable[[], None], device: Device) -> str | None:
    """A sentence when every round of calls leaves more memory in use than the one before."""
    gc.freeze()  # what is there already is not looked through again and again
    try:
        return _growth(call, device)
    finally:
        gc.unfreeze()


def _growth(call: Callable[[], None], device: Device) -> str | None:
    grown: dict[str, list[int]] = {}
    call()
    before = _in_use(device)
    for _ in range(_ROUNDS):
        for _ in range(_CALLS):
            call()
        after = _in_use(device)
        for name, value in after.items():
            grown.setdefault(name, []).append(value - before[name])
        before = after
    for name, rounds in grown.items():
        least = _CALLS if name == "Python objects" else _LEAST * _CALLS
        if min(rounds[1:]) >= least:  # the first round fills caches
            return f"{name}: {_CALLS} calls leave {min(rounds[1:])} more in use, round after round"
    return None


def _in_use(device: Device) -> dict[str, int]:
    gc.collect()
    found = {"Python objects": sys.getallocatedblocks()}
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is not None:
        mallinfo2.restype = _Mallinfo2
        info = mallinfo2()
        found["bytes of host memory"] = info.uordblks + info.hblkhd
    if not device.is_cpu:
        try:
            free, total = memory_info(device)
        except InfiniopError:
            return found  # the device does not say
        found["bytes of device memory"] = total - free
    return found
