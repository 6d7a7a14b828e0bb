"""From a Python call to the C call: descriptors cached by signature, per thread and bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from operator import index as _index
from operator import itemgetter
from typing import Any

import numpy as np

from . import errors, plugins
from ._library import ffi, lib
from .arrays import describe, doors, fast
from .device import Device
from .errors import ArgumentTypeError, BadParamError, NullPointerError, check
from .memory import NULL, address_of, clear, current
from .schema import Attr, Operator, Role, expr
from .streams import Lane, StreamLike, handle_of, lane_of
from .tensor import Signature, Tensor

CACHE_LIMIT = 256  # plans per operator and thread


class _Here(threading.local):
    """The calling thread's caches.

    `here.<operator>`, there from the operator's first call on, maps signatures and attributes to what a call needs. No
    `__getattr__`: it would more than double the cost of every lookup.
    """

    def __init__(self) -> None:
        self.plans: dict[str, OrderedDict[tuple, Plan]] = {}


here = _Here()


def forget() -> None:
    """Make the descriptors of this thread's calls anew."""
    for cache in here.__dict__.values():
        cache.clear()


cast, from_buffer = ffi.cast, ffi.from_buffer
CHAR_POINTER = ffi.typeof("char *")
NO_LENGTHS: Mapping[int, int] = {}
fast_call = None if fast is None else fast.call


def failed(name: str, status: int) -> errors.InfiniopError:
    """The exception for a status that an operator's call has just returned."""
    return errors.last_error(status, name)


def bad_outputs(name: str, count: int, given: Any) -> errors.InfiniopError:
    """The exception for an `out` that is not as many arrays as the operator has outputs."""
    return ArgumentTypeError(op=name, argument="out", expected=f"a tuple of {count} outputs", got=_short(given))


class Plan:
    """A descriptor, and what calling it takes."""

    __slots__ = ("descriptor", "function", "lane", "lengths", "made", "size")

    def __init__(
        self, function: Any, descriptor: Any, size: int, lane: Lane, made: tuple[tuple[int, Signature], ...],
        lengths: Mapping[int, int],
    ):  # fmt: skip
        self.function, self.descriptor, self.size, self.lane = function, descriptor, size, lane
        self.made = made  # outputs to allocate: (index, signature)
        self.lengths = lengths  # of host arrays: elements, by attribute


# ---- handles ------------------------------------------------------------------------------------------------

_handles: dict[tuple[Device, str | None], Any] = {}
_handles_lock = threading.Lock()


def handle_for(device: Device, backend: str | None) -> Any:
    """The handle whose descriptors the backend (or the device's best one) serves."""
    if not isinstance(backend, str | None):
        raise ArgumentTypeError(argument="backend", expected="the name of a backend", got=_short(backend))
    known = _handles.get((device, backend))
    if known is not None:
        return known
    plugins.discover()
    with _handles_lock, current(device):
        if (device, backend) in _handles:  # another thread was here first
            return _handles[device, backend]
        room = ffi.new("infiniopHandle_t *")
        if backend is None:
            check(lib.infiniopCreateHandle(room))
        else:
            check(lib.infiniopCreateHandleForBackend(room, backend.encode()))
        _handles[device, backend] = room[0]
        return room[0]


# ---- one operator -------------------------------------------------------------------------------------------


class Operation:
    """One operator: its schema, its C functions, its argument positions."""

    def __init__(self, schema: Operator):
        self.schema, self.name = schema, schema.name
        owner = schema.symbol if schema.shares is None else operations[schema.shares].schema.symbol
        self.create_function = getattr(lib, f"infiniopCreate{schema.symbol}Descriptor")
        self.function = getattr(lib, f"infiniop{schema.symbol}")
        self.destroy = getattr(lib, f"infiniopDestroy{owner}Descriptor")
        self.workspace_size: Any = getattr(lib, f"infiniopGet{owner}WorkspaceSize") if schema.workspace else None
        self.descriptor_type = f"infiniop{owner}Descriptor_t *"
        self.tensor_names = tuple(t.name for t in schema.tensors)
        self.returned = tuple(i for i, t in enumerate(schema.tensors) if t.is_output)
        self.fresh = tuple(i for i, t in enumerate(schema.tensors) if t.role is Role.OUT)
        self.first_input = next((i for i, t in enumerate(schema.tensors) if t.role is not Role.OUT), 0)
        self.at_create = tuple(i for i, a in enumerate(schema.attrs) if a.at != "run")
        self.at_run = tuple(i for i, a in enumerate(schema.attrs) if a.at != "create")
        self.key_of = _picker(self.at_create)
        self.read_when = {i: t.read_when for i, t in enumerate(schema.tensors) if t.read_when}
        self.partly_written = frozenset(i for i in self.fresh if schema.tensors[i].written)

    def convert(self, index: int, value: Any) -> Any:
        """An attribute as cffi takes it."""
        attr = self.schema.attrs[index]
        try:
            return self._converted(attr, value)
        except errors.InfiniopError:
            raise
        except (TypeError, ValueError, OverflowError):
            raise ArgumentTypeError(
                op=self.name, argument=attr.name, expected=_wanted(attr), got=_short(value)
            ) from None

    def _converted(self, attr: Attr, value: Any) -> Any:
        if attr.length is not None:
            return _host_array(attr, value)
        if attr.enum and isinstance(value, str):
            if value not in attr.enum:
                raise BadParamError(
                    op=self.name, argument=attr.name, expected=f"one of {', '.join(attr.enum)}", got=value
                )
            return attr.enum.index(value)
        if attr.ctype in ("float", "double"):
            if isinstance(value, str | bytes):
                raise TypeError
            return float(value)
        if attr.ctype == "bool":
            if value not in (False, True):
                raise TypeError
            return bool(value)
        least, most = _RANGES.get(attr.ctype, _RANGES["int"])
        number = _index(value)
        if not least <= number <= most:
            raise BadParamError(
                op=self.name, argument=attr.name, expected=f"an integer from {least} to {most}", got=str(value)
            )
        if attr.ctype == "char":
            return bytes([number & 0xFF])
        return number if attr.ctype in _RANGES else number & 0xFFFFFFFF  # an enum: C sees the same bits

    def run_values(self, attrs: Sequence[Any], lengths: Mapping[int, int] = NO_LENGTHS) -> tuple[Any, ...]:
        """The attributes of a call in C; host arrays must be as long as `lengths` says, for C cannot see it."""
        values = {i: self.convert(i, attrs[i]) for i in self.at_run}
        for index, length in lengths.items():
            if len(values[index]) != length:
                argument, got = self.schema.attrs[index].name, f"{len(values[index])}"
                raise BadParamError(op=self.name, argument=argument, expected=f"{length} values", got=got)
        return tuple(values.values())

    def check_attributes(self, attrs: Sequence[Any]) -> None:
        """Raises for the first that has no form in C."""
        for index, value in enumerate(attrs):
            self.convert(index, value)

    def check_made(self, made: Sequence[tuple[int, Signature]], attrs: Sequence[Any]) -> None:
        """An output that these attributes say is read must be the caller's."""
        values = {a.name: value for a, value in zip(self.schema.attrs, attrs, strict=True)}
        for index, _ in made:
            condition = self.read_when.get(index)
            if condition is not None and expr.evaluate(condition, values, {}):
                raise BadParamError(
                    op=self.name, argument=self.tensor_names[index],
                    expected=f"an array to read, as out=, since {condition}", got="None",
                )  # fmt: skip

    def lengths(self, sigs: Sequence[Signature | None], attrs: Sequence[Any]) -> Mapping[int, int]:
        """Elements of each host array that a call takes, by attribute."""
        wanted = {i: a.length for i, a in enumerate(self.schema.attrs) if a.length is not None and i in self.at_run}
        if not wanted:
            return NO_LENGTHS
        from .inference import Binding

        scalars = {a.name: attrs[i] for i, a in enumerate(self.schema.attrs) if a.length is None}
        binding = Binding(self.schema, dict(zip(self.tensor_names, sigs, strict=True)), scalars)
        return {index: int(binding.value(text)) for index, text in wanted.items()}

    def signature(self, index: int, array: Any) -> Signature | None:
        """Of one argument; what is wrong with it is said in its name."""
        if array is None:
            return None
        try:
            return describe(array)
        except errors.InfiniopError as error:
            raise self.named(error, index) from None

    def named(self, error: errors.InfiniopError, index: int) -> errors.InfiniopError:
        """What is wrong with an array, as what is wrong with the argument."""
        argument = self.tensor_names[index]
        return type(error)(f"{self.name}: {argument}: {error}", op=self.name, argument=argument, got=error.got)

    def check_arguments(self, sigs: Sequence[Signature | None]) -> Device:
        """All tensors on one device, outputs writable, nothing required missing; returns the device."""
        first = sigs[self.first_input]
        device = first.device if first is not None else next((s.device for s in sigs if s is not None), Device())
        for tensor, sig in zip(self.schema.tensors, sigs, strict=True):
            if sig is None:
                if not tensor.optional and tensor.role is not Role.OUT:
                    raise NullPointerError(op=self.name, argument=tensor.name, expected="an array", got="None")
                continue
            if sig.device is not device:
                raise BadParamError(
                    op=self.name, argument=tensor.name, expected=f"an array on {device}", got=f"one on {sig.device}"
                )
            if tensor.is_output and sig.readonly:
                raise BadParamError(
                    op=self.name, argument=tensor.name, expected="writable memory", got="a read-only array"
                )
        return device

    def describe(
        self, device: Device, sigs: Sequence[Signature | None], attrs: Sequence[Any], backend: str | None
    ) -> Any:
        """A new descriptor; destroyed when nothing refers to it."""
        handle = handle_for(device, backend)
        tensors = [NULL if sig is None else tensor_descriptor(sig) for sig in sigs]
        values = [self.convert(i, attrs[i]) for i in self.at_create]
        room = ffi.new(self.descriptor_type)
        with current(device):
            check(self.create_function(handle, room, *tensors, *values), self.name)
        return ffi.gc(room[0], self.destroy)

    def size_of(self, descriptor: Any) -> int:
        if self.workspace_size is None:
            return 0
        room = ffi.new("size_t *")
        check(self.workspace_size(descriptor, room), self.name)
        return int(room[0])

    def fast_plan(self, plan: Plan, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """A plan as the compiled call takes it; with what must live as long as the addresses in it and in its key."""
        function = ffi.addressof(lib, f"infiniop{self.schema.symbol}")
        size = plan.size if self.schema.workspace else None
        kept = [a._sig if a.__class__ is Tensor else a.dtype for a in arrays if a is not None]
        return address_of(function), address_of(plan.descriptor), size, plan.lane, plan.descriptor, kept

    def plan(self, arrays: Sequence[Any], attrs: Sequence[Any], backend: str | None, extra: Mapping[str, Any]) -> Plan:
        """What calls with arguments of these signatures share."""
        sigs = [self.signature(i, a) for i, a in enumerate(arrays)]
        device = self.check_arguments(sigs)
        made: list[tuple[int, Signature]] = []
        if any(sigs[i] is None and not self.schema.tensors[i].optional for i in self.fresh):
            from .inference import outputs

            given = dict(zip(self.tensor_names, sigs, strict=True))
            values = {
                a.name: _plain(self.convert(i, attrs[i])) for i, a in enumerate(self.schema.attrs) if not a.length
            }
            for name, sig in outputs(self.schema, given, values, extra).items():
                index = self.tensor_names.index(name)
                sigs[index] = sig
                made.append((index, sig))
        descriptor = self.describe(device, sigs, attrs, backend)
        size = self.size_of(descriptor)
        lane = lane_of(device)
        lane.reserve(size)
        return Plan(self.function, descriptor, size, lane, tuple(made), self.lengths(sigs, attrs))


_RANGES = {
    "char": (-128, 255), "int": (-(1 << 31), (1 << 31) - 1), "int32_t": (-(1 << 31), (1 << 31) - 1),
    "int64_t": (-(1 << 63), (1 << 63) - 1), "size_t": (0, (1 << 64) - 1), "uint64_t": (0, (1 << 64) - 1),
    "uint32_t": (0, (1 << 32) - 1),
}  # fmt: skip


def _wanted(attr: Attr) -> str:
    """What an attribute may be, in words."""
    if attr.length is not None:
        return f"an array of {element_type(attr)}"
    if attr.enum:
        return f"one of {', '.join(attr.enum)}"
    return {"float": "a number", "double": "a number", "bool": "True or False"}.get(attr.ctype, "an integer")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _picker(indices: tuple[int, ...]) -> Any:
    if not indices:
        return lambda attrs: ()
    if len(indices) == 1:
        only = indices[0]
        return lambda attrs: (attrs[only],)
    return itemgetter(*indices)


def _plain(value: Any) -> Any:
    return value[0] if isinstance(value, bytes) else value


def _host_array(attr: Attr, value: Any) -> Any:
    """A sequence as a C array in host memory."""
    values = value.numpy() if isinstance(value, Tensor) else value
    return ffi.from_buffer(f"{attr.ctype}[]", np.ascontiguousarray(values, element_type(attr)))


def element_type(attr: Attr) -> np.dtype:
    """Of a host array."""
    kinds = {"float": "float32", "double": "float64", "int": "int32", "size_t": "uintp"}
    return np.dtype(kinds.get(attr.ctype) or attr.ctype.removesuffix("_t"))


def tensor_descriptor(sig: Signature) -> Any:
    """An infiniopTensorDescriptor_t, destroyed when nothing refers to it."""
    room = ffi.new("infiniopTensorDescriptor_t *")
    check(lib.infiniopCreateTensorDescriptor(room, len(sig.shape), list(sig.shape), list(sig.strides), sig.dtype.code))
    return ffi.gc(room[0], lib.infiniopDestroyTensorDescriptor)


class _Operations(dict[str, Operation]):
    def __missing__(self, name: str) -> Operation:
        from .operators import all_operators

        schema = all_operators().get(name)
        if schema is None:
            raise BadParamError(f"there is no operator named {name!r}", op=name)
        made = self[name] = Operation(schema)
        return made


operations = _Operations()


# ---- the general path ---------------------------------------------------------------------------------------


def call(name: str, arrays: tuple, attrs: tuple, stream: StreamLike, backend: str | None, **extra: Any) -> Any:
    """Any kind of array, outputs allocated where they are missing, any stream and backend."""
    operation = operations[name]
    try:
        return _call(operation, arrays, attrs, stream, backend, extra)
    except errors.InfiniopError:
        raise
    except (TypeError, OverflowError):
        operation.check_attributes(attrs)  # one that cannot be hashed, or that cffi does not take
        raise


def _call(
    operation: Operation, arrays: tuple, attrs: tuple, stream: StreamLike, backend: str | None, extra: Mapping[str, Any]
) -> Any:
    keys: list[Any] = [backend, operation.key_of(attrs)]
    pointers = []
    used: Sequence[Any] = arrays
    for index, array in enumerate(arrays):
        if array is None:
            keys.append(None)
            pointers.append(NULL)
            continue
        try:
            door = doors[array.__class__]
            if door.borrows:
                borrowed = door.tensor(array)
                used = [borrowed if a is array else a for a in used]
                key, pointer = borrowed._sig, borrowed._ptr
            else:
                key, pointer = door.enter(array)
        except errors.InfiniopError as error:
            raise operation.named(error, index) from None
        keys.append(key)
        pointers.append(pointer)
    if extra:
        keys.append(tuple(extra.values()))
    plan = _find_plan(operation, tuple(keys), used, attrs, backend, extra)
    first = arrays[operation.first_input]
    door = doors[first.__class__]
    if stream is None:
        stream = door.stream(first)
    results: Sequence[Any] = arrays
    if plan.made:
        if operation.read_when:
            operation.check_made(plan.made, attrs)
        results = list(arrays)
        for index, sig in plan.made:
            results[index], pointers[index] = door.new(sig, first)
            if index in operation.partly_written:
                clear(pointers[index], sig.nbytes, sig.device, handle_of(stream, sig.device))
    _run(operation, plan, pointers, attrs, stream, used if results is arrays else [*used, *results])
    if len(operation.returned) == 1:
        return results[operation.returned[0]]
    return tuple(results[i] for i in operation.returned)


def _find_plan(
    operation: Operation, key: tuple, arrays: Sequence[Any], attrs: tuple, backend: str | None, extra: Mapping[str, Any]
) -> Plan:
    plans = here.plans.get(operation.name)
    if plans is None:
        plans = here.plans[operation.name] = OrderedDict()
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = operation.plan(arrays, attrs, backend, extra)
        if len(plans) > CACHE_LIMIT:
            plans.popitem(last=False)
    else:
        plans.move_to_end(key)
    if backend is None and not plan.made:
        _remember(operation, plan, arrays, attrs)
    return plan


def _remember(operation: Operation, plan: Plan, arrays: Sequence[Any], attrs: tuple) -> None:
    """Let the operator's own function find the plan without coming here."""
    early = operation.key_of(attrs)
    if fast is not None and not operation.at_run:
        known = fast.key(early, *arrays)
        if known is not None:
            _store(operation.name + "_fast", known, operation.fast_plan(plan, arrays))
            return
    kinds = {array.__class__ for array in arrays if array is not None}
    door = doors[next(iter(kinds))]
    if len(kinds) != 1 or door.borrows:
        return
    key: list[Any] = []
    for tensor, array in zip(operation.schema.tensors, arrays, strict=True):
        part = (None,) if array is None else door.short_key(array, tensor.is_output)
        if tensor.optional:
            key.append(part[0] if len(part) == 1 else part)
        else:
            key.extend(part)
    _store(operation.name + door.suffix, (*key, *early), (plan.function, plan.descriptor, plan.size, plan.lane))


def _store(name: str, key: Any, value: tuple) -> None:
    """Into the calling thread's cache of that name."""
    cache = here.__dict__.setdefault(name, {})
    if len(cache) >= CACHE_LIMIT:
        del cache[next(iter(cache))]
    cache[key] = value


def _run(
    operation: Operation, plan: Plan, pointers: Sequence[Any], attrs: tuple, stream: StreamLike, arrays: Sequence[Any]
) -> None:
    lane = plan.lane
    values = operation.run_values(attrs, plan.lengths) if operation.at_run else ()
    if lane.plain and stream is None:
        scratch = (lane.scratch, plan.size) if operation.schema.workspace else ()
        status = plan.function(plan.descriptor, *scratch, *pointers, *values, lane.handle)
    else:
        status = _run_elsewhere(operation, plan, pointers, values, handle_of(stream, lane.device), arrays)
    if status:
        raise failed(operation.name, status)


def _run_elsewhere(
    operation: Operation, plan: Plan, pointers: Sequence[Any], values: tuple, handle: Any, arrays: Sequence[Any]
) -> int:
    """On a given stream, on another device than the CPU, or while a graph is captured."""
    lane = plan.lane
    scratch = (lane.workspace(handle, plan.size), plan.size) if operation.schema.workspace else ()
    with current(lane.device):
        status = plan.function(plan.descriptor, *scratch, *pointers, *values, handle)
    lane.keep(handle, plan.descriptor, *arrays)
    return int(status)
