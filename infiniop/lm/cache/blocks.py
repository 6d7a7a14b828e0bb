"""`BlockAllocator`: which blocks of a pool are in use, and by how many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
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
    """Block ids 0 … num_blocks − 1 with reference counts. A block is free again when its last reference is.

    A free block may keep its content until it is taken for another: `on_reuse` is told of every block that is taken.
    """

    def __init__(self, num_blocks: int, on_reuse: Callable[[int], None] | None = None):
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self._references = [0] * num_blocks
        # In the order in which they are taken: first those freed last, which are the warmest, then those whose content
        # may be wanted again, the one freed longest ago first.
        self._free = OrderedDict.fromkeys(range(num_blocks))
        self._on_reuse = on_reuse
        self._peak = 0

    def allocate(self) -> int:
        return self.allocate_many(1)[0]

    def allocate_many(self, count: int) -> list[int]:
        """All `count` blocks, or `CacheFullError` and none."""
        if count > len(self._free):
            raise CacheFullError(f"{count} blocks needed, {len(self._free)} of {len(self._references)} are free")
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._references[block] = 1
            if self._on_reuse is not None:
                self._on_reuse(block)
        self._peak = max(self._peak, self.used_blocks)
        return taken

    def share(self, block_id: int) -> None:
        """One more reference to a block in use."""
        self._check_in_use(block_id)
        self._references[block_id] += 1

    def take(self, block_id: int) -> None:
        """One more reference to a block for what it holds, also when it is free."""
        self._check_known(block_id)
        self._free.pop(block_id, None)
        self._references[block_id] += 1
        self._peak = max(self._peak, self.used_blocks)

    def free(self, block_id: int, keep: bool = False) -> None:
        """Gives one reference back. `keep`: the content may be wanted again, so other free blocks are taken before."""
        self._check_in_use(block_id)
        self._references[block_id] -= 1
        if self._references[block_id] == 0:
            self._free[block_id] = None
            self._free.move_to_end(block_id, last=keep)

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
