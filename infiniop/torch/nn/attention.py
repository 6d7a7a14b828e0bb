"""Attention over a paged cache."""

from __future__ import annotations

from typing import Any

import torch


class PagedAttention(torch.nn.Module):
    """A layer's keys and values in blocks, and attention over them.

    Token `i` of a sequence lies in block `block_tables[sequence, i // block_size]`, at `i % block_size`; its slot is
    `block * block_size + i % block_size`. Who owns which block is the caller's business.
    """

    k_cache: torch.Tensor
    v_cache: torch.Tensor

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int = 16,
        scale: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        for name in ("k_cache", "v_cache"):
            cache = torch.zeros(num_blocks, num_kv_heads, block_size, head_dim, device=device, dtype=dtype)
            self.register_buffer(name, cache, persistent=False)

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        slot_mapping: torch.Tensor,
        block_tables: torch.Tensor,
        seq_lens: torch.Tensor,
        cum_seq_lens_q: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Writes the new keys and values, then attends causally.

        Args:
            q: `[ntok, num_heads, head_dim]`.
            k, v: `[ntok, num_kv_heads, head_dim]`.
            slot_mapping: `[ntok]` int64, where each token goes; a negative slot is padding.
            block_tables: `[nseq, max_blocks]` int32 or int64.
            seq_lens: `[nseq]`, tokens of each sequence, the new ones included; of block_tables' dtype.
            cum_seq_lens_q: `[nseq + 1]`, where each sequence's new tokens begin; of block_tables' dtype. Without it
                every sequence has one new token.

        Returns:
            `[ntok, num_heads, head_dim]`.
        """
        ops = torch.ops.infiniop
        ops.paged_caching(self.k_cache, self.v_cache, k, v, slot_mapping)
        caches = (self.k_cache, self.v_cache, block_tables, seq_lens)
        if cum_seq_lens_q is None:
            return ops.paged_attention(q, *caches, self.scale)
        return ops.paged_attention_prefill(q, *caches, cum_seq_lens_q, self.scale)
