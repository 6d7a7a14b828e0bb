"""Guarded memory for one call: arrays laid out as the sample has them, canaries around and between their elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from infiniop.schema import Operator, Role
from infiniop.tensor import extent

GUARD = 256  # bytes before and after
_CANARY, _POISON = 0xC5, 0xFF  # 0xFF is NaN in every float dtype, -1 in signed integers
Arrays = Mapping[str, "np.ndarray | None"]


class Block:
    """One array's memory. Aliased arguments share a block."""

    def __init__(self, array: np.ndarray):
        self.itemsize = array.itemsize
        strides = tuple(s // array.itemsize if array.itemsize else 0 for s in array.strides)
        low, high = extent(array.shape, strides)
        self.start = GUARD - low * self.itemsize
        self.memory = np.full(2 * GUARD + (high - low + 1) * self.itemsize, _CANARY, np.uint8)
        self.array = np.ndarray(array.shape, array.dtype, self.memory.data, self.start, array.strides)
        if array.size:
            self.array[...] = array
        self.before = self.memory.copy()

    @property
    def address(self) -> int:
        return int(self.memory.ctypes.data) + self.start

    def poison(self) -> None:
        """Fill the elements with a pattern that no result has."""
        if self.array.size:
            bytes_of = self._bytes(self.memory)
            bytes_of[...] = _POISON
        self.before = self.memory.copy()

    def _bytes(self, memory: np.ndarray) -> np.ndarray:
        """The bytes of the elements, one more axis."""
        array = self.array
        return np.ndarray((*array.shape, self.itemsize), np.uint8, memory.data, self.start, (*array.strides, 1))

    def changed_outside(self) -> str | None:
        """Bytes that changed and belong to no element."""
        changed = self.memory != self.before
        if self.array.size:
            self._bytes(changed.view(np.uint8))[...] = 0
        return self._where(changed)

    def changed(self) -> str | None:
        """Any byte that changed."""
        return self._where(self.memory != self.before)

    def _where(self, changed: np.ndarray) -> str | None:
        if not changed.any():
            return None
        first = int(np.argmax(changed)) - self.start
        return f"{int(changed.sum())} bytes, the first at byte offset {first}"


class Arguments:
    """Blocks for all tensors of one call."""

    def __init__(self, operator: Operator, tensors: Arrays):
        self.operator = operator
        self.blocks: dict[str, Block] = {}
        shared: dict[tuple[Any, ...], Block] = {}
        for schema in operator.tensors:
            array = tensors.get(schema.name)
            if array is None:
                continue
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{operator.name}: {schema.name} of a sample is {type(array).__name__}, not an array")
            key = (array.__array_interface__["data"][0], array.shape, array.strides) if array.size else (id(array),)
            if key not in shared:
                shared[key] = Block(array)
            self.blocks[schema.name] = shared[key]

    def arrays(self) -> dict[str, np.ndarray | None]:
        return {t.name: self.blocks[t.name].array if t.name in self.blocks else None for t in self.operator.tensors}

    def poison_outputs(self, read: set[str]) -> None:
        """Poison OUT tensors, except those in `read` and those that share memory with something that is read."""
        inputs = {id(self.blocks[t.name]) for t in self.operator.inputs if t.name in self.blocks}
        for tensor in self.operator.tensors:
            block = self.blocks.get(tensor.name)
            if tensor.role is Role.OUT and block is not None and tensor.name not in read and id(block) not in inputs:
                block.poison()
        for block in self.blocks.values():
            block.before = block.memory.copy()

    def violations(self) -> list[str]:
        """Memory that changed and must not."""
        written = {id(self.blocks[t.name]) for t in self.operator.outputs if t.name in self.blocks}
        found = []
        for name, block in self.blocks.items():
            where = block.changed_outside() if id(block) in written else block.changed()
            if where:
                what = "memory outside its elements" if id(block) in written else "an input"
                found.append(f"{name}: {what} changed: {where}")
        return found
