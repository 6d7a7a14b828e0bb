"""Rotary position embedding."""

from __future__ import annotations

from typing import Any

import torch


class RotaryEmbedding(torch.nn.Module):
    """Rotates whole heads by their positions (Su et al. 2021, arXiv:2104.09864).

    The tables hold `max_positions` rows of `head_dim / 2` angles, in the dtype of queries and keys.
    """

    sin: torch.Tensor
    cos: torch.Tensor

    def __init__(
        self,
        head_dim: int,
        max_positions: int,
        base: float = 10000.0,
        interleaved: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        """`interleaved`: neighbours pair up (GPT-J); otherwise the two halves of a head (GPT-NeoX, Llama)."""
        super().__init__()
        self.algo = "GPT_J" if interleaved else "GPT_NEOX"
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float64, device=device), base**-exponents)
        kind = dtype or torch.get_default_dtype()
        self.register_buffer("sin", angles.sin().to(kind), persistent=False)
        self.register_buffer("cos", angles.cos().to(kind), persistent=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """x: `[s, heads, head_dim]` or `[batch, s, heads, head_dim]`; positions: `[s]` or `[batch, s]`, integers."""
        return torch.ops.infiniop.rope(x, positions, self.sin, self.cos, self.algo)
