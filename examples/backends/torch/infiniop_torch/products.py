"""gemm and linear."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from . import quantised


def gemm(c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float) -> None:
    out = c if c.ndim == 3 else c.unsqueeze(0)
    result = alpha * (a.float() @ b.float())
    out.copy_(result + beta * out.float() if beta else result)  # with beta == 0, c is not read


def linear(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation_bits: int) -> None:
    """x is never rounded: `activation_bits` allows it, and does not ask for it."""
    if weight.ndim == 1:
        weight = quantised.unpack(weight, y.shape[1], x.shape[1], x.dtype)
    y.copy_(functional.linear(x.float(), weight.float(), None if bias is None else bias.float()))
