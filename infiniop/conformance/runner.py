"""Samples and error samples through the four-step C API, as a C program would call it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from infiniop import _call, errors
from infiniop._library import ffi, lib
from infiniop.device import Device
from infiniop.inference import Binding
from infiniop.memory import NULL, current, pointer_to
from infiniop.operators import all_operators
from infiniop.schema import REQUIRED, BadValue, ErrorSample, Operator, Role, Sample, Status, dtype
from infiniop.tensor import Signature

from .memory import Arguments

Arrays = Mapping[str, "np.ndarray | None"]
_NOWHERE = 64  # an address for tensors without elements


class Failed(Exception):
    """A C call that answered something else than SUCCESS."""

    def __init__(self, at: str, error: errors.InfiniopError):
        super().__init__(f"{at}: {error.status.name}: {error}")
        self.at, self.error = at, error


class Call:
    """One call of an operator's C functions on guarded host memory; the device must be able to read it."""

    def __init__(self, operator: Operator, backend: str | None, device: str = "cpu"):
        self.operator, self.operation = operator, _call.operations[operator.name]
        self.device, self.backend = Device(device), backend

    def run(self, arguments: Arguments, attrs: Mapping[str, Any], null: Mapping[str, frozenset[str]]) -> None:
        """Create, query the workspace, calculate, destroy. `null`: names passed as NULL, at "create" and at "run"."""
        values = self._values(attrs)
        descriptor = self._create(arguments, values, null.get("create", frozenset()))
        try:
            self._calculate(descriptor, arguments, values, null.get("run", frozenset()))
        finally:
            status = self.operation.destroy(descriptor)
        self._check(status, "destroy")

    def _values(self, attrs: Mapping[str, Any]) -> list[Any]:
        unknown = set(attrs) - {a.name for a in self.operator.attrs}
        if unknown:
            raise KeyError(f"{self.operator.name} has no attribute {', '.join(sorted(unknown))}")
        found = [attrs.get(a.name, a.default) for a in self.operator.attrs]
        missing = [a.name for a, v in zip(self.operator.attrs, found, strict=True) if v is REQUIRED]
        if missing:
            raise KeyError(f"{self.operator.name}: the sample lacks {', '.join(missing)}")
        return found

    def _create(self, arguments: Arguments, values: list[Any], null: frozenset[str]) -> Any:
        tensors = []
        for tensor in self.operator.tensors:
            block = arguments.blocks.get(tensor.name)
            if block is None or tensor.name in null:
                tensors.append(NULL)
            else:
                tensors.append(_call.tensor_descriptor(signature(block.array)))
        room = ffi.new(self.operation.descriptor_type)
        converted = [self.operation.convert(i, values[i]) for i in self.operation.at_create]
        handle = _call.handle_for(self.device, self.backend)
        with current(self.device):
            status = self.operation.create_function(handle, room, *tensors, *converted)
        self._check(status, "create")
        return room[0]

    def _calculate(self, descriptor: Any, arguments: Arguments, values: list[Any], null: frozenset[str]) -> None:
        pointers = []
        for tensor in self.operator.tensors:
            block = arguments.blocks.get(tensor.name)
            if block is None or tensor.name in null:
                pointers.append(NULL)
            else:
                pointers.append(pointer_to(block.address if block.array.size else _NOWHERE))
        scratch, guard = self._workspace(descriptor)
        with current(self.device):
            status = self.operation.function(descriptor, *scratch, *pointers, *self.operation.run_values(values), NULL)
        self._check(status, "run")
        if guard is not None and (guard[:_GUARD] != 1).any() | (guard[-_GUARD:] != 1).any():
            raise AssertionError(f"{self.operator.name} wrote outside its workspace of {len(guard) - 2 * _GUARD} bytes")

    def _workspace(self, descriptor: Any) -> tuple[tuple[Any, ...], np.ndarray | None]:
        if not self.operator.workspace:
            return (), None
        room = ffi.new("size_t *")
        self._check(self.operation.workspace_size(descriptor, room), "workspace")
        if room[0] == 0:
            return (NULL, 0), None
        memory = np.ones(room[0] + 2 * _GUARD, np.uint8)  # never zeroed: nothing may rely on that
        return (pointer_to(memory.ctypes.data + _GUARD), room[0]), memory

    def _check(self, status: int, at: str) -> None:
        if status:
            raise Failed(at, errors.last_error(status, self.operator.name))


_GUARD = 64


def signature(array: np.ndarray) -> Signature:
    return Signature.of(
        array.shape, tuple(s // array.itemsize for s in array.strides), dtype(array.dtype), Device("cpu")
    )


def run_sample(operator: Operator, sample: Sample, backend: str | None = None) -> list[str]:
    """What is wrong with the backend's answer; [] when nothing is."""
    try:
        made = sample.prepare(_caller(backend)) if sample.prepare is not None else {}
    except (Failed, AssertionError) as error:
        return [f"preparation: {error}"]
    actual, expected = Arguments(operator, {**sample.tensors, **made}), Arguments(operator, sample.tensors)
    read = _read_outputs(operator, sample)
    actual.poison_outputs(read)
    expected.poison_outputs(read)
    inputs = {n: None if a is None else a.copy() for n, a in sample.tensors.items()}
    try:
        Call(operator, backend).run(actual, sample.attrs, {})
    except (Failed, AssertionError) as error:
        return [str(error)]
    reference_attrs = python_attrs(operator, sample.attrs)
    failures = actual.violations()
    try:
        operator.reference(**expected.arrays(), **reference_attrs)
    except BadValue as error:  # a call without any output elements succeeds unseen
        written = any(actual.blocks[t.name].array.size for t in operator.outputs if t.name in actual.blocks)
        return failures + ([f"accepted what the reference refuses: {error}"] if written else [])
    if operator.compare is not None:
        difference = operator.compare(expected.arrays(), actual.arrays(), inputs, reference_attrs)
        return failures + ([difference] if difference else [])
    tolerance = _tolerance(operator, expected)
    for tensor in operator.outputs:
        if tensor.name in actual.blocks and not tensor.opaque:
            difference = compare(expected.blocks[tensor.name].array, actual.blocks[tensor.name].array, tolerance)
            failures += [f"{tensor.name}: {difference}"] if difference else []
    return failures


def _caller(backend: str | None) -> Callable[[str, Arrays, Mapping[str, object]], None]:
    """What `Sample.prepare` calls operators of the backend with."""

    def call(name: str, tensors: Arrays, attrs: Mapping[str, object]) -> None:
        operator = all_operators()[name]
        arguments = Arguments(operator, tensors)
        Call(operator, backend).run(arguments, attrs, {})
        for tensor in operator.outputs:
            target = tensors[tensor.name]
            if target is not None:
                target[...] = arguments.blocks[tensor.name].array

    return call


def run_error_sample(operator: Operator, sample: ErrorSample, backend: str | None = None) -> list[str]:
    """What is wrong with how the backend refuses the call; [] when nothing is."""
    arguments = Arguments(operator, sample.tensors)
    for block in arguments.blocks.values():
        block.before = block.memory.copy()
    try:
        Call(operator, backend).run(arguments, sample.attrs, {sample.at: sample.null})
    except Failed as failed:
        failures = []
        if failed.error.status != sample.status:
            failures.append(f"expected {Status(sample.status).name}, got {failed}")
        if failed.at != sample.at:
            failures.append(f"refused at {failed.at}, expected at {sample.at}: {failed}")
        if sample.argument not in str(failed.error):
            failures.append(f"the message does not name {sample.argument}: {failed.error}")
        return failures + [f"{n}: memory changed: {b.changed()}" for n, b in arguments.blocks.items() if b.changed()]
    return [f"expected {Status(sample.status).name} at {sample.at}, got SUCCESS"]


def python_attrs(operator: Operator, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as a kernel gets them: enums as integers, floats in C's precision, defaults filled in."""
    found = {}
    for attr in operator.attrs:
        value = attrs.get(attr.name, attr.default)
        if attr.enum and isinstance(value, str):
            value = attr.enum.index(value)
        if attr.ctype == "float":
            value = float(np.float32(value)) if attr.length is None else np.asarray(value, np.float32)
        found[attr.name] = value
    return found


def _read_outputs(operator: Operator, sample: Sample) -> set[str]:
    """OUT tensors that this call reads as well."""
    conditions = {t.name: t.read_when for t in operator.tensors if t.read_when}
    if not conditions:
        return set()
    sigs = {n: None if a is None else signature(a) for n, a in sample.tensors.items()}
    binding = Binding(operator, sigs, python_attrs(operator, sample.attrs))
    return {name for name, text in conditions.items() if binding.value(text)}


def _tolerance(operator: Operator, arguments: Arguments) -> tuple[float, float] | None:
    """(atol, rtol) by the dtype of the first output; None: exact."""
    first = next((t for t in operator.outputs if t.name in arguments.blocks), None)
    return None if first is None else operator.tolerances.get(dtype(arguments.blocks[first.name].array.dtype))


def compare(expected: np.ndarray, actual: np.ndarray, tolerance: tuple[float, float] | None) -> str | None:
    """A sentence when they differ by more than `tolerance` allows (integers: when they differ)."""
    if expected.size == 0:
        return None
    if not dtype(expected.dtype).is_float or tolerance is None:
        wrong = np.asarray(expected != actual)
        if dtype(expected.dtype).is_float:  # any NaN is as good as another
            wrong &= ~(np.isnan(expected) & np.isnan(actual))
        bound = np.zeros(())
    else:
        wide, found = expected.astype(np.float64), actual.astype(np.float64)
        bound = np.asarray(tolerance[0] + tolerance[1] * np.abs(wide))
        with np.errstate(invalid="ignore", over="ignore"):
            close = np.abs(found - wide) <= bound
        wrong = ~(close | (wide == found) | (np.isnan(wide) & np.isnan(found)))
    if not wrong.any():
        return None
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    limit = f", allowed difference {float(np.broadcast_to(bound, wrong.shape)[where]):.3g}" if bound.ndim else ""
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ, the first at {list(where)}: "
        f"expected {expected[where]}, got {actual[where]}{limit}"
    )


def reference_raises(operator: Operator, sample: ErrorSample) -> BadValue | None:
    """What the reference says to an error sample that a kernel must find."""
    try:
        operator.reference(**Arguments(operator, sample.tensors).arrays(), **python_attrs(operator, sample.attrs))
    except BadValue as error:
        return error
    return None


def has_kernel(backend: str, op: str) -> bool:
    """Whether the backend has a kernel for the operator."""
    room = ffi.new("int *")
    return lib.infiniopBackendHasOperator(backend.encode(), op.encode(), room) == 0 and bool(room[0])


def elements(sample: Sample | ErrorSample) -> int:
    """How many elements its tensors hold."""
    return sum(math.prod(a.shape) for a in sample.tensors.values() if a is not None)


__all__ = [
    "Call", "Failed", "Role", "compare", "elements", "has_kernel", "python_attrs", "reference_raises",
    "run_error_sample", "run_sample", "signature",
]  # fmt: skip
