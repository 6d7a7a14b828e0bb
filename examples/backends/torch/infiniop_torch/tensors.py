"""What a kernel gets: tensors of torch over memory that somebody else owns."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from infiniop.arrays import torch_dtypes
from infiniop.schema.dtypes import BYTE, C16
from infiniop.tensor import Signature, extent

from .runtime import TorchRuntime, borrow
from .values import bits


def view(kind: str, memory: TorchRuntime | None, address: int, signature: Signature) -> torch.Tensor | Mirrored:
    """A strided tensor of torch's device `kind` over memory at an address; `memory`: whose it is, None: the CPU's."""
    layout = Layout.of(signature)
    if layout.nbytes == 0:
        flat = torch.empty(0, dtype=torch.uint8, device=f"{kind}:{signature.device.index}")
    elif memory is None:
        flat = borrow(address + layout.start, layout.nbytes, signature.device)
    else:
        flat = memory.bytes_at(signature.device.index, address + layout.start, layout.nbytes)
    strided = flat.view(layout.dtype).as_strided(signature.shape, layout.strides)
    return Mirrored(strided, layout.backwards, signature.readonly) if layout.backwards else strided


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
