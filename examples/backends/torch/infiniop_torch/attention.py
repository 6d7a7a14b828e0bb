"""attention, flash_attention, paged_attention and paged_attention_prefill, one sequence after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from .values import refuse

PIECE = 256  # keys
EPSILON = 1e-6
"""What the paged operators add to the sum of weights."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor, slopes: Tensor | None = None, epsilon: float = 0.0
) -> Tensor:
    """softmax(scale q kᵀ + bias) v in f32: q [nh, s, d], k [nkvh, t, d], v [nkvh, t, dv] -> [nh, s, dv].

    Query i sees the first visible[i] keys; one that sees none gives 0. The ALiBi bias is slope * (key - last visible).
    """
    nkvh, t, _ = k.shape
    groups = q.float().unflatten(0, (nkvh, -1))  # [nkvh, nh / nkvh, s, d]: the heads that share keys
    scores = scale * (groups @ k.float().unsqueeze(1).mT)
    distance = torch.arange(t, device=q.device) - (visible.unsqueeze(-1) - 1)  # [s, t]
    if slopes is not None:
        scores = scores + slopes.view(nkvh, -1, 1, 1) * distance
    hidden = distance > 0
    weights = (scores - scores.masked_fill(hidden, -torch.inf).amax(-1, keepdim=True)).exp().masked_fill(hidden, 0)
    total = weights.sum(-1, keepdim=True) + epsilon
    return _sums(weights / total.masked_fill(total == epsilon, 1), v.float().unsqueeze(1)).flatten(0, 1)


def _sums(weights: Tensor, v: Tensor) -> Tensor:
    """weights @ v, piece by piece: torch adds up thousands of small products one after the other, and loses digits."""
    pieces = zip(weights.split(PIECE, -1), v.split(PIECE, -2), strict=True)
    return torch.stack([some @ those for some, those in pieces]).sum(0)


def attention(out: Tensor, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int) -> None:
    s, d = q.shape[1:]
    k_cache[:, pos : pos + s] = k
    v_cache[:, pos : pos + s] = v
    if out.numel():
        visible = torch.arange(pos + 1, pos + s + 1, device=q.device)
        result = attend(q, k_cache[:, : pos + s], v_cache[:, : pos + s], d**-0.5, visible)
        out.copy_(result.transpose(0, 1))


def flash_attention(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, total_kv_len: Tensor, scale: float, is_causal: int
) -> None:
    if out.numel() == 0:
        return
    s, t = q.shape[2], k.shape[2]
    expected, lengths = f"lengths from 0 to {t}", total_kv_len.tolist()
    fits = [0 <= n <= t or refuse(q.device, "total_kv_len", expected, f"{n} at [{b}]") for b, n in enumerate(lengths)]
    for b, length in enumerate(lengths):
        if fits[b]:
            last = torch.arange(length - s + 1, length + 1, device=q.device).clamp(min=0)
            visible = last if is_causal else torch.full_like(last, length)
            keys, values = k[b, :, :length], v[b, :, :length]
            out[b] = attend(q[b], keys, values, scale, visible) if length else 0


def paged_attention(
    out: Tensor, q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, seq_lens: Tensor,
    alibi_slopes: Tensor | None, scale: float,
) -> None:  # fmt: skip
    if out.numel() == 0:
        return
    starts = list(range(len(q) + 1))
    _paged(out, q, k_cache, v_cache, block_tables, seq_lens, starts, alibi_slopes, scale)


def paged_attention_prefill(
    out: Tensor, q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, seq_lens: Tensor,
    cum_seq_lens_q: Tensor, alibi_slopes: Tensor | None, scale: float,
) -> None:  # fmt: skip
    if out.numel() == 0:
        return
    starts, expected = cum_seq_lens_q.tolist(), f"increasing values from 0 to {len(q)}"
    for s, (before, start) in enumerate(zip([0, *starts], starts, strict=False)):
        if not before <= start <= len(q) and not refuse(q.device, "cum_seq_lens_q", expected, f"{start} at [{s}]"):
            return
    _paged(out, q, k_cache, v_cache, block_tables, seq_lens, starts, alibi_slopes, scale)


def _paged(
    out: Tensor, q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, seq_lens: Tensor,
    starts: list[int], slopes: Tensor | None, scale: float,
) -> None:  # fmt: skip
    """Queries starts[s] to starts[s + 1] - 1 are the last of sequence s; those that see no key are left out."""
    tables, lengths = block_tables.long(), seq_lens.tolist()
    usable = [starts[s + 1] > starts[s] and _is_usable(tables, s, n, k_cache) for s, n in enumerate(lengths)]
    for s, length in enumerate(lengths):
        first, end = max(starts[s], starts[s + 1] - length), starts[s + 1]
        if usable[s] and first < end:
            keys, values = (_rows(cache, tables[s], length) for cache in (k_cache, v_cache))
            visible = torch.arange(length - (end - first) + 1, length + 1, device=q.device)
            result = attend(q[first:end].transpose(0, 1), keys, values, scale, visible, slopes, EPSILON)
            out[first:end] = result.transpose(0, 1)


def _is_usable(tables: Tensor, sequence: int, length: int, cache: Tensor) -> bool:
    """Whether the sequence's table has its blocks."""
    nblocks, block_size, room = len(cache), cache.shape[2], tables.shape[1] * cache.shape[2]
    if length <= 0:
        return True
    if length > room:
        return refuse(cache.device, "seq_lens", f"lengths up to {room}", f"{length} at [{sequence}]")
    for i, block in enumerate(tables[sequence, : -(-length // block_size)].tolist()):
        if not 0 <= block < nblocks:
            return refuse(cache.device, "block_tables", f"blocks below {nblocks}", f"{block} at [{sequence}, {i}]")
    return True


def _rows(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The first `length` rows of a sequence, [nkvh, length, d]."""
    blocks = cache[table[: -(-length // cache.shape[2])]]
    return blocks.transpose(0, 1).flatten(1, 2)[:, :length]
