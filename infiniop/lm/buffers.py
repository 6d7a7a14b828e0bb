"""Device memory that a forward pass reuses from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

if TYPE_CHECKING:
    from infiniop import Tensor

_MOST_VIEWS = 1024  # views are small; a server that sees every length once must not collect them for ever


class Buffers:
    """Named scratch tensors: one allocation per name, as large as the largest request so far.

    A repeated `get` costs one dictionary lookup and returns the very same tensor, so that decode allocates nothing
    and its addresses stay put between steps of one shape.
    """

    def __init__(self, device: Any):
        self.device = device
        self._memory: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """Uninitialised memory of this shape. One name has one dtype."""
        view = self._views.get((name, shape))
        return self._view(name, shape, dtype) if view is None else view

    def put(self, name: str, array: np.ndarray) -> Tensor:
        """A host array, copied into the buffer of this name."""
        source = infiniop.from_numpy(array)
        return self.get(name, array.shape, source.dtype).copy_(source)

    def _view(self, name: str, shape: tuple[int, ...], dtype: Any) -> Tensor:
        count = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.numel() < count:
            memory = self._memory[name] = infiniop.empty((max(count, 1),), dtype=dtype, device=self.device)
            self._views = {key: view for key, view in self._views.items() if key[0] != name}
        if len(self._views) >= _MOST_VIEWS:
            self._views.clear()
        view = self._views[name, shape] = memory[:count].reshape(shape)
        return view
