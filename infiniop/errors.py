"""What a failed call raises: one class per status, each with the parts of its message as fields."""

from __future__ import annotations

from .schema import Status


class InfiniopError(RuntimeError):
    """A call that failed. `argument`, `expected` and `got` are "" where they say nothing."""

    status: Status = Status.INTERNAL_ERROR

    def __init__(
        self,
        message: str = "",
        *,
        status: Status | None = None,
        op: str = "",
        argument: str = "",
        expected: str = "",
        got: str = "",
    ):
        self.status = type(self).status if status is None else status
        self.op, self.argument, self.expected, self.got = op, argument, expected, got
        super().__init__(message or self._sentence())

    def _sentence(self) -> str:
        where = ": ".join(part for part in (self.op, self.argument) if part)
        what = f"expected {self.expected}, got {self.got}" if self.expected else self.got or self.status.name
        return f"{where}: {what}" if where else what

    def __reduce__(self):
        return (_rebuild, (type(self), str(self), self.status, self.op, self.argument, self.expected, self.got))


def _rebuild(cls, message, status, op, argument, expected, got):
    return cls(message, status=status, op=op, argument=argument, expected=expected, got=got)


class InternalError(InfiniopError):
    """The backend failed: out of memory, a library's own error."""

    status = Status.INTERNAL_ERROR


class NotImplementedByBackendError(InfiniopError, NotImplementedError):
    """The backend has the operator, but not this form of it."""

    status = Status.NOT_IMPLEMENTED


class BadParamError(InfiniopError, ValueError):
    """An illegal attribute, or an illegal value inside a tensor."""

    status = Status.BAD_PARAM


class ArgumentTypeError(BadParamError, TypeError):
    """An argument of a Python type that the call does not take."""


class NullPointerError(InfiniopError):
    """Something required is missing."""

    status = Status.NULL_POINTER


class DeviceNotSupportedError(InfiniopError):
    """No backend of this device has the operator, or nothing here knows the device."""

    status = Status.DEVICE_TYPE_NOT_SUPPORTED


class DeviceNotFoundError(InfiniopError):
    status = Status.DEVICE_NOT_FOUND


class DeviceNotInitializedError(InfiniopError):
    status = Status.DEVICE_NOT_INITIALIZED


class DeviceArchitectureNotSupportedError(InfiniopError):
    status = Status.DEVICE_ARCHITECTURE_NOT_SUPPORTED


class TensorDtypeError(InfiniopError, TypeError):
    """A dtype that the operator does not take, or that contradicts another argument's."""

    status = Status.BAD_TENSOR_DTYPE


class TensorShapeError(InfiniopError, ValueError):
    """A rank or an extent that does not fit."""

    status = Status.BAD_TENSOR_SHAPE


class TensorStridesError(InfiniopError, ValueError):
    """A layout that the operator does not take."""

    status = Status.BAD_TENSOR_STRIDES


class InsufficientWorkspaceError(InfiniopError):
    status = Status.INSUFFICIENT_WORKSPACE


class LibraryNotFoundError(ImportError):
    """The native libraries are missing: the message says what to do."""


_BY_STATUS = {cls.status: cls for cls in InfiniopError.__subclasses__()}


def error_class(status: int) -> type[InfiniopError]:
    """The class for a status; `InfiniopError` for a number that is none."""
    return _BY_STATUS.get(status, InfiniopError)  # type: ignore[call-overload]


def last_error(status: int, op: str = "") -> InfiniopError:
    """The exception for a status that a C call on this thread has just returned."""
    from ._library import ffi, lib

    info = ffi.new("infiniopError *")
    info.struct_size = ffi.sizeof("infiniopError")
    fields = dict.fromkeys(("op", "argument", "expected", "got"), "")
    message = ""
    if lib.infiniopGetLastErrorInfo(info) == Status.SUCCESS and int(info.status) == status:
        fields = {name: _text(getattr(info, name)) for name in fields}
        message = _text(info.message)
    known = Status(status) if status in Status._value2member_map_ else Status.INTERNAL_ERROR
    fields["op"] = fields["op"] or op
    return error_class(status)(message or f"{op or 'infiniop'}: {known.name}", status=known, **fields)


def check(status: int, op: str = "") -> None:
    """Raise for anything but SUCCESS."""
    if status:
        raise last_error(status, op)


def _text(pointer) -> str:
    from ._library import ffi

    return "" if pointer == ffi.NULL else ffi.string(pointer).decode("utf-8", "replace")
