"""Shapes and dtypes of outputs that a caller leaves to us, from the operator's schema and the other arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from .errors import TensorShapeError
from .schema import Operator, dtype, expr, shapes
from .schema import Tensor as TensorSchema
from .schema.dtypes import DType
from .tensor import Signature, row_major


class Described(Protocol):
    """What is asked of a tensor: a `Signature`, or one of torch's whose extents are symbols."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def strides(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> DType: ...


class Binding:
    """What the given tensors say about axes, groups and dtype variables."""

    def __init__(self, operator: Operator, given: Mapping[str, Described | None], attrs: Mapping[str, Any]):
        self.operator = operator
        self.given = {name: sig for name, sig in given.items() if sig is not None}
        self.axes: dict[str, int] = {}
        self.groups: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, DType] = {}
        self.attrs = {k: v for k, v in attrs.items() if not isinstance(v, str)}
        self.group_ranks: dict[str, int] = {}
        for group, text in operator.group_rank.items():
            self.group_ranks[group] = self.value(text)
        for tensor in operator.tensors:
            if tensor.name in self.given:
                self._bind(tensor, self.given[tensor.name])

    def _bind(self, tensor: TensorSchema, sig: Described) -> None:
        if tensor.dtype in self.operator.dtypes:
            self.dtypes.setdefault(tensor.dtype, sig.dtype)
        try:
            shapes.bind(tensor.shape, sig.shape, self.axes, self.groups, self.group_ranks)
        except shapes.Mismatch as error:
            wanted = " or ".join(shapes.spelled(tensor.shape))
            raise TensorShapeError(
                op=self.operator.name, argument=tensor.name, expected=wanted, got=f"{list(sig.shape)} ({error})"
            ) from None

    def value(self, text: str, extra: Mapping[str, Any] | None = None) -> Any:
        """An expression's value; an axis that nothing binds counts as 1. Raises NameError where a name says nothing."""
        codes = {name: made.code for name, made in self.dtypes.items()}
        functions = {
            "rank": lambda name: len(self.given[name].shape),
            "dim": lambda name, i: self.given[name].shape[i],
            "stride": lambda name, i: self.given[name].strides[i],
            "has": lambda name: name in self.given,
            "size": lambda group: math.prod(self.groups[group]),
            "ndim": lambda group: len(self.groups[group]),
        }
        unbound = dict.fromkeys(self._axis_names(), 1)
        return expr.evaluate(text, {**unbound, **self.attrs, **codes, **self.axes, **(extra or {})}, functions)

    def _axis_names(self) -> set[str]:
        every = (shapes.parse(t.shape) for t in self.operator.tensors)
        return {token.name for alternatives in every for tokens in alternatives for token in tokens if not token.group}

    def infer(self, extra: Mapping[str, Any]) -> None:
        """Complete axes and dtype variables by the operator's `infer`, where the inputs say anything about them."""
        given = {name: value for name, value in extra.items() if value is not None}
        axes = self._axis_names()
        for name, text in self.operator.infer.items():
            if name in self.axes or name in self.dtypes or name in self.groups:
                continue
            used = [n for n in expr.names(text) if n in axes]
            if used and not any(n in self.axes for n in used):
                continue
            try:
                found = self.value(text, given)
            except (NameError, KeyError):
                continue
            if name in self.operator.dtypes:
                self.dtypes[name] = dtype(found)
            else:
                self.axes[name] = found

    def output(self, tensor: TensorSchema) -> tuple[tuple[int, ...], DType]:
        """Shape and dtype of an output that was not given."""
        shape = self._shape(tensor)
        if shape is None:
            ways = " or ".join(["out=", *(f"{text}=" for text in self.operator.infer.values() if text.isidentifier())])
            raise TensorShapeError(
                f"{self.operator.name}: the shape of {tensor.name} [{tensor.shape}] does not follow from the inputs: "
                f"give {ways}", op=self.operator.name, argument=tensor.name,
            )  # fmt: skip
        if any(isinstance(n, int) and n < 0 for n in shape):  # torch's symbols are not asked
            op, argument, got = self.operator.name, tensor.name, str(list(shape))
            raise TensorShapeError(op=op, argument=argument, expected="extents of 0 or more", got=got)
        return shape, self._dtype(tensor)

    def _shape(self, tensor: TensorSchema) -> tuple[int, ...] | None:
        """By the longest alternative whose axes are all known: gemm's c has a batch axis when an input has one."""
        found = [shapes.shape_of(alternative, self.axes, self.groups) for alternative in tensor.shape.split("|")]
        return max((shape for shape in found if shape is not None), key=len, default=None)

    def _dtype(self, tensor: TensorSchema) -> DType:
        if tensor.dtype not in self.operator.dtypes:
            return dtype(tensor.dtype)
        return self.dtypes.get(tensor.dtype) or self.operator.dtypes[tensor.dtype][0]


def output_shapes(
    operator: Operator, given: Mapping[str, Described | None], attrs: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], DType]]:
    """Shapes and dtypes of the OUT tensors that are not among `given`. Extents may be torch's symbols."""
    binding = Binding(operator, given, attrs)
    binding.infer(extra)
    missing = [t for t in operator.tensors if t.is_output and given.get(t.name) is None and not t.optional]
    return {tensor.name: binding.output(tensor) for tensor in missing}


def outputs(
    operator: Operator, given: Mapping[str, Signature | None], attrs: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Signature]:
    """Row-major signatures of the OUT tensors that are not among `given`."""
    device = next(sig.device for sig in given.values() if sig is not None)
    found = output_shapes(operator, given, attrs, extra)
    return {name: Signature.of(shape, row_major(shape), made, device) for name, (shape, made) in found.items()}
