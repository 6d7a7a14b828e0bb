"""`PrefixIndex`: which blocks hold the keys and values of which tokens, so that equal beginnings are computed once."""

from __future__ import annotations

from collections.abc import Sequence

_START = 0  # the content before the first block

_Key = tuple[int, tuple[int, ...]]


class PrefixIndex:
    """Full blocks by their content: the tokens in them and all tokens before.

    A content is a number; it is looked up by the content before it and the block's own tokens, compared in full, so
    that no two beginnings are ever taken for one another.
    """

    def __init__(self, block_size: int):
        self.block_size = block_size
        self._contents: dict[_Key, int] = {}
        self._blocks: dict[int, int] = {}  # content -> block
        self._keys: dict[int, tuple[_Key, int]] = {}  # block -> how it is looked up, and its content
        self._next = _START + 1

    def __len__(self) -> int:
        """Blocks that are known."""
        return len(self._keys)

    def __contains__(self, block: object) -> bool:
        return block in self._keys

    def match(self, tokens: Sequence[int], most: int) -> tuple[list[int], int]:
        """The blocks of the longest known beginning of `tokens` (at most `most` blocks), and its content."""
        blocks: list[int] = []
        content = _START
        for start in range(0, most * self.block_size, self.block_size):
            found = self._contents.get((content, tuple(tokens[start : start + self.block_size])))
            if found is None:
                break
            content = found
            blocks.append(self._blocks[found])
        return blocks, content

    def put(self, before: int, tokens: Sequence[int], block: int) -> int:
        """Says that a block holds these tokens after the content `before`; returns its content. Another block that
        holds the same stays the one that is known."""
        key = before, tuple(tokens)
        content = self._contents.get(key)
        if content is None:
            content, self._next = self._next, self._next + 1
            self._contents[key] = content
            self._blocks[content] = block
            self._keys[block] = key, content
        return content

    def clear(self) -> None:
        """No block holds what it did. Contents keep their numbers, which sequences may still refer to."""
        for known in (self._contents, self._blocks, self._keys):
            known.clear()

    def forget(self, block: int) -> None:
        """The block gets another content."""
        if block in self._keys:
            key, content = self._keys.pop(block)
            del self._contents[key], self._blocks[content]
