"""The four steps of a call through the C API, as a C program would take them, on the device's own memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from infiniop import _call, errors
from infiniop._library import ffi, lib
from infiniop.device import Device
from infiniop.memory import NULL, current
from infiniop.schema import REQUIRED, Operator, Status, dtype
from infiniop.tensor import Signature

from .memory import Arguments, Placed, placed
from .subject import Subject

NOBODY: frozenset[str] = frozenset()


class Failed(Exception):
    """A C call that answered something else than SUCCESS."""

    def __init__(self, at: str, error: errors.InfiniopError):
        super().__init__(f"{at}: {error.status.name}: {error}")
        self.at, self.error = at, error


class Declined(Exception):
    """The backend says that it does not take this call (NOT_IMPLEMENTED at create), which is its right."""


class Descriptor:
    """An operator descriptor; the tensor descriptors that it was made from are gone when this returns."""

    def __init__(
        self, operator: Operator, subject: Subject, arguments: Arguments, attrs: Mapping[str, Any],
        null: frozenset[str] = NOBODY,
    ):  # fmt: skip
        self.operator, self.operation, self.subject = operator, _call.operations[operator.name], subject
        room = ffi.new(self.operation.descriptor_type)
        handle = _call.handle_for(subject.device, subject.backend)
        values = attr_values(operator, attrs)
        converted = [self.operation.convert(i, values[i]) for i in self.operation.at_create]
        tensors = [self._tensor(arguments, t.name, null) for t in operator.tensors]
        with current(subject.device):
            status = self.operation.create_function(handle, room, *tensors, *converted)
        del tensors
        if status == Status.NOT_IMPLEMENTED:
            raise Declined(str(errors.last_error(status, operator.name)))
        self._check(status, "create")
        self._descriptor: Any = room[0]

    def _tensor(self, arguments: Arguments, name: str, null: frozenset[str]) -> Any:
        block = arguments.blocks.get(name)
        return NULL if block is None or name in null else _call.tensor_descriptor(signature(block.array))

    def workspace_size(self) -> int:
        if not self.operator.workspace:
            return 0
        room = ffi.new("size_t *")
        self._check(self.operation.workspace_size(self._descriptor, room), "workspace")
        return int(room[0])

    def launch(
        self, memory: Placed, attrs: Mapping[str, Any], null: frozenset[str] = NOBODY, stream: Any = NULL
    ) -> None:
        """Enqueue the call; nothing waits for it."""
        call = self.prepared(memory, attrs, null, stream)
        with current(self.subject.device):
            call()

    def prepared(
        self, memory: Placed, attrs: Mapping[str, Any], null: frozenset[str] = NOBODY, stream: Any = NULL
    ) -> Callable[[], None]:
        """The call with all arguments made, on the calling thread's current device."""
        pointers = [memory.address(t.name) for t in self.operator.tensors]
        for i, tensor in enumerate(self.operator.tensors):
            if pointers[i] is None or tensor.name in null:
                pointers[i] = NULL
        scratch = memory.scratch() if self.operator.workspace else ()
        values = self.operation.run_values(attr_values(self.operator, attrs))
        call = partial(self.operation.function, self._descriptor, *scratch, *pointers, *values, stream)

        def checked() -> None:
            status = call()
            if status:
                self._check(status, "run")

        return checked

    def destroy(self) -> None:
        descriptor, self._descriptor = self._descriptor, NULL
        self._check(self.operation.destroy(descriptor), "destroy")

    def _check(self, status: int, at: str) -> None:
        if status:
            raise Failed(at, errors.last_error(status, self.operator.name))


def run(
    operator: Operator,
    subject: Subject,
    arguments: Arguments,
    attrs: Mapping[str, Any],
    null: Mapping[str, frozenset[str]] | None = None,
) -> list[str]:
    """Create, query the workspace, calculate, wait, destroy; returns what was written that must not be.

    `null`: names passed as NULL, at "create" and at "run". Raises `Failed` and `Declined`.
    """
    null = null or {}
    descriptor = Descriptor(operator, subject, arguments, attrs, null.get("create", NOBODY))
    try:
        with placed(arguments, descriptor.workspace_size(), subject.device) as memory:
            descriptor.launch(memory, attrs, null.get("run", NOBODY))
            synchronize(subject.device)
    except BaseException:
        descriptor.destroy()
        raise
    descriptor.destroy()
    return memory.violations()


def synchronize(device: Device) -> None:
    """Wait for the device's work; what went wrong in it is this call's failure."""
    with current(device):
        status = lib.infinirtDeviceSynchronize()
    if status:
        raise Failed("run", errors.last_error(status))


def attr_values(operator: Operator, attrs: Mapping[str, Any]) -> list[Any]:
    """All attributes in C order, defaults filled in."""
    unknown = set(attrs) - {a.name for a in operator.attrs}
    if unknown:
        raise KeyError(f"{operator.name} has no attribute {', '.join(sorted(unknown))}")
    found = [attrs.get(a.name, a.default) for a in operator.attrs]
    missing = [a.name for a, v in zip(operator.attrs, found, strict=True) if v is REQUIRED]
    if missing:
        raise KeyError(f"{operator.name}: the sample lacks {', '.join(missing)}")
    return found


def signature(array: np.ndarray) -> Signature:
    return Signature.of(
        array.shape, tuple(s // array.itemsize for s in array.strides), dtype(array.dtype), Device("cpu")
    )
