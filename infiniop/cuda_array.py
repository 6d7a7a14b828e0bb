"""Device memory of libraries that speak `__cuda_array_interface__` (versions 2 and 3) and not DLPack."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._library import lib
from .device import Device
from .errors import BadParamError, check
from .memory import current, current_device, pointer_to, require_aligned
from .streams import Event, handle_of, lane_of
from .tensor import Signature, Tensor, row_major


def borrow(source: Any) -> Tensor:
    """A tensor over the memory of anything that has `__cuda_array_interface__`."""
    found = source.__cuda_array_interface__
    sig, address = parse(found)
    _order_after_theirs(sig.device, found.get("stream"))
    return Tensor._make(pointer_to(address), sig, source)


def parse(found: dict[str, Any]) -> tuple[Signature, int]:
    """Signature and address. The interface names no device: the thread's current one of nvidia's, or the first."""
    from .arrays import numpy_dtype

    if found.get("version", 0) not in (2, 3):
        raise BadParamError(expected="__cuda_array_interface__ version 2 or 3", got=str(found.get("version")))
    if found.get("mask") is not None:
        raise BadParamError(expected="an array without a mask", got="a masked one")
    if found.get("stream") == 0:
        raise BadParamError(expected="a stream that is 1, 2 or an address", got="0, which the protocol forbids")
    made = numpy_dtype(np.dtype(found["typestr"]))
    shape = tuple(int(n) for n in found["shape"])
    strides = row_major(shape)
    if found.get("strides") is not None:
        given = tuple(int(s) for s in found["strides"])
        if len(given) != len(shape) or any(s % made.itemsize for s in given):
            raise BadParamError(f"strides of {given} bytes for shape {shape} and {made.itemsize}-byte elements")
        strides = tuple(s // made.itemsize for s in given)
    address, readonly = found["data"]
    address = int(address or 0)  # None is how some say that there are no elements
    if math.prod(shape):
        require_aligned(address, made)
    here = current_device()
    device = here if here.name == "nvidia" else Device("nvidia")
    return Signature.of(shape, strides, made, device, bool(readonly)), address


def _order_after_theirs(device: Device, stream: int | None) -> None:
    """Make our stream wait for the work that the producer has given to its own."""
    if stream is None:
        return
    ours = lane_of(device).handle
    if handle_of(stream, device) != ours:
        event = Event(device).record(stream)
        with current(device):
            check(lib.infinirtStreamWaitEvent(ours, event.handle))
