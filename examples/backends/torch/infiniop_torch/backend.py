"""What stands between infiniop and the kernels: tensors of torch over memory that somebody else owns, and streams."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from infiniop import Device, PythonBackend
from infiniop.arrays import torch_dtypes
from infiniop.schema.dtypes import BYTE, C16
from infiniop.tensor import Signature, extent

from . import attention, caching, elementwise, norms, products, quantised, selection, softmax
from .runtime import TorchRuntime, borrow
from .values import bits

KERNELS = {
    name: function
    for family in (attention, caching, elementwise, norms, products, quantised, selection, softmax)
    for name, function in family.KERNELS.items()
}
NAMES = {"cuda": "nvidia", "npu": "ascend", "mlu": "cambricon", "musa": "moore"}
"""What infiniop calls the devices of torch; others have one name."""


class TorchBackend(PythonBackend):
    """The kernels on one kind of device: the CPU, whose memory the core has, or that of a `TorchRuntime`."""

    def __init__(self, name: str, runtime: TorchRuntime | None = None, device: str = "", **options: Any):
        kind = "cpu" if runtime is None else runtime.kind
        device = device or NAMES.get(kind, kind)
        super().__init__(name, device=device, kernels=KERNELS, runtime=runtime, version=torch.__version__, **options)
        self.kind, self.memory = kind, runtime

    def array(self, address: int, signature: Signature) -> torch.Tensor | Mirrored:
        """A strided tensor over the memory."""
        layout = Layout.of(signature)
        if layout.nbytes == 0:
            flat = torch.empty(0, dtype=torch.uint8, device=f"{self.kind}:{signature.device.index}")
        elif self.memory is None:
            flat = borrow(address + layout.start, layout.nbytes, signature.device)
        else:
            flat = self.memory.bytes_at(signature.device.index, address + layout.start, layout.nbytes)
        view = flat.view(layout.dtype).as_strided(signature.shape, layout.strides)
        return Mirrored(view, layout.backwards, signature.readonly) if layout.backwards else view

    def run(self, kernel: Callable[..., None], arguments: dict[str, Any], device: Device, stream: int) -> None:
        """The kernel in the order of the stream."""
        mirrored = {name: value for name, value in arguments.items() if isinstance(value, Mirrored)}
        with torch.inference_mode() if self.memory is None else self.memory.on(device.index, stream):
            if self.memory is not None and self.memory.is_capturing():
                raise NotImplementedError("torch's temporaries have no place in a graph that the device itself records")
            kernel(**arguments | {name: value.forwards() for name, value in mirrored.items()})
            for value in mirrored.values():
                value.write_back()


@dataclass(frozen=True)
class Layout:
    """What a signature means in torch's words."""

    start: int  # byte offset of the lowest element: with negative strides it is not the first one
    nbytes: int
    dtype: torch.dtype
    strides: tuple[int, ...]  # without their signs
    backwards: tuple[int, ...]  # the axes that had a negative one

    @staticmethod
    @functools.lru_cache(4096)
    def of(signature: Signature) -> Layout:
        itemsize, strides = signature.dtype.itemsize, signature.strides
        low, high = extent(signature.shape, strides)
        # Raw bytes, and complex numbers of two 8-bit floats, are only ever copied.
        dtype = {BYTE: torch.uint8, C16: torch.int16}.get(signature.dtype) or torch_dtypes()[1][signature.dtype]
        backwards = tuple(axis for axis, stride in enumerate(strides) if stride < 0)
        return Layout(low * itemsize, (high - low + 1) * itemsize, dtype, tuple(map(abs, strides)), backwards)


class Mirrored:
    """torch has no negative strides: the kernel gets a copy, and what it writes there is written back."""

    def __init__(self, view: torch.Tensor, axes: tuple[int, ...], readonly: bool):
        self.view, self.axes, self.readonly = view, axes, readonly

    def forwards(self) -> torch.Tensor:
        self.copy = bits(self.view).flip(self.axes).view(self.view.dtype)
        return self.copy

    def write_back(self) -> None:
        if not self.readonly:
            bits(self.view).copy_(bits(self.copy).flip(self.axes))
