"""The four-step C API as an object: create, workspace size, calculate, destroy."""

from __future__ import annotations

from typing import Any

from ._call import failed, operations
from ._library import ffi, lib
from .arrays import as_tensor
from .errors import BadParamError, InfiniopError, InsufficientWorkspaceError, NullPointerError, check
from .memory import NULL, Storage, current
from .schema import REQUIRED
from .streams import StreamLike, handle_of, lane_of
from .tensor import Signature, Tensor


class Descriptor:
    """One operator for arguments of fixed shapes, strides and dtypes.

    Made by `infiniop.descriptor`. `calculate` takes the same names with other arrays of the same signatures; those that
    are left out are the ones that it was created with.
    """

    def __init__(self, name: str, backend: str | None, arguments: dict[str, Any]):
        self._operation = operations[name]
        self.name = name
        self._attrs = self._take_attributes(arguments)
        self._tensors = {n: self._tensor(n, arguments.pop(n, None)) for n in self._operation.tensor_names}
        if arguments:
            raise TypeError(f"{name} has no argument {', '.join(sorted(arguments))}")
        sigs = [None if t is None else t._sig for t in self._tensors.values()]
        self._require_outputs()
        self.device = self._operation.check_arguments(sigs)
        self._descriptor = self._operation.describe(self.device, sigs, self._attrs, backend)
        self._lengths = self._operation.lengths(sigs, self._attrs)
        self.workspace_size: int = self._operation.size_of(self._descriptor)

    def _tensor(self, name: str, array: Any) -> Tensor | None:
        try:
            return None if array is None else as_tensor(array)
        except InfiniopError as error:
            raise self._operation.named(error, self._operation.tensor_names.index(name)) from None

    def _take_attributes(self, arguments: dict[str, Any]) -> list[Any]:
        values = []
        for attr in self._operation.schema.attrs:
            value = arguments.pop(attr.name, attr.default)
            if value is REQUIRED and attr.at != "run":
                raise TypeError(f"{self.name} needs {attr.name}")
            values.append(value)
        return values

    def _require_outputs(self) -> None:
        for tensor in self._operation.schema.tensors:
            if tensor.is_output and not tensor.optional and self._tensors[tensor.name] is None:
                raise NullPointerError(op=self.name, argument=tensor.name, expected="an array", got="nothing")

    @property
    def backend(self) -> str:
        """Who serves it."""
        room = ffi.new("const char **")
        check(lib.infiniopGetDescriptorBackend(ffi.cast("struct InfiniopDescriptor *", self._open()), room), self.name)
        return str(ffi.string(room[0]).decode())

    def calculate(self, *, workspace: Any = None, stream: StreamLike = None, **arguments: Any) -> None:
        """Run it. `workspace`: a Tensor or array of at least `workspace_size` bytes; None: memory of our own."""
        descriptor, operation = self._open(), self._operation
        attrs = list(self._attrs)
        for index in operation.at_run:
            attrs[index] = arguments.pop(operation.schema.attrs[index].name, attrs[index])
            if attrs[index] is REQUIRED:
                raise TypeError(f"{self.name} needs {operation.schema.attrs[index].name}")
        tensors = {n: self._same(n, arguments.pop(n, known)) for n, known in self._tensors.items()}
        if arguments:
            raise TypeError(f"{self.name} has no argument {', '.join(sorted(arguments))} at run")
        handle = handle_of(stream, self.device)
        scratch = self._scratch(workspace, handle) if operation.schema.workspace else ()
        pointers = [NULL if t is None else t._ptr for t in tensors.values()]
        values = operation.run_values(attrs, self._lengths)
        with current(self.device):
            status = operation.function(descriptor, *scratch, *pointers, *values, handle)
        if status:
            raise failed(self.name, status)
        lane_of(self.device).keep(handle, descriptor, workspace, *tensors.values())

    def _same(self, name: str, array: Any) -> Tensor | None:
        """An argument of the signature that the descriptor was made for."""
        made_for, tensor = self._tensors[name], self._tensor(name, array)
        if made_for is None or tensor is None:
            if made_for is not tensor and made_for is None:
                raise BadParamError(op=self.name, argument=name, expected="nothing, as at create", got="an array")
            return tensor
        if tensor._sig is not made_for._sig and _described(tensor._sig) != _described(made_for._sig):
            raise BadParamError(op=self.name, argument=name, expected=_words(made_for._sig), got=_words(tensor._sig))
        return tensor

    def _scratch(self, workspace: Any, handle: Any) -> tuple[Any, int]:
        if workspace is None:
            return lane_of(self.device).workspace(handle, self.workspace_size), self.workspace_size
        given = workspace if isinstance(workspace, Storage) else as_tensor(workspace)
        if given.device is not self.device:
            raise BadParamError(op=self.name, argument="workspace", expected=str(self.device), got=str(given.device))
        pointer = given.ptr if isinstance(given, Storage) else given._ptr
        if given.nbytes < self.workspace_size:
            raise InsufficientWorkspaceError(
                op=self.name, argument="workspace", expected=f"{self.workspace_size} bytes", got=f"{given.nbytes}"
            )
        return pointer, given.nbytes

    def _open(self) -> Any:
        if self._descriptor is None:
            raise BadParamError(f"{self.name}: the descriptor is closed", op=self.name)
        return self._descriptor

    def close(self) -> None:
        """Destroy the descriptor; a captured graph keeps its own reference."""
        self._descriptor = None

    def __enter__(self) -> Descriptor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _described(sig: Signature) -> tuple:
    return sig.shape, sig.strides, sig.dtype, sig.device


def _words(sig: Signature) -> str:
    return f"{sig.dtype.name} {list(sig.shape)} with strides {list(sig.strides)} on {sig.device}"


def descriptor(op: str, *, backend: str | None = None, **arguments: Any) -> Descriptor:
    """`descriptor("rms_norm", y=y, x=x, w=w, epsilon=1e-6)`: names as in the operator file, outputs included."""
    return Descriptor(op, backend, arguments)
