"""Normalisation, activation, products."""

from __future__ import annotations

from typing import Any

import torch

from infiniop.torch import functional


class RMSNorm(torch.nn.Module):
    """Root mean square normalisation over the last axis, `[..., normalized_shape]`.

    With a residual it adds first and returns the sum as well: `y, residual = norm(x, residual)`.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6, device: Any = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.eps = eps
        weight = torch.ones(normalized_shape, device=device, dtype=dtype)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            return functional.rms_norm(x, self.weight, self.eps)
        return functional.add_rms_norm(x, residual, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class SwiGLU(torch.nn.Module):
    """silu(gate) * up, of two tensors of one shape or of the halves of `[..., 2 d]`."""

    def forward(self, gate: torch.Tensor, up: torch.Tensor | None = None) -> torch.Tensor:
        return functional.silu_and_mul(gate) if up is None else functional.swiglu(gate, up)


class Linear(torch.nn.Linear):
    """`[..., in_features]` to `[..., out_features]`: torch's module on our product."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.linear(input, self.weight, self.bias)


class PackedLinear(torch.nn.Module):
    """A product with a weight in the backend's own layout; int8 and int4 by groups along `in_features`.

    The packed bytes belong to the machine that made them: store the original weight, not this module's state.
    """

    FORMATS = ("own", "int8", "int4")

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        format: str = "own",
        group_size: int = 0,
        scales: torch.Tensor | None = None,
        zeros: torch.Tensor | None = None,
        activation_bits: int = 16,
    ):
        """`weight`: `[out_features, in_features]`; `format`: own (its dtype), int8 or int4.

        An integer weight comes with `scales` (and `zeros`) `[out_features, groups]`; a float one is quantised here.
        `activation_bits`: 16, or 8 for speed, to which inputs may be rounded beside an int8 or int4 weight.
        """
        super().__init__()
        if format not in self.FORMATS:
            raise ValueError(f"format: expected one of {', '.join(self.FORMATS)}, got {format!r}")
        self.out_features, self.in_features = weight.shape
        self.format, self.group_size, self.activation_bits = format, group_size, activation_bits
        given = {"scales": scales, "zeros": zeros, "format": self.FORMATS.index(format), "group_size": group_size}
        size = int(torch.ops.infiniop.linear_packed_size(weight.detach(), **given))
        packed = torch.ops.infiniop.linear_pack(weight.detach(), **given, packed_bytes=size)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.linear(input, self.packed, self.bias, self.out_features, self.activation_bits)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.format}, group_size={self.group_size}"
