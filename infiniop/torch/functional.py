"""The operators that take rows, for tensors with any leading axes."""

from __future__ import annotations

import torch

_ops = torch.ops.infiniop


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last axis. x: `[..., d]`, weight: `[d]`."""
    return _ops.rms_norm(_rows(x), weight, eps).view(x.shape)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """(`rms_norm(x + residual)`, `x + residual`); all `[..., d]`."""
    y, total = _ops.add_rms_norm(_rows(x), _rows(residual), weight, eps)
    return y.view(x.shape), total.view(x.shape)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_features: int | None = None,
    activation_bits: int = 16,
) -> torch.Tensor:
    """x @ weight.T + bias. x: `[..., k]`; weight: `[n, k]`, or packed bytes of `out_features` rows; bias: `[n]`."""
    y = _ops.linear(_rows(x), weight, bias, activation_bits=activation_bits, out_features=out_features)
    return y.view(*x.shape[:-1], y.shape[1])


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; all of one shape."""
    return _ops.swiglu(up, gate)


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(first half) * second half of the last axis: `[..., 2 d]` to `[..., d]`."""
    return _ops.silu_and_mul(gate_up)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`[..., d]` as `[rows, d]`, the last axis dense."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
