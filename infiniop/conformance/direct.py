"""A kernel without the library in between: what `supports` and `create` say, and what `calculate` remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from infiniop import _call, errors
from infiniop._library import ffi, lib
from infiniop.errors import check
from infiniop.memory import NULL, current
from infiniop.schema import Operator, Status, dtype

from .call import Failed, attr_values, synchronize
from .memory import Arguments, Placed
from .subject import Subject


class DirectCall:
    """An `infiniopCall` in memory of our own, so that it can be spoiled as soon as `create` is back."""

    def __init__(self, operator: Operator, tested: Subject, arguments: Arguments, attrs: Mapping[str, Any]):
        self.operator, self.tested = operator, tested
        self.kernel = ffi.new("infiniopKernel *")
        self.kernel.struct_size = ffi.sizeof("infiniopKernel")
        check(lib.infiniopGetKernel(tested.backend.encode(), operator.name.encode(), self.kernel))
        self.attrs = attrs
        self._shapes: list[Any] = []
        self._kept: list[Any] = []
        views = [self._view(arguments, t.name) for t in operator.tensors]
        self._views = ffi.new("const infiniopTensorView *[]", views)
        self._values = ffi.new("infiniopValue[]", max(len(operator.attrs), 1))
        self._fill(self._values, at_run=False)
        self.call = ffi.new("infiniopCall *")
        self.call.struct_size = ffi.sizeof("infiniopCall")
        self.call.op = self._keep(ffi.new("char[]", operator.name.encode()))
        self.call.schema_version = self.kernel.schema_version
        self.call.device, self.call.device_id = tested.device.code, tested.device.index
        self.call.ntensors, self.call.tensors = len(views), self._views
        self.call.nattrs, self.call.attrs = len(operator.attrs), self._values

    def _keep(self, made: Any) -> Any:
        self._kept.append(made)
        return made

    def _view(self, arguments: Arguments, name: str) -> Any:
        block = arguments.blocks.get(name)
        if block is None:
            return NULL
        array = block.array
        view = self._keep(ffi.new("infiniopTensorView *"))
        view.struct_size = ffi.sizeof("infiniopTensorView")
        view.dtype, view.ndim = dtype(array.dtype).code, array.ndim
        shape = ffi.new("size_t[]", [*array.shape, 0])
        strides = ffi.new("ptrdiff_t[]", [*(s // array.itemsize for s in array.strides), 0])
        self._shapes += [shape, strides]
        view.shape, view.strides = shape, strides
        return view

    def _fill(self, values: Any, at_run: bool) -> None:
        operation = _call.operations[self.operator.name]
        for i, (attr, value) in enumerate(
            zip(self.operator.attrs, attr_values(self.operator, self.attrs), strict=True)
        ):
            if attr.at == "run" and not at_run:
                continue
            converted = operation.convert(i, value)
            if attr.length is not None:
                values[i].p = self._keep(converted)
            elif attr.ctype in ("float", "double"):
                values[i].f = ffi.cast(attr.ctype, converted)
            else:
                values[i].i = ord(converted) if isinstance(converted, bytes) else int(converted)

    def supports(self) -> tuple[int, str]:
        """Status and message; SUCCESS where the kernel has no such function."""
        if self.kernel.supports == NULL:
            return Status.SUCCESS, ""
        return self._answer(lambda: self.kernel.supports(self.kernel.ctx, self.call))

    def create(self) -> tuple[int, str, Any, int]:
        """Status, message, state and workspace size."""
        state, size = ffi.new("void **"), ffi.new("size_t *")
        status, message = self._answer(lambda: self.kernel.create(self.kernel.ctx, self.call, state, size))
        return status, message, state[0], int(size[0])

    def destroy(self, state: Any) -> None:
        if self.kernel.destroy != NULL:
            self.kernel.destroy(state)

    def _answer(self, function: Any) -> tuple[int, str]:
        _say_nothing()
        with current(self.tested.device):
            status = int(function())
        message = ffi.string(lib.infiniopGetLastError()).decode("utf-8", "replace")
        return status, "" if message == _SILENCE else message

    def spoil(self) -> None:
        """Shapes, strides and attributes become 0: the call was the kernel's for as long as `create` took."""
        for numbers in self._shapes:
            ffi.memmove(numbers, b"\0" * ffi.sizeof(numbers), ffi.sizeof(numbers))
        ffi.memmove(self._values, b"\0" * ffi.sizeof(self._values), ffi.sizeof(self._values))

    def calculate(self, state: Any, memory: Placed) -> None:
        """Raises `Failed`."""
        pointers = [memory.address(t.name) for t in self.operator.tensors]
        values = ffi.new("infiniopValue[]", max(len(self.operator.attrs), 1))
        self._fill(values, at_run=True)
        data = ffi.new("void *[]", [NULL if p is None else p for p in pointers])
        run = ffi.new("infiniopRun *")
        run.struct_size = ffi.sizeof("infiniopRun")
        run.workspace, run.workspace_size = memory.scratch()
        run.data, run.attrs, run.stream = data, values, NULL
        with current(self.tested.device):
            status = int(self.kernel.calculate(state, run))
        if status:
            raise Failed("run", errors.last_error(status, self.operator.name))
        synchronize(self.tested.device)


_SILENCE = "the kernel has said nothing"


def _say_nothing() -> None:
    """A last error that no kernel leaves, so that the next one is the kernel's own."""
    error, text = ffi.new("infiniopError *"), ffi.new("char[]", _SILENCE.encode())
    error.struct_size, error.message = ffi.sizeof("infiniopError"), text
    lib.infiniopGetHost().set_error(error)


@contextmanager
def created(call: DirectCall) -> Iterator[tuple[Any, int]]:
    """State and workspace size; destroyed at the end. Raises `Failed`."""
    status, _, state, size = call.create()
    if status:
        raise Failed("create", errors.last_error(status, call.operator.name))
    try:
        yield state, size
    finally:
        call.destroy(state)
