"""More than 2^31 elements: tensors whose elements lie that far apart, and tensors that have so many.

What is far apart holds few elements, so that the reference works on a compact copy; the memory between them is
allocated and, where the device's memory is lazy as the CPU's is, never touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from infiniop._library import ffi, lib
from infiniop.device import Device
from infiniop.errors import check
from infiniop.memory import D2H, H2D, H2H, current
from infiniop.runtime import memory_info
from infiniop.schema import Operator, Role, Sample, Strides, Tensor

from .call import Descriptor, Failed, synchronize
from .memory import Arguments, Placed, allocate
from .runner import Declined, Expected, arguments_of
from .subject import Subject

FAR = (1 << 31) + 64  # elements
MOST = 16 << 30  # bytes that a case may take
_FEW = 1 << 14  # elements of a tensor that is spread out


def require_memory(device: Device, size: int) -> None:
    """Raises `Declined` where the device has less memory left."""
    free, _ = memory_info(device)
    if size > min(free, MOST):
        raise Declined(f"needs {size / 2**30:.1f} GiB of the {free / 2**30:.1f} that are free on {device}")


# ---- elements far apart ------------------------------------------------------------------------------------------


def spread_samples(operator: Operator, seed: int) -> Iterator[tuple[str, Sample, tuple[int, ...]]]:
    """For each tensor that can be spread out: its name, a sample, and strides that reach beyond 2^31 elements.

    Of the samples with the narrowest elements, the largest.
    """
    found: dict[str, tuple[tuple[int, int], Sample, tuple[int, ...]]] = {}
    for sample in operator.samples(np.random.default_rng(seed)):
        for tensor in operator.tensors if _is_plain(sample) else ():
            array = sample.tensors[tensor.name]
            strides = None if tensor.opaque else _spread(tensor, array)
            if array is not None and strides is not None:
                merit = -array.itemsize, array.size
                if tensor.name not in found or found[tensor.name][0] < merit:
                    found[tensor.name] = merit, sample, strides
    for name, (_, sample, strides) in sorted(found.items()):
        yield name, sample, strides


def _is_plain(sample: Sample) -> bool:
    """Small, with memory of its own for each tensor."""
    arrays = [a for a in sample.tensors.values() if a is not None]
    places = {a.__array_interface__["data"][0] for a in arrays if a.size}
    small = all(0 < a.size <= _FEW for a in arrays)
    return not sample.tags and sample.prepare is None and small and len(places) == len(arrays)


def _spread(tensor: Tensor, array: np.ndarray | None) -> tuple[int, ...] | None:
    """Strides with the longest axis that is free spread out; None when there is none."""
    if array is None or tensor.strides is Strides.CONTIGUOUS:
        return None
    strides = [s // array.itemsize for s in array.strides]
    free = [i for i, n in enumerate(array.shape) if n > 1 and strides[i] != 0]
    if tensor.strides in (Strides.UNIT_LAST, Strides.MATRIX):
        free = [i for i in free if strides[i] != 1]
    if not free:
        return None
    axis = max(free, key=lambda i: array.shape[i])
    strides[axis] = -(-FAR // (array.shape[axis] - 1))
    return tuple(strides) if FAR * array.itemsize < MOST else None


class _Spread(Placed):
    """As `Placed`, but one tensor's elements lie far apart."""

    def __init__(self, arguments: Arguments, size: int, tested: Subject, name: str, strides: tuple[int, ...]):
        super().__init__(arguments, size, tested.device)
        self._name, self._array = name, arguments.blocks[name].array
        self._strides = strides
        reach = [(n - 1) * s for n, s in zip(self._array.shape, strides, strict=True)]
        low = sum(r for r in reach if r < 0)
        size = (sum(map(abs, reach)) + 1) * self._array.itemsize
        try:
            require_memory(tested.device, size)
            self._far = allocate(tested.device, size)
        except BaseException:
            self.free()
            raise
        self._start = self._far - low * self._array.itemsize
        self._exchange(upload=True)

    def address(self, name: str) -> Any:
        return self._start if name == self._name else super().address(name)

    def fetch(self) -> None:
        super().fetch()
        self._exchange(upload=False)

    def free(self) -> None:
        super().free()
        if self.__dict__.get("_far") is not None:
            with current(self.device):
                lib.infinirtFree(self._far)
            self._far = None

    def _exchange(self, upload: bool) -> None:
        """Copies the elements, rows of neighbours at a time."""
        packed = np.ascontiguousarray(self._array)
        rows = packed.ndim if not packed.ndim or self._strides[-1] != 1 else packed.ndim - 1
        nbytes = math.prod(packed.shape[rows:]) * packed.itemsize
        host = ffi.from_buffer(packed.reshape(-1).view(np.uint8))
        kind = H2H if self.device.is_cpu else H2D if upload else D2H
        with current(self.device):
            for number, index in enumerate(np.ndindex(packed.shape[:rows])):
                offset = sum(i * s for i, s in zip(index, self._strides, strict=False))
                here, there = host + number * nbytes, self._start + offset * packed.itemsize
                check(lib.infinirtMemcpy(*((there, here) if upload else (here, there)), nbytes, kind))
        if not upload:
            self._array[...] = packed


class _Described:
    """Arguments of which one has other strides, as far as a descriptor sees them."""

    def __init__(self, arguments: Arguments, name: str, strides: tuple[int, ...]):
        array = arguments.blocks[name].array
        bytes_apart = tuple(s * array.itemsize for s in strides)
        view = np.lib.stride_tricks.as_strided(np.zeros(1, array.dtype), array.shape, bytes_apart)
        self.blocks = {**arguments.blocks, name: _Only(view)}


class _Only:
    def __init__(self, array: np.ndarray):
        self.array = array


def run_spread(operator: Operator, tested: Subject, sample: Sample, name: str, strides: tuple[int, ...]) -> list[str]:
    """What is wrong when the tensor `name` has these strides."""
    arguments, expected = arguments_of(operator, sample, tested), Expected(operator, sample)
    try:
        described: Any = _Described(arguments, name, strides)
        descriptor = Descriptor(operator, tested, described, sample.attrs)
    except Failed as failed:
        return [str(failed)]
    try:
        memory = _Spread(arguments, descriptor.workspace_size(), tested, name, strides)
        try:
            descriptor.launch(memory, sample.attrs)
            synchronize(tested.device)
            memory.fetch()
        finally:
            memory.free()
    except Failed as failed:
        return [str(failed)]
    finally:
        descriptor.destroy()
    return memory.violations() + expected.differences(arguments)


# ---- many elements -------------------------------------------------------------------------------------------------


def takes_many(operator: Operator) -> bool:
    """Whether every element stands for itself, so that one tells what all of them must be."""
    alike = {(t.shape, t.dtype, t.strides) for t in operator.tensors}
    return not operator.attrs and len(alike) == 1 and next(iter(alike))[::2] == ("*shape", Strides.ANY)


def run_many(operator: Operator, tested: Subject) -> list[str]:
    """More than 2^31 results from inputs of one element each, which have stride 0."""
    kinds = next(iter(operator.dtypes.values()))
    kind = min((d for d in kinds if d.numpy is not None), key=lambda d: d.itemsize)
    size = FAR * kind.itemsize
    require_memory(tested.device, size + (256 << 20))
    value = np.full((1,), 2, kind.numpy)
    one = {t.name: value.copy() if t.role is Role.IN else np.zeros((1,), kind.numpy) for t in operator.tensors}
    sample = Sample("many", one)
    arguments, expected = arguments_of(operator, sample, tested), Expected(operator, sample)
    described: Any = _Everywhere(arguments)
    descriptor = Descriptor(operator, tested, described, {})
    memory = None
    try:
        memory = _Many(arguments, descriptor.workspace_size(), tested, size)
        descriptor.launch(memory, {})
        synchronize(tested.device)
        return memory.wrong(expected)
    except Failed as failed:
        return [str(failed)]
    finally:
        descriptor.destroy()
        if memory is not None:
            memory.free()


class _Everywhere:
    """Arguments of one element, as far as a descriptor sees them of `FAR`."""

    def __init__(self, arguments: Arguments):
        self.blocks = {}
        for tensor in arguments.operator.tensors:
            array = arguments.blocks[tensor.name].array
            apart = (0 if tensor.role is Role.IN else array.itemsize,)
            self.blocks[tensor.name] = _Only(np.lib.stride_tricks.as_strided(array, (FAR,), apart))


class _Many(Placed):
    """As `Placed`, but the output has `FAR` elements."""

    def __init__(self, arguments: Arguments, workspace: int, tested: Subject, size: int):
        super().__init__(arguments, workspace, tested.device)
        (self._output,) = (t.name for t in arguments.operator.outputs)
        self._size = size
        self._many = allocate(tested.device, size)

    def address(self, name: str) -> Any:
        return self._many if name == self._output else super().address(name)

    def free(self) -> None:
        super().free()
        if self.__dict__.get("_many") is not None:
            with current(self.device):
                lib.infinirtFree(self._many)
            self._many = None

    def wrong(self, expected: Expected) -> list[str]:
        """The first element against the reference, all others against the first."""
        block = self.arguments.blocks[self._output]
        step, first = 32 << 20, b""
        room = np.empty(step, np.uint8)
        kind = H2H if self.device.is_cpu else D2H
        for start in range(0, self._size, step):
            count = min(step, self._size - start)
            with current(self.device):
                check(lib.infinirtMemcpy(ffi.from_buffer(room), self._many + start, count, kind))
            found = room[:count].view(block.array.dtype)
            if not start:
                block.array[...] = found[:1]
                first = found[:1].tobytes()
            bits = found.view(f"u{block.itemsize}")
            other = bits != np.frombuffer(first, bits.dtype)[0]
            if other.any():
                where = start // block.itemsize + int(np.argmax(other))
                return [f"{self._output}: element {where} of {FAR} is {found[int(np.argmax(other))]}, not as the first"]
        return expected.differences(self.arguments)
