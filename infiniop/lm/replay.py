"""Recorded decode steps: everything from the embedding to the sampled tokens in one C call."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import infiniop

if TYPE_CHECKING:
    from infiniop import Graph, Tensor

    from .batch import DeviceBatch
    from .buffers import Buffers
    from .cache import BlockCache

logger = logging.getLogger(__name__)

_MOST_GRAPHS = 32  # per cache: a batch that shrinks passes through every size

_Key = tuple[int, ...]  # the shape of the block tables: requests and blocks


class DecodeGraphs:
    """The recorded decode steps of one model, by cache and batch size.

    A recording is good as long as the memory that it names: it goes with its cache (and does not keep it), with every
    buffer that moves, with other rotary tables, and when `clear` says that a parameter has changed.
    """

    def __init__(self, buffers: Buffers, device: Any):
        self._buffers, self._device = buffers, device
        self._can_record = True
        self._moves = buffers.moves
        self._by_cache: WeakKeyDictionary[BlockCache, OrderedDict[_Key, _Recording | None]] = WeakKeyDictionary()

    def clear(self) -> None:
        self._by_cache.clear()

    def run(self, compute: Callable[[], object], batch: DeviceBatch, cache: BlockCache) -> None:
        """Does what `compute` does, from and into the buffers: by calling it the first time, then by replaying a
        recording of it."""
        if self._moves != self._buffers.moves:
            self._moves = self._buffers.moves
            self.clear()
        recordings = self._by_cache.setdefault(cache, OrderedDict())
        key = batch.block_tables.shape
        if not self._can_record or key not in recordings:
            compute()  # allocates what a recording must find in place
            recordings[key] = None
        else:
            recording = recordings[key]
            if recording is None or not recording.serves(batch):
                recording = recordings[key] = self._record(compute, batch)
            if recording is None:
                compute()
            else:
                recording.graph.launch()
        recordings.move_to_end(key)
        if len(recordings) > _MOST_GRAPHS:
            recordings.popitem(last=False)

    def _record(self, compute: Callable[[], object], batch: DeviceBatch) -> _Recording | None:
        try:
            with infiniop.capture(device=self._device) as graph:
                compute()
        except infiniop.InfiniopError as error:
            logger.info("device %s cannot record a decode step (%s): it runs call by call", self._device, error)
            self._can_record = False
            return None
        return _Recording(graph, batch.sin, batch.cos)


class _Recording:
    __slots__ = ("cos", "graph", "sin")

    def __init__(self, graph: Graph, sin: Tensor, cos: Tensor):
        self.graph, self.sin, self.cos = graph, sin, cos

    def serves(self, batch: DeviceBatch) -> bool:
        return self.sin is batch.sin and self.cos is batch.cos
