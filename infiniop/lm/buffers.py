"""Device memory that a forward pass reuses from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

if TYPE_CHECKING:
    from infiniop import Tensor

_MOST_VIEWS = 1024  # views are small; a server that sees every length once must not collect them for ever

_Key = tuple[str, tuple[int, ...]]


class Buffers:
    """Named scratch tensors: one allocation per name, as large as the largest request so far.

    A repeated `get` costs one dictionary lookup and returns the very same tensor, so that decode allocates nothing
    and its addresses stay put between steps of one shape.
    """

    def __init__(self, device: Any):
        self.device = device
        self.moves = 0  # how often memory that had been given out was left for larger memory
        self._memory: dict[str, Tensor] = {}
        self._views: dict[_Key, Tensor] = {}
        self._aliases: dict[_Key, np.ndarray] = {}  # the same memory for NumPy, where it is the host's

    def get(self, name: str, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """Uninitialised memory of this shape. One name has one dtype."""
        view = self._views.get((name, shape))
        return self._view(name, shape, dtype) if view is None else view

    def put(self, name: str, array: np.ndarray) -> Tensor:
        """A host array, copied into the buffer of this name."""
        key = name, array.shape
        alias = self._aliases.get(key)
        if alias is not None:
            alias[...] = array
            return self._views[key]
        source = infiniop.from_numpy(array)
        target = self.get(name, array.shape, source.dtype)
        if target.device.is_cpu:
            self._aliases[key] = target.numpy()
        return target.copy_(source)

    def _view(self, name: str, shape: tuple[int, ...], dtype: Any) -> Tensor:
        count = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.numel() < count:
            self.moves += memory is not None
            memory = self._memory[name] = infiniop.empty((max(count, 1),), dtype=dtype, device=self.device)
            for known in (self._views, self._aliases):
                for key in [key for key in known if key[0] == name]:
                    del known[key]
        if len(self._views) >= _MOST_VIEWS:
            self._views.clear()
            self._aliases.clear()
        view = self._views[name, shape] = memory[:count].reshape(shape)
        return view
