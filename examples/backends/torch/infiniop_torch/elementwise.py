"""add, sub, mul, silu, gelu, sigmoid, relu, swiglu, silu_and_mul and rope."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .values import check, wide


def add(c: Tensor, a: Tensor, b: Tensor) -> None:
    torch.add(a, b, out=c)


def sub(c: Tensor, a: Tensor, b: Tensor) -> None:
    torch.sub(a, b, out=c)


def mul(c: Tensor, a: Tensor, b: Tensor) -> None:
    torch.mul(a, b, out=c)


def silu(output: Tensor, input: Tensor) -> None:
    output.copy_(functional.silu(wide(input)))


def gelu(output: Tensor, input: Tensor) -> None:
    """By erfc: torch's own gelu loses the digits of its left tail, and has NaN at plus infinity."""
    x = wide(input)
    output.copy_(x / 2 * torch.special.erfc(-x / math.sqrt(2)))


def sigmoid(y: Tensor, x: Tensor) -> None:
    y.copy_(torch.sigmoid(wide(x)))


def relu(y: Tensor, x: Tensor) -> None:
    y.copy_(torch.relu(x))


def swiglu(c: Tensor, a: Tensor, b: Tensor) -> None:
    c.copy_(wide(a) * functional.silu(wide(b)))


def silu_and_mul(output: Tensor, input: Tensor) -> None:
    gate, up = wide(input).chunk(2, dim=-1)
    output.copy_(functional.silu(gate) * up)


def rope(y: Tensor, x: Tensor, pos_ids: Tensor, sin_table: Tensor, cos_table: Tensor, algo: int) -> None:
    if y.numel() == 0:
        return
    positions, rows = pos_ids.long(), len(sin_table)
    if positions.ndim == 2 and x.ndim == 3:
        positions = positions[0]
    known = check((positions >= 0) & (positions < rows), positions, "pos_ids", f"values in 0..{rows - 1}")
    positions = positions.clamp(0, rows - 1)
    sin, cos = (wide(table)[positions].unsqueeze(-2) for table in (sin_table, cos_table))
    pairs = [(t[..., 0::2], t[..., 1::2]) if algo == 0 else t.chunk(2, dim=-1) for t in (x, y)]
    (p, q), (y_p, y_q) = (map(wide, pairs[0]), pairs[1])
    turned = p * cos - q * sin, p * sin + q * cos
    for out, result in zip((y_p, y_q), turned, strict=True):
        out.copy_(torch.where(known[..., None, None], result, wide(out)))
