"""The cache's memory, and the two together: memory and the sequences in it."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop
from infiniop import ops

from ..arrays import free_bytes
from ..batch import ForwardBatch
from .config import CacheConfig, CacheGeometry, pool_bytes
from .sequences import SequenceTable

if TYPE_CHECKING:
    from infiniop import Tensor
    from infiniop.schema import DType

    from ..config import LlamaConfig


class KVPool:
    """Keys and values of all layers, `[num_layers, num_blocks, nkvh, block_size, head_dim]` each, allocated once.

    In memory a head's blocks follow one another: attention reads a head at a time, and blocks in a row are then one run
    to it, as they are in a static cache.
    """

    def __init__(self, geometry: CacheGeometry, model: LlamaConfig, dtype: DType, device: Any, first_layer: int = 0):
        """`model` says how many layers and heads there are here, of which the first is `first_layer` of the whole."""
        shape = (
            model.num_hidden_layers, model.num_key_value_heads, geometry.num_blocks, geometry.block_size,
            model.head_dim,
        )  # fmt: skip
        self.nbytes = pool_bytes(geometry, model, dtype)
        free = free_bytes(device)
        asked = f"a KV cache of {self.nbytes} bytes was asked for, {free} bytes are free on {device}: {geometry}"
        if free is not None and self.nbytes > free:  # an operating system that overcommits would grant it all the same
            raise MemoryError(asked)
        try:
            keys, values = (infiniop.empty(shape, dtype=dtype, device=device) for _ in range(2))
        except infiniop.InfiniopError as error:
            raise MemoryError(f"{asked} ({error})") from error
        self.keys, self.values = (memory.transpose(1, 2) for memory in (keys, values))
        self._layers = {first_layer + n: (self.keys[n], self.values[n]) for n in range(shape[0])}

    def copy_block(self, source: int, target: int) -> None:
        """Keys and values of one block into another, in all layers."""
        for memory in (self.keys, self.values):
            ops.rearrange(memory[:, source], out=memory[:, target])

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """One layer's keys and values, `[num_blocks, nkvh, block_size, head_dim]`."""
        return self._layers[layer_idx]


class BlockCache:
    """What the engine runs on: a pool of blocks and the sequences in it.

    The static cache is this as well, with one block per sequence: the paged operators then read contiguous memory, and
    sequences of different lengths need no padding.
    """

    def __init__(self, config: CacheConfig, model: LlamaConfig, dtype: DType, device: Any, first_layer: int = 0):
        self.number = 0  # tells the caches of one model apart, on all ranks
        self.config = config.unique_copy()
        self.geometry = config.geometry(model, dtype)
        self.window = model.attention_window
        self.pool = KVPool(self.geometry, model, dtype, device, first_layer)
        self.sequences = SequenceTable(
            self.geometry.num_blocks,
            self.geometry.block_size,
            self.geometry.max_sequences,
            self.geometry.contiguous,
            self.window,
        )

    def batch(
        self, seq_ids: Sequence[Hashable], tokens: Sequence[Sequence[int]], lengths: Sequence[int] | None = None
    ) -> ForwardBatch:
        """Appends each sequence's tokens and returns the step that computes them; all of them, or `CacheFullError`.

        `lengths` are those that rotary embedding goes by where a prompt comes in pieces (default: as they are after
        this step).
        """
        table = self.sequences
        counts = [len(row) for row in tokens]
        table.check_room(seq_ids, counts)
        if all(count == 1 for count in counts):
            return self._single_tokens(seq_ids, tokens, [table.append_one(seq_id) for seq_id in seq_ids], lengths)
        slots = [table.append(seq_id, count) for seq_id, count in zip(seq_ids, counts, strict=True)]
        return self.placed_batch(seq_ids, tokens, slots, lengths)

    def placed_batch(
        self,
        seq_ids: Sequence[Hashable],
        tokens: Sequence[Sequence[int]],
        slots: Sequence[np.ndarray],
        lengths: Sequence[int] | None = None,
    ) -> ForwardBatch:
        """The same of tokens that the table has appended already, at `slots`."""
        table = self.sequences
        counts = [len(row) for row in tokens]
        if all(count == 1 for count in counts):
            return self._single_tokens(seq_ids, tokens, [int(slot[0]) for slot in slots], lengths)
        ends = [table.length(seq_id) for seq_id in seq_ids]
        positions = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return ForwardBatch(
            input_ids=np.fromiter((token for row in tokens for token in row), np.int64, sum(counts)),
            positions=np.concatenate(positions),
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            lengths=np.asarray(lengths or ends, np.int64),
            kv_lengths=np.asarray([table.kv_length(seq_id) for seq_id in seq_ids], np.int64),
            slots=np.concatenate(slots),
            block_tables=table.block_tables(seq_ids),
            copies=tuple(table.take_copies()),
        )

    def _single_tokens(
        self,
        seq_ids: Sequence[Hashable],
        tokens: Sequence[Sequence[int]],
        slots: Sequence[int],
        lengths: Sequence[int] | None,
    ) -> ForwardBatch:
        """The same for one token each, with as little Python as can be: a model waits for it between any two steps."""
        table = self.sequences
        now = [table.length(seq_id) for seq_id in seq_ids]
        kept = [table.kv_length(seq_id) for seq_id in seq_ids]
        ids, ends = [row[0] for row in tokens], [n - 1 for n in now]
        columns = np.array([ids, ends, lengths or now, kept, slots], np.int64)
        return ForwardBatch(
            columns[0], columns[1], _offsets_of_ones(len(ids)), columns[2], columns[3], columns[4],
            table.block_tables(seq_ids), tuple(table.take_copies()),
        )  # fmt: skip


@functools.lru_cache(64)
def _offsets_of_ones(count: int) -> np.ndarray:
    return np.arange(count + 1)
