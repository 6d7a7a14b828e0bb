"""One forward pass's requests, flattened: on the host as NumPy arrays, then on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from infiniop import Tensor

    from .buffers import Buffers
    from .rope import RotaryTables

_LEAST_WIDTH = 16  # blocks in the tables of a decode step


@dataclass(frozen=True)
class ForwardBatch:
    """Tokens of all requests, one after the other; request r has those from `offsets[r]` to `offsets[r + 1]`."""

    input_ids: np.ndarray  # i32 [ntok]
    positions: np.ndarray  # i32 [ntok]
    offsets: np.ndarray  # i32 [nreq + 1]
    lengths: np.ndarray  # i64 [nreq]: tokens of the request so far, with this step's
    kv_lengths: np.ndarray  # i32 [nreq]: how many of them are in the cache and visible, with this step's
    slots: np.ndarray  # i64 [ntok]: where this step's keys and values go
    block_tables: np.ndarray  # i32 [nreq, blocks]

    @property
    def ntok(self) -> int:
        return len(self.input_ids)

    @property
    def size(self) -> int:
        return len(self.lengths)

    @property
    def is_decode(self) -> bool:
        """Every request has exactly one token."""
        return self.ntok == self.size and bool((np.diff(self.offsets) == 1).all())

    def check_tokens(self, vocab_size: int) -> None:
        """Raises `ValueError` for a token id that the embedding does not have."""
        bad = np.flatnonzero((self.input_ids < 0) | (self.input_ids >= vocab_size))
        if len(bad):
            raise ValueError(
                f"token id {self.input_ids[bad[0]]} at position {bad[0]} is outside the vocabulary of {vocab_size}"
            )


class DeviceBatch:
    """A batch on the device, in memory that is reused from step to step."""

    sin: Tensor
    cos: Tensor

    def __init__(self, host: ForwardBatch, rope: RotaryTables, buffers: Buffers):
        rows, self.sin, self.cos = rope.lookup(host.positions, host.lengths, host.offsets, buffers)
        self.host = host
        self.is_decode = host.is_decode
        self.size = host.size
        self.input_ids: Tensor = buffers.put("input_ids", host.input_ids)
        self.rope_rows: Tensor = buffers.put("rope_rows", rows)
        self.offsets: Tensor = buffers.put("offsets", host.offsets)
        self.kv_lengths: Tensor = buffers.put("kv_lengths", host.kv_lengths)
        self.slots: Tensor = buffers.put("slots", host.slots)
        tables = _widened(host.block_tables) if self.is_decode else host.block_tables
        self.block_tables: Tensor = buffers.put("block_tables", tables)


def _widened(tables: np.ndarray) -> np.ndarray:
    """Block tables of few different widths, so that sequences grow within a recorded step."""
    rows, blocks = tables.shape
    if blocks == 1:
        return tables
    wide = np.zeros((rows, max(_LEAST_WIDTH, 1 << (blocks - 1).bit_length())), np.int32)
    wide[:, :blocks] = tables
    return wide
