"""Device memory that a forward pass reuses from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

from .arrays import infini_to_numpy

if TYPE_CHECKING:
    from infiniop import Tensor
    from infiniop.schema import DType

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

    def put(self, name: str, array: np.ndarray, dtype: DType | None = None) -> Tensor:
        """A host array, copied into the buffer of this name (and converted to its dtype)."""
        alias = self._alias(name, array.shape)
        if alias is not None:
            alias[...] = array
            return self._views[name, array.shape]
        source = infiniop.from_numpy(array if dtype is None else array.astype(dtype.numpy, copy=False))
        return self.get(name, array.shape, source.dtype).copy_(source)

    def read(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A copy of a buffer on the host."""
        tensor = self.get(name, shape, dtype)
        alias = self._alias(name, shape)
        return infini_to_numpy(tensor).copy() if alias is None else alias.copy()

    def _alias(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """A buffer's own memory, where it is the host's and something has asked for this view of it."""
        alias = self._aliases.get((name, shape))
        if alias is None:
            tensor = self._views.get((name, shape))
            if tensor is not None and tensor.device.is_cpu:
                alias = self._aliases[name, shape] = tensor.numpy()
        return alias

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
