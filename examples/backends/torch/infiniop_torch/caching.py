"""What copies without arithmetic: caches, rearrange, embedding and select_last_token_hidden."""

from __future__ import annotations

from torch import Tensor

from .values import bits, check, refuse


def rearrange(dst: Tensor, src: Tensor) -> None:
    bits(dst).copy_(bits(src))  # a NaN keeps its bits


def paged_caching(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slot_mapping: Tensor) -> None:
    nslots, block_size = len(k_cache) * k_cache.shape[2], k_cache.shape[2]
    known = check(slot_mapping < nslots, slot_mapping, "slot_mapping", f"values below {nslots}")
    used = known & (slot_mapping >= 0)
    slots = slot_mapping[used]
    if len(slots):
        for cache, new in ((k_cache, k), (v_cache, v)):
            cache[slots // block_size, :, slots % block_size] = new[used]


def kv_caching(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, past_kv_lengths: Tensor) -> None:
    room, snew = k_cache.shape[2], k.shape[2]
    if k.numel() == 0:
        return
    expected, lengths = f"lengths that leave room for {snew} new tokens in {room}", past_kv_lengths.tolist()
    fits = [
        0 <= past <= room - snew or refuse(k.device, "past_kv_lengths", expected, f"{past} at [{b}]")
        for b, past in enumerate(lengths)
    ]
    for b, past in enumerate(lengths):
        if fits[b]:
            k_cache[b, :, past : past + snew] = k[b]
            v_cache[b, :, past : past + snew] = v[b]


def embedding(output: Tensor, input: Tensor, weight: Tensor) -> None:
    known = (input >= 0) & (input < len(weight))
    output[known] = weight[input[known]]


def select_last_token_hidden(output: Tensor, hidden_states: Tensor, input_offsets: Tensor) -> None:
    hidden, ends = hidden_states.flatten(0, 1), input_offsets[1:]
    known = check((ends >= 1) & (ends <= len(hidden)), ends, "input_offsets", f"ends in 1..{len(hidden)}")
    output[0, known] = hidden[ends[known] - 1]
