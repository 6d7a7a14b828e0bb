"""One forward pass's requests, flattened: on the host as NumPy arrays, then on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infiniop.schema import I32, I64

if TYPE_CHECKING:
    from infiniop import Tensor

    from .buffers import Buffers
    from .rope import RotaryTables

_LEAST_WIDTH = 16


@dataclass(frozen=True)
class ForwardBatch:
    """Tokens of all requests, one after the other; request r has those from `offsets[r]` to `offsets[r + 1]`, one at
    least. Integers of any width."""

    input_ids: np.ndarray  # [ntok]
    positions: np.ndarray  # [ntok]
    offsets: np.ndarray  # [nreq + 1]
    lengths: np.ndarray  # [nreq]: tokens of the request so far, with this step's
    kv_lengths: np.ndarray  # [nreq]: how many of them are in the cache and visible, with this step's
    slots: np.ndarray  # [ntok]: where this step's keys and values go
    block_tables: np.ndarray  # [nreq, blocks]
    copies: tuple[tuple[int, int], ...] = ()  # blocks (from, to) to copy before

    @property
    def ntok(self) -> int:
        return len(self.input_ids)

    @property
    def size(self) -> int:
        return len(self.lengths)

    @property
    def is_decode(self) -> bool:
        """Every request has exactly one token."""
        return self.ntok == self.size

    def check_tokens(self, vocab_size: int) -> None:
        """Raises `ValueError` for a token id that the embedding does not have."""
        ids = self.input_ids.tolist()
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            position, token = next((i, token) for i, token in enumerate(ids) if not 0 <= token < vocab_size)
            raise ValueError(f"token id {token} at position {position} is outside the vocabulary of {vocab_size}")


class DeviceBatch:
    """A batch on the device, in memory that is reused from step to step."""

    sin: Tensor
    cos: Tensor

    def __init__(self, host: ForwardBatch, rope: RotaryTables, buffers: Buffers):
        rows, self.sin, self.cos = rope.lookup(host.positions, host.lengths, host.offsets, buffers)
        self.host = host
        self.is_decode = host.is_decode
        self.size = host.size
        self.input_ids: Tensor = buffers.put("input_ids", host.input_ids, I32)
        self.rope_rows: Tensor = buffers.put("rope_rows", rows, I32)
        self.offsets: Tensor = buffers.put("offsets", host.offsets, I32)
        self.kv_lengths: Tensor = buffers.put("kv_lengths", host.kv_lengths, I32)
        self.slots: Tensor = buffers.put("slots", host.slots, I64)
        self.block_tables: Tensor = buffers.put("block_tables", _widened(host.block_tables), I32)


def table_width(blocks: int) -> int:
    """Block tables have few different widths, so that sequences grow within a recorded step."""
    return blocks if blocks <= 1 else max(_LEAST_WIDTH, 1 << (blocks - 1).bit_length())


def _widened(tables: np.ndarray) -> np.ndarray:
    rows, blocks = tables.shape
    width = table_width(blocks)
    if width == blocks:
        return tables
    wide = np.zeros((rows, width), np.int32)
    wide[:, :blocks] = tables
    return wide
