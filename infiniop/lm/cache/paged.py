"""`PagedKVCache`: the cache that the engine runs on, with calls of its own for those who fill it themselves."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import infiniop
from infiniop import ops

from ..arrays import resolve_dtype
from .blocks import CacheFullError
from .config import PagedKVCacheConfig
from .kinds import as_pair, kind_of
from .pool import BlockCache

if TYPE_CHECKING:
    from infiniop import Tensor

    from ..config import LlamaConfig


@dataclass(frozen=True)
class Block:
    """Views of one block of the pool, `[num_layers, nkvh, block_size, head_dim]` each."""

    block_id: int
    k_data: Tensor
    v_data: Tensor

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """One layer's keys and values, `[nkvh, block_size, head_dim]`."""
        return self.k_data[layer_idx], self.v_data[layer_idx]


@dataclass(frozen=True)
class CacheMemory:
    """Bytes of the pool: in all, in blocks that are in use, and of tokens in them."""

    total_bytes: int
    used_bytes: int
    token_bytes: int

    @property
    def utilisation(self) -> float:
        """The share of the pool that is in use."""
        return self.used_bytes / self.total_bytes

    @property
    def wasted(self) -> float:
        """The share of the used blocks that holds no token."""
        return 1 - self.token_bytes / self.used_bytes if self.used_bytes else 0.0


class PagedKVCache(BlockCache):
    """A pool of blocks and sequences in it, which `model(input_ids, kv_cache=cache)` takes as well.

    `k` and `v` are `[ntok, nkvh, head_dim]`: `infiniop.Tensor`, NumPy or torch; what comes out is of the kind that came
    in last.
    """

    def __init__(
        self, config: LlamaConfig, block_size: int = 16, num_blocks: int = 64, dtype: Any = None, device: Any = "cpu"
    ):
        """`dtype` None: the configuration's, else float32."""
        dtype = resolve_dtype(dtype or config.torch_dtype or "float32")
        super().__init__(PagedKVCacheConfig(num_blocks=num_blocks, block_size=block_size), config, dtype, device)
        self._layers = config.num_hidden_layers
        self._uneven: dict[Hashable, list[int]] = {}  # tokens of each layer, of sequences whose layers differ
        self._give: dict[Hashable, Any] = {}

    def block(self, block_id: int) -> Block:
        """Raises `ValueError` for an id that the pool does not have."""
        self.sequences.allocator.reference_count(block_id)
        return Block(block_id, self.pool.keys[:, block_id], self.pool.values[:, block_id])

    def allocate_sequence(self, seq_id: Hashable, initial_len: int = 0) -> None:
        """A new sequence with room for `initial_len` tokens. Raises `ValueError` when it exists, `CacheFullError` when
        there is no room."""
        if isinstance(initial_len, bool) or not isinstance(initial_len, int) or initial_len < 0:
            raise ValueError(f"initial_len must be an int of at least 0, got {initial_len!r}")
        self.sequences.add(seq_id)
        try:
            self.sequences.reserve(seq_id, initial_len)
        except CacheFullError:
            self.sequences.free(seq_id)
            raise
        self._forget(seq_id)

    def append_tokens(self, seq_id: Hashable, layer_idx: int, k: Any, v: Any) -> bool:
        """Appends tokens to one layer of a sequence; False, and nothing written, when the pool has no room for them.

        Raises `KeyError` for an unknown sequence, `ValueError` for a layer or a shape, `TypeError` for a dtype that the
        cache does not have.
        """
        lengths = self._lengths(seq_id)
        self._check_layer(layer_idx)
        keys, values = self.pool.layer(layer_idx)
        shape = (-1, keys.shape[1], keys.shape[3])
        parts = as_pair(k, v, shape, keys)
        start, end = lengths[layer_idx], lengths[layer_idx] + parts[0].shape[0]
        try:
            self.sequences.own(seq_id, start, end)
        except CacheFullError:
            return False
        for source, target in self.sequences.take_copies():
            self.pool.copy_block(source, target)
        self.sequences.grow(seq_id, end)
        first = start if self.window is None else max(start, end - self.window)  # tokens before have left the window
        slots = infiniop.from_numpy(self.sequences.slots(seq_id, first, end)).to(keys.device)
        ops.paged_caching(keys, values, *(part[first - start :] for part in parts), slots)
        lengths[layer_idx] = end
        self._uneven[seq_id] = lengths
        if len(set(lengths)) == 1:
            del self._uneven[seq_id]
        self._give[seq_id] = kind_of(k)
        return True

    def get_kv(self, seq_id: Hashable, layer_idx: int) -> tuple[Any, Any]:
        """One layer's keys and values of a sequence, `[length, nkvh, head_dim]` each: copies in one piece. With a
        sliding window, those of its last tokens."""
        lengths = self._lengths(seq_id)
        self._check_layer(layer_idx)
        give = self._give.get(seq_id, lambda tensor: tensor)
        keys, values = (self._gathered(memory, seq_id, lengths[layer_idx]) for memory in self.pool.layer(layer_idx))
        return give(keys), give(values)

    def fork_sequence(self, seq_id: Hashable, new_id: Hashable) -> None:
        """A new sequence with the same tokens, on the same blocks until one of the two writes to them."""
        lengths = self._lengths(seq_id)
        self.sequences.fork(seq_id, new_id)
        self._forget(new_id)
        if len(set(lengths)) > 1:
            self._uneven[new_id] = lengths
        if seq_id in self._give:
            self._give[new_id] = self._give[seq_id]

    def free_sequence(self, seq_id: Hashable) -> None:
        self.sequences.free(seq_id)
        self._forget(seq_id)

    def memory(self) -> CacheMemory:
        table, blocks = self.sequences, self.geometry.num_blocks
        per_block = self.pool.nbytes // blocks
        tokens = sum(table.kv_length(seq_id) for seq_id in table)
        return CacheMemory(
            self.pool.nbytes, table.allocator.used_blocks * per_block, tokens * per_block // self.geometry.block_size
        )

    def _gathered(self, memory: Tensor, seq_id: Hashable, length: int) -> Tensor:
        _, heads, size, dim = memory.shape
        blocks, ring = self.sequences.blocks(seq_id), self.window or max(length, 1)
        kept = min(length, ring)
        out = infiniop.empty((kept, heads, dim), dtype=memory.dtype, device=memory.device)
        done = 0
        while done < kept:
            row = (length - kept + done) % ring
            block, first = blocks[row // size], row % size
            count = min(size - first, ring - row, kept - done)
            part = memory[block, :, first : first + count]
            ops.rearrange(part.permute(1, 0, 2), out=out[done : done + count])
            done += count
        return out

    def length(self, seq_id: Hashable, layer_idx: int) -> int:
        """Tokens of one layer of a sequence."""
        self._check_layer(layer_idx)
        return self._lengths(seq_id)[layer_idx]

    def _lengths(self, seq_id: Hashable) -> list[int]:
        """Tokens of each layer. Raises `KeyError` for an unknown sequence."""
        even = [self.sequences.length(seq_id)] * self._layers
        return list(self._uneven.get(seq_id, even))

    def _forget(self, seq_id: Hashable) -> None:
        self._uneven.pop(seq_id, None)
        self._give.pop(seq_id, None)

    def _check_layer(self, layer_idx: int) -> None:
        if isinstance(layer_idx, bool) or not isinstance(layer_idx, int) or not 0 <= layer_idx < self._layers:
            raise ValueError(f"layer_idx must be between 0 and {self._layers - 1}, got {layer_idx!r}")


class PagedKVCacheAdapter:
    """`KVCache`'s `update` over a paged cache, with results that are bit-identical to it. Row r is sequence r."""

    def __init__(self, cache: PagedKVCache, batch_size: int):
        self.cache, self.batch_size = cache, batch_size
        for row in range(batch_size):
            cache.allocate_sequence(row)

    def update(self, k: Any, v: Any, layer_idx: int) -> tuple[Any, Any]:
        """Appends `[batch, ntok, nkvh, dh]` to a layer and returns all of it, `[batch, length, nkvh, dh]`.

        Raises `CacheFullError`, and writes nothing, when there is no room; `ValueError`, `TypeError` as `KVCache`.
        """
        cache, table = self.cache, self.cache.sequences
        start = cache.length(0, layer_idx)
        keys, _ = cache.pool.layer(layer_idx)
        shape = (self.batch_size, -1, keys.shape[1], keys.shape[3])
        parts = as_pair(k, v, shape, keys)
        missing = table.blocks_for(start + parts[0].shape[1]) - len(table.blocks(0))
        if self.batch_size * missing > table.allocator.free_blocks:
            raise CacheFullError(
                f"{self.batch_size * missing} blocks needed, {table.allocator.free_blocks} of "
                f"{table.allocator.num_blocks} are free"
            )
        for row in range(self.batch_size):
            cache.append_tokens(row, layer_idx, parts[0][row], parts[1][row])
        give = kind_of(k)
        rows = [cache.get_kv(row, layer_idx) for row in range(self.batch_size)]
        return tuple(give(_stacked([pair[i] for pair in rows])) for i in (0, 1))  # type: ignore[return-value]


def _stacked(rows: list[Tensor]) -> Tensor:
    out = infiniop.empty((len(rows), *rows[0].shape), dtype=rows[0].dtype, device=rows[0].device)
    for row, tensor in enumerate(rows):
        ops.rearrange(tensor, out=out[row])
    return out


def create_paged_kv_cache(
    config: LlamaConfig, batch_size: int = 1, block_size: int = 16, blocks_per_seq: int = 32, **options: Any
) -> PagedKVCache:
    """A cache in which `batch_size` sequences of `blocks_per_seq` blocks have room; `options`: dtype, device."""
    for name, value in (("batch_size", batch_size), ("blocks_per_seq", blocks_per_seq)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    return PagedKVCache(config, block_size, batch_size * blocks_per_seq, **options)
