"""What kernels of several families share."""

from __future__ import annotations

import torch

from infiniop.schema import BadValue

HALVES = (torch.float16, torch.bfloat16)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Half types in f32, in which they are computed; others as they are. `out.copy_()` rounds to nearest even."""
    return x.float() if x.dtype in HALVES else x


def bits(x: torch.Tensor) -> torch.Tensor:
    """The same memory as numbers that torch can do everything with: its unsigned ones it can hardly more than hold."""
    plain = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.view(plain.get(x.itemsize, x.dtype))


def refuse(device: torch.device, argument: str, expected: str, got: str) -> bool:
    """An illegal value inside a tensor: an error on the CPU, elsewhere False, and the caller skips it."""
    if is_error(device):
        raise BadValue(argument, expected, got)
    return False


def check(legal: torch.Tensor, values: torch.Tensor, argument: str, expected: str) -> torch.Tensor:
    """`legal`; the first of `values` that is not is refused."""
    if is_error(values.device) and not legal.all():
        place = (~legal).nonzero()[0].tolist()
        raise BadValue(argument, expected, f"{values[tuple(place)]} at {place}")
    return legal


def is_error(device: torch.device) -> bool:
    return device.type == "cpu"
