"""Guarded memory for one call: arrays laid out as the sample has them, canaries around and between their elements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from infiniop._library import ffi, lib
from infiniop.device import Device
from infiniop.errors import check
from infiniop.memory import D2H, H2D, H2H, NULL, current
from infiniop.schema import Operator, Role
from infiniop.tensor import extent

GUARD = 4096  # bytes before and after
NOWHERE = 64  # an address for tensors without elements
_CANARY, _SCRATCH = 0xC5, 0xFF  # 0xFF is NaN in every float dtype
Arrays = Mapping[str, "np.ndarray | None"]


def _poison(itemsize: int) -> np.ndarray:
    """The bytes of a NaN in every float dtype, but of none that arithmetic makes."""
    pattern = np.full(itemsize, 0xA5, np.uint8)
    pattern[-2:] = (0xF5, 0xFF)[-min(itemsize, 2) :]
    return pattern


class Block:
    """One array's memory on the host. Aliased arguments share a block."""

    def __init__(self, array: np.ndarray, shift: int = 0):
        self.itemsize = array.itemsize
        strides = tuple(s // array.itemsize if array.itemsize else 0 for s in array.strides)
        low, high = extent(array.shape, strides)
        self.start = GUARD + (shift - low) * self.itemsize
        self.memory = np.full(2 * GUARD + (shift + high - low + 1) * self.itemsize, _CANARY, np.uint8)
        self.array = np.ndarray(array.shape, array.dtype, self.memory.data, self.start, array.strides)
        if array.size:
            self.array[...] = array
        self.before = self.memory.copy()

    def poison(self) -> None:
        """Fill the elements with a pattern that no result has."""
        if self.array.size:
            self._bytes(self.memory)[...] = _poison(self.itemsize)
        self.before = self.memory.copy()

    def _bytes(self, memory: np.ndarray) -> np.ndarray:
        """The bytes of the elements, one more axis."""
        array = self.array
        return np.ndarray((*array.shape, self.itemsize), np.uint8, memory.data, self.start, (*array.strides, 1))

    def poisoned(self) -> np.ndarray:
        """Which elements hold nothing but poison, in the array's shape."""
        return (self._bytes(self.memory) == _poison(self.itemsize)).all(axis=-1)

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
    """Blocks for all tensors of one call, `shift` elements off their natural alignment."""

    def __init__(self, operator: Operator, tensors: Arrays, shift: int = 0):
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
                shared[key] = Block(array, shift)
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


class Placed:
    """The blocks of one call in device memory, and a workspace of exactly `workspace_size` bytes between canaries.

    Without `upload` the memory holds zeros until `send`. The workspace holds `scratch`: NaN in every float dtype.
    """

    def __init__(
        self, arguments: Arguments, workspace_size: int, device: Device, upload: bool = True, scratch: int = _SCRATCH
    ):
        self.arguments, self.workspace_size, self.device = arguments, workspace_size, device
        self.workspace = np.full(workspace_size + 2 * GUARD, _CANARY, np.uint8)
        self.workspace[GUARD : GUARD + workspace_size] = scratch
        images = [b.memory for b in arguments.blocks.values()] + ([self.workspace] if workspace_size else [])
        self._images = {id(image): image for image in images}
        self._pointers: dict[int, Any] = {}  # by the id of the host memory
        try:
            for key, image in self._images.items():
                self._pointers[key] = allocate(device, image.nbytes)
                if not upload:
                    with current(device):
                        check(lib.infinirtMemset(self._pointers[key], 0, image.nbytes))
            if upload:
                self.send(NULL)
                with current(device):  # other streams owe the default stream nothing
                    check(lib.infinirtStreamSynchronize(NULL))
        except BaseException:
            self.free()
            raise

    def address(self, name: str) -> Any:
        """Where the tensor's first element lies; None for an absent one."""
        block = self.arguments.blocks.get(name)
        if block is None:
            return None
        if not block.array.size:
            return ffi.cast("char *", NOWHERE)
        return self._pointers[id(block.memory)] + block.start

    def scratch(self) -> tuple[Any, int]:
        """The workspace as a call takes it."""
        if not self.workspace_size:
            return NULL, 0
        return self._pointers[id(self.workspace)] + GUARD, self.workspace_size

    def adopt(self, arguments: Arguments) -> None:
        """Other blocks of the same layouts take the place of these, in the same device memory."""
        blocks, images = self.arguments.blocks, {}
        for name, block in arguments.blocks.items():
            images[id(blocks[name].memory)] = block.memory
        pointers = {id(images.get(key, self._images[key])): pointer for key, pointer in self._pointers.items()}
        self._images = {id(image): image for image in (images.get(k, i) for k, i in self._images.items())}
        self.arguments, self._pointers = arguments, pointers

    def send(self, stream: Any) -> None:
        """Copy the blocks to the device, in the order of the stream."""
        with current(self.device):
            kind = H2H if self.device.is_cpu else H2D
            for key, image in self._images.items():
                check(lib.infinirtMemcpyAsync(self._pointers[key], ffi.from_buffer(image), image.nbytes, kind, stream))

    def bring(self, stream: Any) -> None:
        """Copy every byte back into the blocks, in the order of the stream."""
        with current(self.device):
            kind = H2H if self.device.is_cpu else D2H
            for key, image in self._images.items():
                check(lib.infinirtMemcpyAsync(ffi.from_buffer(image), self._pointers[key], image.nbytes, kind, stream))

    def fetch(self) -> None:
        """Bring, and wait."""
        self.bring(NULL)
        with current(self.device):
            check(lib.infinirtStreamSynchronize(NULL))

    def violations(self) -> list[str]:
        """Of the arguments and of the workspace, once fetched."""
        found = self.arguments.violations()
        if (self.workspace[:GUARD] != _CANARY).any() or (self.workspace[-GUARD:] != _CANARY).any():
            found.append(f"workspace: memory outside its {self.workspace_size} bytes changed")
        return found

    def free(self) -> None:
        with current(self.device):
            for pointer in self._pointers.values():
                lib.infinirtFree(pointer)
        self._pointers = {}


@contextmanager
def placed(arguments: Arguments, workspace_size: int, device: Device) -> Iterator[Placed]:
    """Device memory inside; afterwards, whatever happens, the blocks hold what became of it."""
    here = Placed(arguments, workspace_size, device)
    try:
        yield here
    finally:
        try:
            here.fetch()
        finally:
            here.free()


def allocate(device: Device, size: int) -> Any:
    """Device memory as a char pointer."""
    room = ffi.new("void **")
    with current(device):
        check(lib.infinirtMalloc(room, size), "infinirtMalloc")
    return ffi.cast("char *", room[0])
