"""The vocabulary in which an operator file describes its operator.

An operator file defines one module-level `Operator` (or several, for a family). Everything else — C header,
validation, packing, Python function, documentation — is derived from it.

Shapes are strings of axis names, `"ntok nkvh dh"`. `|` separates alternatives (`"m n | b m n"`): the one whose rank
fits is taken, and an axis that the taken alternatives never bind counts as 1. `*name` stands for any number of axes
(`"*batch d"`); everywhere the same group occurs in one operator it must bind the same extents. An axis name that
occurs twice must have one extent. The empty string is a scalar.

Constraints are Python expressions over axis names, attribute names, dtype variables and dtype names, with `+ - * // %`,
comparisons, `in`, `and`/`or`/`not`, `min`, `max`, integer literals, `rank(tensor)`, `size(group)` (number of elements),
`ndim(group)`, `stride(tensor, i)`, `dim(tensor, i)` (both with negative i from the end) and `has(tensor)`
(an optional tensor was given). They are evaluated in Python and compiled to C++.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .dtypes import (
    ALL,
    BF16,
    BOOL,
    BYTE,
    F8,
    F16,
    F32,
    F64,
    FLOATS,
    FLOATS64,
    HALVES,
    I8,
    I16,
    I32,
    I64,
    INTEGERS,
    U8,
    U16,
    U32,
    U64,
    DType,
    dtype,
)  # fmt: skip
from .samples import ErrorSample, Sample

__all__ = [
    "ALL",
    "BF16",
    "BOOL",
    "BYTE",
    "F8",
    "F16",
    "F32",
    "F64",
    "FLOATS",
    "FLOATS64",
    "HALVES",
    "I8",
    "I16",
    "I32",
    "I64",
    "INTEGERS",
    "REQUIRED",
    "U8",
    "U16",
    "U32",
    "U64",
    "Attr",
    "BadValue",
    "Constraint",
    "DType",
    "ErrorSample",
    "Operator",
    "Role",
    "Sample",
    "Status",
    "Strides",
    "Tensor",
    "dtype",
]  # fmt: skip


class Status(enum.IntEnum):
    """The ABI's status codes (`infiniStatus_t`)."""

    SUCCESS = 0
    INTERNAL_ERROR = 1
    NOT_IMPLEMENTED = 2
    BAD_PARAM = 3
    NULL_POINTER = 4
    DEVICE_TYPE_NOT_SUPPORTED = 5
    DEVICE_NOT_FOUND = 6
    DEVICE_NOT_INITIALIZED = 7
    DEVICE_ARCHITECTURE_NOT_SUPPORTED = 8
    BAD_TENSOR_DTYPE = 10
    BAD_TENSOR_SHAPE = 11
    BAD_TENSOR_STRIDES = 12
    INSUFFICIENT_WORKSPACE = 13


class Role(enum.Enum):
    """What the operator does with a tensor's memory."""

    IN = "in"
    OUT = "out"
    INOUT = "inout"


class Strides(enum.Enum):
    """Which layouts a tensor may have. Strides of axes with extent 1 never matter."""

    ANY = "any"  # any strides; broadcast (0) in inputs only
    UNIT_LAST = "unit_last"  # the last axis has stride 1
    CONTIGUOUS = "contiguous"  # row-major without gaps
    MATRIX = "matrix"  # one of the last two axes has stride 1


@dataclass(frozen=True)
class Tensor:
    """One tensor argument, in C order.

    `dtype` names a dtype variable of the operator or a fixed dtype ("I64"). `rank` bounds the rank where the shape has
    a `*group`. `written` says in words which region of an output is written, when that is not all of it; `read_when` is
    the constraint-language condition under which an OUT tensor is read as well (gemm's c when `beta != 0`).
    `null_at_run` allows a NULL pointer at run although a descriptor was given. The values of a tensor that is
    `only_described` mean nothing: kernels in Python get some tensor of that description. An `opaque` tensor holds bytes
    whose layout is a backend's own.
    """

    name: str
    role: Role
    shape: str
    dtype: str
    strides: Strides = Strides.ANY
    doc: str = ""
    optional: bool = False
    rank: tuple[int, int] | None = None
    written: str | None = None
    read_when: str | None = None
    null_at_run: bool = False
    opaque: bool = False
    only_described: bool = False

    @property
    def is_output(self) -> bool:
        return self.role is not Role.IN


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclass(frozen=True)
class Attr:
    """One scalar attribute, in C order.

    `ctype` is the C type in the ABI (`float`, `double`, `int`, `size_t`, `bool`, `char`, `int64_t`, `uint64_t` or an
    enum's name). `at` is "create", "run", or "both" (given twice; the two must agree). With `length` (an expression)
    the attribute is an array in host memory of that many elements. `default` is Python's.
    """

    name: str
    ctype: str
    at: str = "create"
    default: object = REQUIRED
    doc: str = ""
    length: str | None = None
    enum: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constraint:
    """`expr` must hold, else `status`; `argument` is named in the message, `expected` says what would be right."""

    expr: str
    argument: str
    expected: str
    status: Status = Status.BAD_TENSOR_SHAPE
    at: str = "create"


class BadValue(ValueError):
    """Raised by a reference when a value inside a tensor is illegal: BAD_PARAM with a message."""

    def __init__(self, argument: str, expected: str, got: str):
        super().__init__(f"{argument}: expected {expected}, got {got}")
        self.argument, self.expected, self.got = argument, expected, got


Arrays = Mapping[str, "np.ndarray | None"]
Reference = Callable[..., None]


@dataclass(frozen=True)
class Operator:
    """One operator.

    `reference(**tensors, **attrs)` writes the outputs in place; tensors are NumPy arrays (views, any strides; an absent
    optional is None), the arithmetic is float64. `samples(rng)` yields `Sample`s, `error_samples(rng)` `ErrorSample`s.
    `tolerances` maps the dtype of the first output to (atol, rtol): |actual - expected| <= atol + rtol * |expected|;
    a dtype that is absent is compared exactly. `compare(expected, actual, inputs, attrs) -> str | None` replaces that
    comparison: mappings name -> array, and a sentence when they differ. `aliases` lists (output, input) pairs that may
    be the same memory with the same strides. `infer` gives axes (and dtype variables) that inputs do not bind, for a
    Python call without `out=`. `complete(rng, sample)` puts values that mean something (slots, lengths, tables) into
    a sample whose shapes, strides, dtypes and attributes were drawn from the schema; None: this one has none.
    `shape_status` and `rank_status` are for operators that answer otherwise than most.
    `workspace=False`: the ABI has neither a getter nor workspace arguments. `shares` names the operator whose getter,
    destroy function and descriptor type this one uses. `own` marks operators that InfiniCore does not have.
    """

    name: str
    symbol: str
    summary: str
    tensors: tuple[Tensor, ...]
    reference: Reference
    samples: Callable[[np.random.Generator], Iterable[Sample]]
    error_samples: Callable[[np.random.Generator], Iterable[ErrorSample]]
    dtypes: Mapping[str, tuple[DType, ...]] = field(default_factory=dict)
    axes: Mapping[str, str] = field(default_factory=dict)
    attrs: tuple[Attr, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    semantics: tuple[str, ...] = ()
    tolerances: Mapping[DType, tuple[float, float]] = field(default_factory=dict)
    compare: Callable[[Arrays, Arrays, Arrays, Mapping[str, object]], str | None] | None = None
    infer: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[np.random.Generator, Sample], Sample | None] | None = None
    group_rank: Mapping[str, str] = field(default_factory=dict)
    shape_status: Status = Status.BAD_TENSOR_SHAPE
    rank_status: Status = Status.BAD_TENSOR_SHAPE
    workspace: bool = True
    shares: str | None = None
    header: str | None = None
    own: bool = False

    @property
    def header_name(self) -> str:
        """Below `include/infiniop/ops/`."""
        return self.header or f"{self.name}.h"

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.role is not Role.OUT)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.is_output)

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name)
