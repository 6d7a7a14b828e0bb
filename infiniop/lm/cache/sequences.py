"""`SequenceTable`: which blocks each sequence has, and where its next tokens go."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..batch import table_width
from .blocks import BlockAllocator, CacheFullError
from .prefix import PrefixIndex


@dataclass
class _Sequence:
    length: int = 0
    blocks: list[int] = field(default_factory=list)
    content: int = 0  # of its first `indexed` blocks
    indexed: int = 0


class SequenceTable:
    """Sequences over an allocator's blocks. Holds no tensor.

    With a window, a sequence keeps its last `window` tokens only: token t lies at row t mod window. Keys carry their
    rotation, so attention over them is right in any order, as long as a step that wraps around has a single token.

    Sequences may share blocks: those of a common beginning (`add` with tokens, `index`), and all of them after a
    `fork`. A shared block is copied before a sequence writes to it: `take_copies` says what to copy before the step
    runs.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_sequences: int | None = None,
        contiguous: bool = False,
        window: int | None = None,
    ):
        self.prefixes = PrefixIndex(block_size)
        self.allocator = BlockAllocator(num_blocks, on_reuse=self.prefixes.forget)
        self.block_size, self.window = block_size, window
        self._max_sequences, self._contiguous = max_sequences, contiguous
        self._sequences: dict[Hashable, _Sequence] = {}
        self._copies: list[tuple[int, int]] = []
        self._forked = False  # whether sequences may share blocks that they write to

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, seq_id: object) -> bool:
        return seq_id in self._sequences

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._sequences)

    def add(self, seq_id: Hashable, tokens: Sequence[int] = ()) -> int:
        """A new sequence. It begins with the blocks that hold a beginning of `tokens`, never all of them; returns how
        many tokens these are. Raises `ValueError` when it exists, `CacheFullError` when there may be no more."""
        self._check_new(seq_id)
        blocks, content = self.prefixes.match(tokens, self.prefix_blocks(len(tokens)))
        for block in blocks:
            self.allocator.take(block)
        length = len(blocks) * self.block_size
        self._sequences[seq_id] = _Sequence(length, blocks, content, len(blocks))
        return length

    def prefix_blocks(self, length: int) -> int:
        """Blocks that a sequence of this length may share with others from the start: all that are full before its last
        token, whose logits are always computed."""
        return max(length - 1, 0) // self.block_size if self.window is None and not self._contiguous else 0

    def index(self, seq_id: Hashable, tokens: Sequence[int]) -> None:
        """Makes the sequence's full blocks known by the tokens in them: `tokens`, from its start, are computed."""
        sequence = self._get(seq_id)
        if self.window is not None or self._contiguous:
            return
        for n in range(sequence.indexed, min(len(tokens), sequence.length) // self.block_size):
            part = tokens[n * self.block_size : (n + 1) * self.block_size]
            sequence.content = self.prefixes.put(sequence.content, part, sequence.blocks[n])
            sequence.indexed = n + 1

    def fork(self, seq_id: Hashable, new_id: Hashable) -> None:
        """A new sequence with the same tokens, on the same blocks. Raises as `add`."""
        self._check_new(new_id)
        source = self._get(seq_id)
        if self._contiguous:
            raise ValueError("sequences of a static cache have a row of their own: only a paged cache can fork")
        for block in source.blocks:
            self.allocator.share(block)
        self._forked = True
        self._sequences[new_id] = replace(source, blocks=list(source.blocks))

    def free(self, seq_id: Hashable) -> None:
        # The last block goes first: without the blocks before it, nobody finds it.
        for block in reversed(self._get(seq_id).blocks):
            self.allocator.free(block, keep=block in self.prefixes)
        del self._sequences[seq_id]

    def take_copies(self) -> list[tuple[int, int]]:
        """Blocks (from, to) whose content must be copied before the tokens appended so far are written."""
        copies, self._copies = self._copies, []
        return copies

    def _check_new(self, seq_id: Hashable) -> None:
        if seq_id in self._sequences:
            raise ValueError(f"sequence {seq_id!r} exists already")
        if self.free_sequences == 0:
            raise CacheFullError(f"the cache takes {self._max_sequences} sequences, and has as many")

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

    @property
    def blocks_per_sequence(self) -> int:
        """The most blocks that one sequence may have."""
        return 1 if self._contiguous else self.allocator.num_blocks

    @property
    def free_sequences(self) -> int:
        """How many more sequences may live at once."""
        return sys.maxsize if self._max_sequences is None else self._max_sequences - len(self._sequences)

    def step_limit(self, seq_id: Hashable, count: int) -> int:
        """How many of the next `count` tokens one step may append."""
        if self.window is None:
            return count
        room = self.window - self._get(seq_id).length
        return min(count, room) if room > 0 else min(count, 1)

    def check_room(self, seq_ids: Sequence[Hashable], counts: Sequence[int]) -> None:
        """Raises `CacheFullError` when the sequences cannot all have that many more tokens."""
        needed = sum(self.blocks_needed(s, n) for s, n in zip(seq_ids, counts, strict=True))
        if needed > self.allocator.free_blocks:
            raise CacheFullError(
                f"{sum(counts)} more tokens need {needed} blocks of {self.block_size}, "
                f"{self.allocator.free_blocks} of {self.allocator.num_blocks} are free"
            )

    def append(self, seq_id: Hashable, count: int) -> np.ndarray:
        """Makes room for `count` more tokens and returns their slots, i64 `[count]`; all, or `CacheFullError` and
        none."""
        start = self._get(seq_id).length
        self.own(seq_id, start, start + count)
        self._get(seq_id).length = start + count
        return self.slots(seq_id, start, start + count)

    def reserve(self, seq_id: Hashable, length: int) -> None:
        """Takes the blocks of `length` tokens now; all, or `CacheFullError` and none."""
        sequence = self._get(seq_id)
        sequence.blocks += self.allocator.allocate_many(max(self.blocks_for(length) - len(sequence.blocks), 0))

    def own(self, seq_id: Hashable, start: int, end: int) -> None:
        """Gives a sequence blocks of its own for the tokens from `start` to `end`; all, or `CacheFullError` and
        none."""
        sequence = self._get(seq_id)
        shared = self._shared_rows(sequence, start, end)
        taken = self.allocator.allocate_many(len(shared) + self._missing_blocks(seq_id, end - sequence.length))
        for row, block in zip(shared, taken, strict=False):
            self._copies.append((sequence.blocks[row], block))
            self.allocator.free(sequence.blocks[row])
            sequence.blocks[row] = block
        sequence.blocks += taken[len(shared) :]

    def grow(self, seq_id: Hashable, length: int) -> None:
        """Says that the sequence has this many tokens, if it has fewer; their blocks are its own already."""
        sequence = self._get(seq_id)
        sequence.length = max(sequence.length, length)

    def rewind(self, seq_id: Hashable, length: int) -> None:
        """Takes the tokens beyond `length` back: the step that would have computed them has failed."""
        self._get(seq_id).length = length

    def slots(self, seq_id: Hashable, start: int, end: int) -> np.ndarray:
        """Where the tokens from `start` to `end` lie, i64 `[end - start]`."""
        rows = np.arange(start, end, dtype=np.int64)
        if self.window is not None:
            rows %= self.window
        blocks = np.asarray(self._get(seq_id).blocks, np.int64)
        return blocks[rows // self.block_size] * self.block_size + rows % self.block_size

    def append_one(self, seq_id: Hashable) -> int:
        """`append` of one token; its slot."""
        if self._forked:
            return int(self.append(seq_id, 1)[0])
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

    def blocks_needed(self, seq_id: Hashable, count: int) -> int:
        """Free blocks that appending `count` tokens takes."""
        sequence = self._get(seq_id)
        shared = self._shared_rows(sequence, sequence.length, sequence.length + count)
        return self._missing_blocks(seq_id, count) + len(shared)

    def _shared_rows(self, sequence: _Sequence, start: int, end: int) -> list[int]:
        """Which of a sequence's blocks the tokens from `start` to `end` lie in although others hold them as well."""
        if end <= start:
            return []
        first, last = start, end - 1
        if self.window is not None:  # a ring
            wraps = first // self.window != last // self.window
            first, last = (0, self.window - 1) if wraps else (first % self.window, last % self.window)
        written = range(first // self.block_size, min(last // self.block_size + 1, len(sequence.blocks)))
        return [row for row in written if self.allocator.reference_count(sequence.blocks[row]) > 1]

    def _missing_blocks(self, seq_id: Hashable, count: int) -> int:
        sequence = self._get(seq_id)
        needed = self.blocks_for(sequence.length + count)
        if self._contiguous and needed > 1:
            raise CacheFullError(
                f"sequence {seq_id!r} would have {sequence.length + count} tokens, "
                f"the cache holds {self.block_size} of each sequence"
            )
        return max(needed - len(sequence.blocks), 0)

    def _kept(self, length: int) -> int:
        return length if self.window is None else min(length, self.window)

    def _get(self, seq_id: Hashable) -> _Sequence:
        try:
            return self._sequences[seq_id]
        except KeyError:
            raise KeyError(f"no sequence {seq_id!r} in the cache") from None
