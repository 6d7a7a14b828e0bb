"""Registers the operators as `torch.ops.infiniop.<name>`: schemas, kernels, and fake kernels that only infer shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from infiniop._torch_ops import OVERLOADS
from infiniop.arrays import torch_dtypes
from infiniop.errors import BadParamError, TensorDtypeError
from infiniop.gen.python import extra_keywords, identifier
from infiniop.gen.torch import Overload, overloads
from infiniop.inference import output_shapes
from infiniop.operators import all_operators
from infiniop.schema import Operator, Tensor
from infiniop.schema.dtypes import DType

from .kernels import refuse_gradients, torch_dtype

_library = torch.library.Library("infiniop", "FRAGMENT")
# inductor must hand over the strides that eager would: layouts are part of an operator's rules
_TAGS = (
    torch.Tag.pt2_compliant_tag,
    getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),
)


def register() -> None:
    for operator in all_operators().values():
        for overload in overloads(operator):
            kernel, schema = OVERLOADS[overload.name]
            _library.define(schema, tags=_TAGS)
            _library.impl(overload.name, kernel, "CompositeExplicitAutograd")
            # The kernels refuse what wants a gradient, so that nothing need come between them and the caller.
            _library.impl(overload.name, torch.library.fallthrough_kernel, "Autograd")
            torch.library.register_fake(f"infiniop::{overload.name}", _fake(overload), lib=_library)


@dataclass(frozen=True)
class _Shape:
    """What `inference` asks of a tensor; extents may be symbols."""

    shape: tuple[Any, ...]
    strides: tuple[Any, ...]
    dtype: DType


def _fake(overload: Overload) -> Callable[..., Any]:
    """What the kernel returns, without values."""
    operator = overload.operator
    names = [p.name for p in overload.parameters]
    defaults = {identifier(a.name): a.default for a in operator.attrs}
    extra = extra_keywords(operator)

    def fake(*args: Any, **outs: torch.Tensor) -> Any:
        given = {**defaults, **dict(zip(names, args, strict=False))}
        tensors = {t.name: given.get(identifier(t.name)) for t in operator.inputs}
        if torch.is_grad_enabled():
            every = {**tensors, **outs}
            if any(t is not None and t.requires_grad for t in every.values()):
                refuse_gradients(operator.name, **every)
        like = _device_of(operator, {**tensors, **outs})
        if not overload.made:
            return None
        attrs = {a.name: _number(a.enum, given[identifier(a.name)]) for a in operator.attrs if a.length is None}
        shapes = {t.name: _shape(operator, t, tensors[t.name]) for t in operator.inputs}
        found = output_shapes(operator, shapes, attrs, {name: given.get(name) for name in extra})
        made = [
            like.new_empty(shape, dtype=torch_dtype(dtype, operator.name, name))
            for name, (shape, dtype) in found.items()
        ]
        return made[0] if len(made) == 1 else tuple(made)

    return fake


def _device_of(operator: Operator, tensors: dict[str, torch.Tensor | None]) -> torch.Tensor:
    """The first tensor; all others are where it is."""
    first = next(t for t in tensors.values() if t is not None)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != first.device:
            expected, got = f"a tensor on {first.device}", f"one on {tensor.device}"
            raise BadParamError(op=operator.name, argument=name, expected=expected, got=got)
    return first


def _number(choices: tuple[str, ...], value: Any) -> Any:
    return choices.index(value) if isinstance(value, str) and value in choices else value


def _shape(operator: Operator, argument: Tensor, tensor: torch.Tensor | None) -> _Shape | None:
    if tensor is None:
        return None
    dtype = torch_dtypes()[0].get(tensor.dtype)
    if dtype is None:
        raise TensorDtypeError(
            op=operator.name, argument=argument.name, expected="one of infiniop's dtypes", got=str(tensor.dtype)
        )
    return _Shape(tuple(tensor.shape), tensor.stride(), dtype)
