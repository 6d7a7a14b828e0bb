"""The device's memory, streams and events through torch: used where no other backend brings the device a runtime."""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from infiniop import Device, PythonRuntime
from infiniop.views import bytes_at

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
LENDERS = {"cpu": "cpu", "cuda": "nvidia"}
"""The devices of torch that borrow memory by its address, through DLPack, and what infiniop calls them."""


def borrow(address: int, nbytes: int, device: Device) -> torch.Tensor:
    """Bytes that infiniop lends. Nobody waits for anybody (stream -1): whoever uses them is on the right stream."""
    lent = bytes_at(address, nbytes, device)
    return torch.from_dlpack(lent if device.is_cpu else lent.__dlpack__(stream=-1))


class TorchRuntime(PythonRuntime):
    """Blocks are tensors of torch, streams and events those of its device module (`torch.cuda` and its likes)."""

    def __init__(self, kind: str, module: Any = None):
        self.kind = kind
        self.module = torch.get_device_module(kind) if module is None else module
        super().__init__(self.module.device_count())
        self._lock = threading.Lock()
        self._starts: list[int] = []  # addresses of the blocks, ascending
        self._tensors: dict[int, torch.Tensor] = {}
        self._objects: dict[int, Any] = {}  # streams and events by handle
        if hasattr(self.module, "mem_get_info"):
            self.memory_info = self.module.mem_get_info

    def synchronize(self, device_id: int) -> None:
        self.module.synchronize(device_id)

    # ---- memory ---------------------------------------------------------------------------------------------

    def malloc(self, device_id: int, size: int) -> int:
        block = torch.empty(max(size, 1), dtype=torch.uint8, device=f"{self.kind}:{device_id}")
        address = block.data_ptr()
        with self._lock:
            self._tensors[address] = block
            bisect.insort(self._starts, address)
        return address

    def free(self, device_id: int, address: int) -> None:
        with self._lock:
            del self._tensors[address]
            del self._starts[bisect.bisect_left(self._starts, address)]

    def bytes_at(self, device_id: int, address: int, nbytes: int) -> torch.Tensor:
        """Bytes of one of the blocks, or memory that somebody else has allocated."""
        with self._lock:
            i = bisect.bisect_right(self._starts, address) - 1
            block = self._tensors[self._starts[i]] if i >= 0 else None
            offset = address - self._starts[i] if i >= 0 else 0
        if block is not None and offset + nbytes <= block.numel():
            return block[offset : offset + nbytes]
        if self.kind not in LENDERS:
            raise ValueError(f"{address:#x} is not in this backend's memory, and torch borrows none of {self.kind}")
        return borrow(address, nbytes, Device(LENDERS[self.kind], device_id))

    def memcpy(self, device_id: int, target: int, source: int, size: int, kind: int) -> None:
        self.memcpy_async(device_id, target, source, size, kind, 0)
        self.stream_synchronize(device_id, 0)

    def memcpy_async(self, device_id: int, target: int, source: int, size: int, kind: int, stream: int) -> None:
        if size:
            with self.on(device_id, stream):
                to = self._bytes(device_id, target, size, host=kind in (0, DEVICE_TO_HOST))
                to.copy_(self._bytes(device_id, source, size, host=kind in (0, HOST_TO_DEVICE)))

    def memset(self, device_id: int, address: int, value: int, count: int) -> None:
        self.memset_async(device_id, address, value, count, 0)
        self.stream_synchronize(device_id, 0)

    def memset_async(self, device_id: int, address: int, value: int, count: int, stream: int) -> None:
        if count:
            with self.on(device_id, stream):
                self._bytes(device_id, address, count, host=False).fill_(value)

    def _bytes(self, device_id: int, address: int, nbytes: int, host: bool) -> torch.Tensor:
        return borrow(address, nbytes, Device("cpu")) if host else self.bytes_at(device_id, address, nbytes)

    # ---- streams and events ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def on(self, device_id: int, stream: int) -> Iterator[None]:
        """torch's work inside goes to the stream. Inference mode: blocks may have been made in it."""
        with torch.inference_mode(), self.module.stream(self._stream(device_id, stream)):
            yield

    def is_capturing(self) -> bool:
        """Whether another backend's runtime records the current stream natively. This one does not."""
        asked = getattr(self.module, "is_current_stream_capturing", None)
        return asked is not None and asked()

    def _stream(self, device_id: int, handle: int) -> Any:
        """One of ours, the default one, or a native one that somebody else made."""
        if handle in self._objects:
            return self._objects[handle]
        if handle == 0:
            return self.module.default_stream(device_id)
        return self.module.ExternalStream(handle, device=device_id)

    def stream_create(self, device_id: int) -> int:
        stream = self.module.Stream(device=device_id)
        return self._keep(stream, getattr(stream, f"{self.kind}_stream", 0))  # native where torch tells

    def stream_destroy(self, stream: int) -> None:
        self._objects.pop(stream, None)

    def stream_synchronize(self, device_id: int, stream: int) -> None:
        self._stream(device_id, stream).synchronize()

    def stream_wait_event(self, device_id: int, stream: int, event: int) -> None:
        self._stream(device_id, stream).wait_event(self._objects[event])

    def event_create(self, device_id: int) -> int:
        return self._keep(self.module.Event(enable_timing=True), 0)

    def event_record(self, device_id: int, event: int, stream: int) -> None:
        self._objects[event].record(self._stream(device_id, stream))

    def event_done(self, event: int) -> bool:
        return bool(self._objects[event].query())

    def event_synchronize(self, event: int) -> None:
        self._objects[event].synchronize()

    def event_elapsed(self, start: int, end: int) -> float:
        return float(self._objects[start].elapsed_time(self._objects[end]))

    def event_destroy(self, event: int) -> None:
        self._objects.pop(event, None)

    def _keep(self, made: Any, native: int) -> int:
        handle = native or next(self._handles)
        self._objects[handle] = made
        return handle
