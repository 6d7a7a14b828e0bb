"""`SequenceTable`: which blocks each sequence has, and where its next tokens go."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..batch import table_width
from .blocks import BlockAllocator, CacheFullError


@dataclass
class _Sequence:
    length: int = 0
    blocks: list[int] = field(default_factory=list)


class SequenceTable:
    """Sequences over an allocator's blocks. Holds no tensor.

    With a window, a sequence keeps its last `window` tokens only: token t lies at row t mod window. Keys carry their
    rotation, so attention over them is right in any order, as long as a step that wraps around has a single token.
    """

    def __init__(
        self,
        allocator: BlockAllocator,
        block_size: int,
        max_sequences: int | None = None,
        contiguous: bool = False,
        window: int | None = None,
    ):
        self.allocator, self.block_size, self.window = allocator, block_size, window
        self._max_sequences, self._contiguous = max_sequences, contiguous
        self._sequences: dict[Hashable, _Sequence] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, seq_id: object) -> bool:
        return seq_id in self._sequences

    def add(self, seq_id: Hashable) -> None:
        """A new, empty sequence. Raises `ValueError` when it exists, `CacheFullError` when there may be no more."""
        if seq_id in self._sequences:
            raise ValueError(f"sequence {seq_id!r} exists already")
        if self._max_sequences is not None and len(self._sequences) >= self._max_sequences:
            raise CacheFullError(f"the cache takes {self._max_sequences} sequences, and has as many")
        self._sequences[seq_id] = _Sequence()

    def free(self, seq_id: Hashable) -> None:
        for block in self._get(seq_id).blocks:
            self.allocator.free(block)
        del self._sequences[seq_id]

    def clear(self) -> None:
        for seq_id in list(self._sequences):
            self.free(seq_id)

    def length(self, seq_id: Hashable) -> int:
        """Tokens so far."""
        return self._get(seq_id).length

    def kv_length(self, seq_id: Hashable) -> int:
        """Tokens that the cache holds of them."""
        return self._kept(self._get(seq_id).length)

    def blocks(self, seq_id: Hashable) -> tuple[int, ...]:
        return tuple(self._get(seq_id).blocks)

    def blocks_for(self, length: int) -> int:
        """Blocks of a sequence of this length."""
        return -(-self._kept(length) // self.block_size)

    def step_limit(self, seq_id: Hashable, count: int) -> int:
        """How many of the next `count` tokens one step may append."""
        if self.window is None:
            return count
        room = self.window - self._get(seq_id).length
        return min(count, room) if room > 0 else min(count, 1)

    def check_room(self, seq_ids: Sequence[Hashable], counts: Sequence[int]) -> None:
        """Raises `CacheFullError` when the sequences cannot all have that many more tokens."""
        needed = sum(max(self._missing_blocks(s, n), 0) for s, n in zip(seq_ids, counts, strict=True))
        if needed > self.allocator.free_blocks:
            raise CacheFullError(
                f"{sum(counts)} more tokens need {needed} blocks of {self.block_size}, "
                f"{self.allocator.free_blocks} of {self.allocator.num_blocks} are free"
            )

    def append(self, seq_id: Hashable, count: int) -> np.ndarray:
        """Makes room for `count` more tokens and returns their slots, i64 `[count]`; all, or `CacheFullError` and
        none."""
        missing = self._missing_blocks(seq_id, count)
        sequence = self._get(seq_id)
        length = sequence.length + count
        if missing > 0:
            sequence.blocks += self.allocator.allocate_many(missing)
        rows = np.arange(sequence.length, length, dtype=np.int64)
        if self.window is not None:
            rows %= self.window
        sequence.length = length
        return np.asarray(sequence.blocks, np.int64)[rows // self.block_size] * self.block_size + rows % self.block_size

    def append_one(self, seq_id: Hashable) -> int:
        """`append` of one token; its slot."""
        missing = self._missing_blocks(seq_id, 1)
        sequence = self._get(seq_id)
        if missing > 0:
            sequence.blocks += self.allocator.allocate_many(missing)
        row = sequence.length if self.window is None else sequence.length % self.window
        sequence.length += 1
        return sequence.blocks[row // self.block_size] * self.block_size + row % self.block_size

    def block_tables(self, seq_ids: Sequence[Hashable]) -> np.ndarray:
        """i32 `[len(seq_ids), blocks]`, as wide as `table_width` of the most that one has; rows padded with 0."""
        rows = [self._get(seq_id).blocks for seq_id in seq_ids]
        most = max([len(row) for row in rows], default=0)
        table = np.zeros((len(rows), table_width(most or 1)), np.int32)
        for n, row in enumerate(rows):
            table[n, : len(row)] = row
        return table

    def _missing_blocks(self, seq_id: Hashable, count: int) -> int:
        sequence = self._get(seq_id)
        needed = self.blocks_for(sequence.length + count)
        if self._contiguous and needed > 1:
            raise CacheFullError(
                f"sequence {seq_id!r} would have {sequence.length + count} tokens, "
                f"the cache holds {self.block_size} of each sequence"
            )
        return needed - len(sequence.blocks)

    def _kept(self, length: int) -> int:
        return length if self.window is None else min(length, self.window)

    def _get(self, seq_id: Hashable) -> _Sequence:
        try:
            return self._sequences[seq_id]
        except KeyError:
            raise KeyError(f"no sequence {seq_id!r} in the cache") from None
