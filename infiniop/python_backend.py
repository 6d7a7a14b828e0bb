"""Backends written in Python: kernels are functions of arrays, in the same native table as all others.

One set of trampolines serves every operator of every Python backend, from any thread. An exception in a kernel becomes
a status and a message.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import streams
from ._call import element_type
from ._library import callback, ffi, lib
from .device import Device
from .errors import InfiniopError, check
from .inference import Binding
from .memory import NULL, Storage, address_of
from .python_runtime import PythonRuntime, runtime_table
from .schema import ALL, Attr, BadValue, Operator, Role, Status
from .tensor import Signature
from .views import numpy_view, signature_of, tensor_view

Kernel = Callable[..., None]
Supports = Callable[[str, Mapping[str, Signature | None], Mapping[str, Any]], "bool | str"]
EXPLICIT_ONLY = 1

_alive: list[Any] = []  # tables, strings and handles: C keeps their addresses for the rest of the process
_states: dict[int, Any] = {}  # what descriptors of Python kernels refer to


class PythonBackend:
    """A backend whose kernels are Python functions.

    `kernels` maps operator names to `kernel(**tensors, **attrs)`, which writes its outputs in place. Tensors are NumPy
    arrays where the device is the CPU, else `infiniop.Tensor`; absent optional ones are None; inputs are not writable.
    An enum attribute is an int. A kernel that is named, "module:function", is imported with its first descriptor: for
    libraries that take long to load. `supports(op, signatures, attrs)` answers True, or False or a reason, before a
    descriptor is made. A device that nobody else brings needs `runtime`.

    Override `array` for kernels of another library's arrays, and `run` for what surrounds every kernel.
    """

    def __init__(
        self,
        name: str,
        *,
        kernels: Mapping[str, Kernel | str],
        device: str = "cpu",
        runtime: PythonRuntime | None = None,
        priority: int = 0,
        explicit_only: bool = False,
        supports: Supports | None = None,
        version: str = "",
    ):
        self.name, self.device, self.version = name, str(device), version
        self.kernels, self.runtime, self.supports = dict(kernels), runtime, supports
        self.priority, self.explicit_only = priority, explicit_only

    def array(self, address: int, signature: Signature) -> Any:
        """What a kernel gets for a tensor of that signature, the first element of which lies at `address`."""
        return numpy_view(address, signature) if signature.device.is_cpu else tensor_view(address, signature)

    def run(self, kernel: Kernel, arguments: dict[str, Any], device: Device, stream: int) -> None:
        """Call a kernel. `arguments`: what `array` made of the tensors, and the attributes. `stream` is the runtime's
        handle, 0 for the device's default stream; the kernel's work must be in its order."""
        kernel(**arguments)

    def register(self) -> None:
        """Enter it into the native table. Raises when the table refuses it."""
        from .operators import all_operators

        known = all_operators()
        unknown = [op for op in self.kernels if op not in known]
        if unknown:
            raise ValueError(f"backend {self.name!r} has kernels for unknown operators: {', '.join(sorted(unknown))}")
        for op, kernel in self.kernels.items():
            if not callable(kernel) and not (isinstance(kernel, str) and ":" in kernel):
                raise TypeError(f"{self.name}: {op}: expected a function or 'module:function', got {kernel!r}")
        table = self._table([_Kernel(self, known[op], kernel) for op, kernel in self.kernels.items()])
        check(lib.infiniopRegisterBackend(table))

    def _table(self, kernels: list[_Kernel]) -> Any:
        pointers = ffi.new("const infiniopKernel *[]", [k.table() for k in kernels]) if kernels else NULL
        table = ffi.new("infiniopBackend *")
        table.struct_size = ffi.sizeof("infiniopBackend")
        table.abi_major, table.abi_minor = lib.INFINIOP_BACKEND_ABI_MAJOR, lib.INFINIOP_BACKEND_ABI_MINOR
        table.name, table.device_name, table.version = _text(self.name), _text(self.device), _text(self.version)
        table.priority = self.priority
        table.flags = EXPLICIT_ONLY if self.explicit_only else 0
        table.runtime = NULL if self.runtime is None else runtime_table(self.runtime)
        table.nkernels, table.kernels = len(kernels), pointers
        _alive.extend((table, pointers, self))
        return table


class _Kernel:
    """One kernel of one Python backend."""

    def __init__(self, backend: PythonBackend, operator: Operator, given: Kernel | str):
        self.backend, self.operator, self._given = backend, operator, given

    @functools.cached_property
    def function(self) -> Kernel:
        return pkgutil.resolve_name(self._given) if isinstance(self._given, str) else self._given

    def table(self) -> Any:
        from .ops import SCHEMA_VERSIONS  # type: ignore[attr-defined]  # generated at build

        table, handle = ffi.new("infiniopKernel *"), ffi.new_handle(self)
        table.struct_size = ffi.sizeof("infiniopKernel")
        table.op = _text(self.operator.name)
        table.schema_version = SCHEMA_VERSIONS[self.operator.name]
        table.supports = _supports if self.backend.supports is not None else NULL
        table.create, table.calculate, table.destroy = _create, _calculate, _destroy
        table.ctx = handle
        _alive.extend((table, handle, self))
        return table


class _State:
    """One descriptor: what every call of the kernel shares."""

    def __init__(self, kernel: _Kernel, call: Any):
        self.kernel, self.function = kernel, kernel.function
        operator = kernel.operator
        self.device = device = Device(int(call.device), call.device_id)
        self.signatures: dict[str, Signature | None] = {}
        for i, tensor in enumerate(operator.tensors):
            view = call.tensors[i]
            known = None if view == NULL else signature_of(view[0], device, tensor.role is Role.IN)
            self.signatures[tensor.name] = known
        self.described = {t.name for t in operator.tensors if t.only_described}
        self.stand_in = Storage(device, max(d.itemsize for d in ALL)) if self.described else None
        self.has_arrays = any(a.length is not None for a in operator.attrs)
        self.attrs = scalars(operator, call.attrs)

    def run(self, run: Any) -> None:
        backend = self.kernel.backend
        arguments: dict[str, Any] = {}
        with streams.nested():
            for i, (name, sig) in enumerate(self.signatures.items()):
                address = address_of(run.data[i])
                if sig is not None and self.stand_in is not None and name in self.described:
                    sig = Signature.of(sig.shape, (0,) * len(sig.shape), sig.dtype, sig.device, True)
                    address = address_of(self.stand_in.ptr)
                absent = sig is None or (address == 0 and 0 not in sig.shape)
                arguments[name] = None if absent else backend.array(address, sig)  # type: ignore[arg-type]
            attrs = scalars(self.kernel.operator, run.attrs)
            if self.has_arrays:
                attrs |= host_arrays(self.kernel.operator, self.signatures, run.attrs, attrs)
            backend.run(self.function, arguments | attrs, self.device, address_of(run.stream))


def scalars(operator: Operator, values: Any) -> dict[str, Any]:
    """The attributes of a call that are no arrays."""
    return {a.name: _scalar(a, values[i]) for i, a in enumerate(operator.attrs) if a.length is None}


def host_arrays(
    operator: Operator, signatures: Mapping[str, Signature | None], values: Any, attrs: Mapping[str, Any]
) -> dict[str, Any]:
    """The others; `attrs` are the scalars, which say how long they are."""
    binding = Binding(operator, signatures, attrs)
    return {
        a.name: _host_array(a, values[i].p, int(binding.value(a.length)))
        for i, a in enumerate(operator.attrs)
        if a.length is not None
    }


def _scalar(attr: Attr, value: Any) -> Any:
    if attr.ctype in ("float", "double"):
        return float(value.f)
    return bool(value.i) if attr.ctype == "bool" else int(value.i)


def _host_array(attr: Attr, pointer: Any, count: int) -> Any:
    """A read-only NumPy array over host memory."""
    kind = element_type(attr)
    if pointer == NULL or count == 0:
        return np.empty(0, kind)
    made = np.frombuffer(ffi.buffer(pointer, count * kind.itemsize), kind)
    made.flags.writeable = False
    return made


def _text(text: str) -> Any:
    made = ffi.new("char[]", text.encode())
    _alive.append(made)
    return made


# ---- errors -------------------------------------------------------------------------------------------------


def report(error: BaseException, op: str, status: Status | None = None) -> int:
    """Leave an exception as the thread's last error; returns its status."""
    fields = {"op": op, "argument": "", "expected": "", "got": ""}
    message = ""
    if isinstance(error, BadValue):
        status, fields["argument"], fields["expected"] = Status.BAD_PARAM, error.argument, error.expected
        fields["got"] = error.got
    elif isinstance(error, InfiniopError):
        status, message = error.status, str(error)
        fields |= {"argument": error.argument, "expected": error.expected, "got": error.got}
    else:
        status = Status.NOT_IMPLEMENTED if isinstance(error, NotImplementedError) else Status.INTERNAL_ERROR
        message = f"{op}: {type(error).__name__}: {error}"
    if os.environ.get("INFINIOP_DEBUG") == "1":
        traceback.print_exception(error)
    set_error(status, fields, message)
    return int(status)


def set_error(status: Status, fields: Mapping[str, str], message: str) -> None:
    """The thread's last error; without a message the host composes one from the fields."""
    texts = {name: ffi.new("char[]", value.encode()) for name, value in fields.items() if value}
    texts |= {"message": ffi.new("char[]", message.encode())} if message else {}
    error = ffi.new("infiniopError *")
    error.struct_size = ffi.sizeof("infiniopError")
    error.status = int(status)
    for name, text in texts.items():
        setattr(error, name, text)
    lib.infiniopGetHost().set_error(error)


# ---- trampolines --------------------------------------------------------------------------------------------


def _on_supports(ctx: Any, call: Any) -> int:
    kernel: _Kernel = ffi.from_handle(ctx)
    try:
        _require_support(kernel, _State(kernel, call))
        return Status.SUCCESS
    except BaseException as error:
        return report(error, kernel.operator.name)


def _require_support(kernel: _Kernel, state: _State) -> None:
    """Raises `NotImplementedError` when the backend declines."""
    if kernel.backend.supports is None:
        return
    answer = kernel.backend.supports(kernel.operator.name, state.signatures, state.attrs)
    if answer is not True:
        declined = f"{kernel.backend.name} does not take these arguments"
        raise NotImplementedError(answer if isinstance(answer, str) else declined)


def _on_create(ctx: Any, call: Any, state: Any, workspace: Any) -> int:
    kernel: _Kernel = ffi.from_handle(ctx)
    try:
        made = _State(kernel, call)
        _require_support(kernel, made)  # supports and create must agree, whoever calls them
        handle = ffi.new_handle(made)
        _states[int(ffi.cast("uintptr_t", handle))] = (handle, made)
        state[0], workspace[0] = handle, 0
        return Status.SUCCESS
    except BaseException as error:
        return report(error, kernel.operator.name)


def _on_calculate(handle: Any, run: Any) -> int:
    state: _State = ffi.from_handle(handle)
    try:
        state.run(run)
        return Status.SUCCESS
    except BaseException as error:
        return report(error, state.kernel.operator.name)


def _on_destroy(handle: Any, states: dict[int, Any] = _states, cast: Any = ffi.cast) -> None:
    states.pop(int(cast("uintptr_t", handle)), None)  # defaults: this runs while the interpreter shuts down, too


_supports = callback("infiniop_py_supports", _on_supports, int(Status.INTERNAL_ERROR))
_create = callback("infiniop_py_create", _on_create, int(Status.INTERNAL_ERROR))
_calculate = callback("infiniop_py_calculate", _on_calculate, int(Status.INTERNAL_ERROR))
_destroy = callback("infiniop_py_destroy", _on_destroy)
