"""Wrong arguments for every typed C function, derived from the operator files.

Each round takes a sample of an operator, spoils some of its arguments, and makes the four calls. Nothing may crash,
write outside its buffers, change an out-parameter on failure, or fail without a message. Rounds are reproducible: a
round is a function of (seed, number).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infiniop._library import ffi, lib
from infiniop.gen import signature
from infiniop.operators import all_operators
from infiniop.schema import Attr, Operator, Sample, Status, dtypes
from infiniop.tensor import row_major

SMALL = 1 << 16  # bytes of a sample's tensors: larger ones would only make rounds slow
CALLABLE = 1 << 20  # bytes: spoiled descriptors beyond this are never given memory
CANARY = 64  # bytes on both sides of every buffer
_EXTENTS = (0, 1, 2, 3, 7, 8, 9, 64, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_STRIDES = (0, 1, -1, 2, 5, 1 << 31, -(1 << 40), (1 << 62), -(1 << 63))
_INTS = (0, 1, -1, 2, 3, 64, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_REALS = (0.0, -0.0, 1.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e-45, 3e38)
_RANGE = {
    "int": (-(1 << 31), (1 << 31) - 1), "size_t": (0, (1 << 64) - 1), "int64_t": (-(1 << 63), (1 << 63) - 1),
    "uint64_t": (0, (1 << 64) - 1), "bool": (0, 1), "char": (0, 127),
}  # fmt: skip


class Violation(AssertionError):
    """Something that no argument may cause."""


@dataclass
class Description:
    """What a tensor descriptor is made from; `null` leaves it out."""

    shape: list[int]
    strides: list[int] | None
    code: int
    null: bool = False

    def span(self) -> tuple[int, int] | None:
        """Bytes before and after the first element that the tensor reaches; None when it cannot have memory."""
        known = {d.code: d.itemsize for d in dtypes.ALL}.get(self.code)
        if self.null or known is None:
            return None
        if 0 in self.shape:
            return 0, 0
        strides = self.strides or row_major(self.shape)
        reach = [(n - 1) * s for n, s in zip(self.shape, strides, strict=True)]
        return -known * sum(r for r in reach if r < 0), known * (1 + sum(r for r in reach if r > 0))


@dataclass
class Report:
    """How often each function gave each status."""

    calls: int = 0
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)


class Fuzzer:
    def __init__(self, seed: int = 0, operators: Sequence[str] | None = None):
        self.seed = seed
        self.report = Report()
        chosen = [o for n, o in all_operators().items() if operators is None or n in operators]
        self.samples = [(o, s) for o in chosen for s in _small_samples(o)]
        self.handle = ffi.new("infiniopHandle_t *")
        self._expect(lib.infiniopCreateHandle(self.handle), "infiniopCreateHandle")

    def run(self, calls: int, progress: Callable[[int], None] | None = None) -> Report:
        """At least `calls` calls. Raises `Violation` with the round's number."""
        number = 0
        while self.report.calls < calls:
            try:
                self.round(number)
            except Violation as error:
                raise Violation(f"{error} (Fuzzer(seed={self.seed}).round({number}))") from None
            number += 1
            if progress is not None and number % 10_000 == 0:
                progress(self.report.calls)
        return self.report

    def round(self, number: int) -> None:
        """Create, query, calculate and destroy with spoiled arguments."""
        rng = np.random.default_rng((self.seed, number))
        operator, sample = self.samples[rng.integers(len(self.samples))]
        described = {t.name: _describe(sample.tensors[t.name]) for t in operator.tensors}
        attrs = {a.name: sample.attrs.get(a.name, a.default) for a in operator.attrs}
        for _ in range(rng.integers(0, 4)):
            _spoil(rng, described, attrs, operator)
        descriptors = [self._tensor_descriptor(described[t.name]) for t in operator.tensors]
        desc = ffi.new(f"{signature.descriptor_type(operator)} *", ffi.cast("void *", 0x5A5A))
        handle = ffi.NULL if rng.random() < 0.01 else self.handle[0]
        early = [_c_value(a, attrs[a.name]) for a in signature.create_attrs(operator)]
        created = self._call(f"infiniopCreate{operator.symbol}Descriptor", handle, desc, *descriptors, *early)
        for descriptor in descriptors:
            lib.infiniopDestroyTensorDescriptor(descriptor)
        if created != Status.SUCCESS:
            if ffi.cast("uintptr_t", desc[0]) != 0x5A5A:
                raise Violation(f"{operator.name}: a failed create changed *desc_ptr")
            return
        try:
            self._calculate(rng, operator, sample, described, attrs, desc[0])
        finally:
            self._expect(self._call(f"infiniopDestroy{signature.owner_symbol(operator)}Descriptor", desc[0]), "destroy")

    def _calculate(
        self, rng: np.random.Generator, operator: Operator, sample: Sample, described: dict[str, Description],
        attrs: dict[str, object], desc: Any,
    ) -> None:  # fmt: skip
        size = ffi.new("size_t *")
        if operator.workspace:
            self._expect(self._call(f"infiniopGet{signature.owner_symbol(operator)}WorkspaceSize", desc, size), "query")
        spans = {n: d.span() for n, d in described.items()}
        total = sum(sum(s) for s in spans.values() if s) + size[0]
        buffers = {n: _Buffer(rng, *s) if s and total <= CALLABLE else None for n, s in spans.items()}
        for name, buffer in buffers.items():
            if buffer is not None and rng.random() < 0.8:
                buffer.fill(sample.tensors[name])
        workspace = _Buffer(rng, 0, size[0] if total <= CALLABLE else 0)
        given = workspace.size - (1 if workspace.size and rng.random() < 0.1 else 0)
        pointers = [ffi.NULL if b is None or rng.random() < 0.02 else b.pointer for b in buffers.values()]
        for _ in range(rng.integers(0, 2)):
            _spoil_attr(rng, attrs, operator)
        late, kept = _late_values(signature.run_attrs(operator), attrs, described, rng)
        arguments = [*((workspace.pointer, given) if operator.workspace else ()), *pointers, *late, ffi.NULL]
        self._call(f"infiniop{operator.symbol}", desc, *arguments)
        if rng.random() < 0.02:
            self._call(f"infiniop{operator.symbol}", ffi.NULL, *arguments)
        del kept
        for name, buffer in [*buffers.items(), ("workspace", workspace)]:
            if buffer is not None and not buffer.intact():
                raise Violation(f"{operator.name}: wrote outside {name}")

    def _tensor_descriptor(self, d: Description) -> Any:
        if d.null:
            return ffi.NULL
        made = ffi.new("infiniopTensorDescriptor_t *")
        shape = [min(n, (1 << 64) - 1) for n in d.shape] or ffi.NULL
        strides = ffi.NULL if d.strides is None else [max(-(1 << 63), min(s, (1 << 63) - 1)) for s in d.strides]
        status = self._call("infiniopCreateTensorDescriptor", made, len(d.shape), shape, strides, d.code)
        return made[0] if status == Status.SUCCESS else ffi.NULL

    def _call(self, name: str, *arguments: Any) -> int:
        status = getattr(lib, name)(*arguments)
        self.report.calls += 1
        known = Status._value2member_map_.get(status)
        if known is None:
            raise Violation(f"{name} returned {status}, which is no status")
        self.report.statuses[name, known.name] += 1  # type: ignore[attr-defined]
        if status != Status.SUCCESS and not ffi.string(lib.infiniopGetLastError()):
            raise Violation(f"{name} returned {known} without a message")
        return status

    def _expect(self, status: int, what: str) -> None:
        if status != Status.SUCCESS:
            raise Violation(f"{what} failed: {ffi.string(lib.infiniopGetLastError()).decode()}")


class _Buffer:
    """Memory with canaries on both sides; `pointer` is where the first element lies."""

    def __init__(self, rng: np.random.Generator, before: int, after: int):
        self.size, self._before = after, before
        self._memory = np.full(CANARY + before + after + CANARY, 0xA5, np.uint8)
        inner = self._memory[CANARY : CANARY + before + after]
        inner[:] = rng.integers(0, 256, len(inner), np.uint8)
        self.pointer = ffi.cast("void *", self._memory.ctypes.data + CANARY + before)

    def fill(self, array: np.ndarray | None) -> None:
        """The sample's own values, as far as they fit."""
        if array is not None and array.size:
            data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)[: self.size]
            start = CANARY + self._before
            self._memory[start : start + len(data)] = data

    def intact(self) -> bool:
        return bool((self._memory[:CANARY] == 0xA5).all() and (self._memory[-CANARY:] == 0xA5).all())


def _small_samples(operator: Operator) -> Iterator[Sample]:
    for sample in operator.samples(np.random.default_rng(0)):
        spans = [_describe(a).span() or (0, 0) for a in sample.tensors.values()]
        if "large" not in sample.tags and sum(map(sum, spans)) <= SMALL:
            yield sample


def _describe(array: np.ndarray | None) -> Description:
    if array is None:
        return Description([], None, 0, null=True)
    kind = dtypes.dtype(array.dtype)
    return Description(list(array.shape), [s // kind.itemsize for s in array.strides], kind.code)


def _pick(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _spoil(
    rng: np.random.Generator, described: dict[str, Description], attrs: dict[str, object], operator: Operator
) -> None:
    """One wrong thing among the descriptors or attributes."""
    d = described[_pick(rng, list(described))]
    if d.strides is None:
        d.strides = list(row_major(d.shape))
    axis = int(rng.integers(len(d.shape))) if d.shape else None
    match rng.integers(9):
        case 0:
            d.null = not d.null
        case 1 | 2 if axis is not None:
            d.shape[axis] = _pick(rng, (*_EXTENTS, d.shape[axis] + 1, max(0, d.shape[axis] - 1)))
        case 3 | 4 if axis is not None:
            d.strides[axis] = _pick(rng, (*_STRIDES, d.strides[axis] + 1))
        case 5:
            d.code = int(_pick(rng, (0, 20, 0xFFFFFFFF, 0x7FFFFFFF, *(k.code for k in dtypes.ALL))))
        case 6:
            d.shape.insert(0, _pick(rng, _EXTENTS[:7]))
            d.strides.insert(0, _pick(rng, _STRIDES))
        case 7 if axis is not None:
            del d.shape[axis], d.strides[axis]
        case _:
            _spoil_attr(rng, attrs, operator)


def _spoil_attr(rng: np.random.Generator, attrs: dict[str, object], operator: Operator) -> None:
    scalars = [a for a in operator.attrs if not a.length]
    if scalars:
        attr = _pick(rng, scalars)
        if attr.ctype in ("float", "double"):
            attrs[attr.name] = _pick(rng, _REALS)
        else:
            low, high = _RANGE.get(attr.ctype, (0, 0x7FFFFFFF))
            attrs[attr.name] = min(max(_pick(rng, _INTS), low), high)


def _c_value(attr: Attr, value: Any) -> Any:
    if attr.ctype == "char":
        return bytes([int(value)])
    if attr.ctype in ("float", "double"):
        return float(value)
    return attr.enum.index(value) if isinstance(value, str) else int(value)


def _late_values(
    late: Sequence[Attr], attrs: dict[str, object], described: dict[str, Description], rng: np.random.Generator
) -> tuple[list[Any], list[Any]]:
    """C values of the attributes given at run, and what must stay alive; host arrays are as long as any axis."""
    values, kept = [], []
    longest = max([n for d in described.values() for n in d.shape if n <= CALLABLE], default=1)
    for attr in late:
        if attr.length:
            entries = np.resize(np.asarray(attrs[attr.name]), max(longest, 1)).tolist()
            if rng.random() < 0.2:
                entries[0] = _pick(rng, _REALS if attr.ctype == "float" else (0, -1, 5))
            kept.append(ffi.new(f"{attr.ctype}[]", entries))
            values.append(ffi.NULL if rng.random() < 0.02 else kept[-1])
        else:
            values.append(_c_value(attr, attrs[attr.name]))
    return values, kept
