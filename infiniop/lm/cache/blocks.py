"""`BlockAllocator`: which blocks of a pool are in use, and by how many."""

from __future__ import annotations

from dataclasses import dataclass


class CacheFullError(RuntimeError):
    """The cache has no room for what was asked; nothing was changed."""


@dataclass(frozen=True)
class AllocatorStatistics:
    num_blocks: int
    used_blocks: int
    free_blocks: int
    peak_used_blocks: int

    @property
    def utilisation(self) -> float:
        return self.used_blocks / self.num_blocks


class BlockAllocator:
    """Block ids 0 … num_blocks − 1 with reference counts. A block is free again when its last reference is."""

    def __init__(self, num_blocks: int):
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: the block freed last is the warmest
        self._peak = 0

    def allocate(self) -> int:
        return self.allocate_many(1)[0]

    def allocate_many(self, count: int) -> list[int]:
        """All `count` blocks, or `CacheFullError` and none."""
        if count > len(self._free):
            raise CacheFullError(f"{count} blocks needed, {len(self._free)} of {len(self._references)} are free")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        self._peak = max(self._peak, self.used_blocks)
        return taken

    def share(self, block_id: int) -> None:
        """One more reference to a block in use."""
        self._check_in_use(block_id)
        self._references[block_id] += 1

    def free(self, block_id: int) -> None:
        """Gives one reference back."""
        self._check_in_use(block_id)
        self._references[block_id] -= 1
        if self._references[block_id] == 0:
            self._free.append(block_id)

    def reference_count(self, block_id: int) -> int:
        self._check_known(block_id)
        return self._references[block_id]

    @property
    def num_blocks(self) -> int:
        return len(self._references)

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def used_blocks(self) -> int:
        return len(self._references) - len(self._free)

    def statistics(self) -> AllocatorStatistics:
        return AllocatorStatistics(self.num_blocks, self.used_blocks, self.free_blocks, self._peak)

    def _check_known(self, block_id: int) -> None:
        if not 0 <= block_id < len(self._references):
            raise ValueError(f"block {block_id} is not one of the {len(self._references)} blocks of this allocator")

    def _check_in_use(self, block_id: int) -> None:
        self._check_known(block_id)
        if self._references[block_id] == 0:
            raise ValueError(f"block {block_id} is free already")
