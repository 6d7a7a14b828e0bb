"""rms_norm, add_rms_norm and layer_norm, over the last axis."""

from __future__ import annotations

from torch import Tensor

from .values import wide


def rms_norm(y: Tensor, x: Tensor, w: Tensor, epsilon: float) -> None:
    values = wide(x)
    y.copy_(values * wide(w) * _reciprocal_rms(values, epsilon))


def add_rms_norm(y: Tensor, residual_out: Tensor, a: Tensor, b: Tensor, weight: Tensor, epsilon: float) -> None:
    total = wide(a) + wide(b)
    scale = _reciprocal_rms(total, epsilon) * wide(weight)
    residual_out.copy_(total)
    y.copy_(wide(residual_out) * scale)


def layer_norm(
    output: Tensor, input_standardization: Tensor, input_std_deviation: Tensor, input: Tensor,
    weight: Tensor, bias: Tensor | None, eps: float,
) -> None:  # fmt: skip
    if output.numel() == 0:
        return
    centred = wide(input) - wide(input).mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    standardized = centred / deviation
    result = standardized * wide(weight)
    output.copy_(result if bias is None else result + wide(bias))
    input_standardization.copy_(standardized)
    input_std_deviation.copy_(deviation.squeeze(-1))


def _reciprocal_rms(x: Tensor, epsilon: float) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
