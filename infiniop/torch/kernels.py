"""What the generated kernels of torch's dispatcher share: new outputs, and what must not happen silently."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch.autograd.graph import increment_version as changed

from infiniop import _call
from infiniop.arrays import accelerated, doors, fast, torch_dtypes
from infiniop.errors import BadParamError, TensorDtypeError
from infiniop.gen.python import extra_keywords
from infiniop.schema.dtypes import DType

__all__ = ["changed", "infer", "key", "refuse_gradients", "refuse_uninitialised", "torch_dtype"]

Outputs = list[tuple[tuple[int, ...], torch.dtype]]  # shape and dtype of each

assert doors[torch.Tensor].name == "torch"  # from now on the compiled calls know torch's tensors


def _key(attrs: tuple, *inputs: torch.Tensor | None) -> tuple:
    return (attrs, *(None if i is None else (i.shape, i.stride(), i.dtype, i.device) for i in inputs))


key = _key if fast is None or torch.Tensor not in accelerated else fast.key  # what shapes of outputs depend on, or None


def infer(name: str, known: dict[Any, Outputs], attrs: tuple, *inputs: torch.Tensor | None) -> Outputs:
    """What an operator writes, from its inputs; remembered in `known`. `attrs`: its own, then the inference's."""
    operation = _call.operations[name]
    schema = operation.schema
    given = dict(zip((t.name for t in schema.inputs), inputs, strict=True))
    count = len(schema.attrs)
    extra = dict(zip(extra_keywords(schema), attrs[count:], strict=True))
    plan = operation.plan([given.get(t.name) for t in schema.tensors], attrs[:count], None, extra)
    found = [(sig.shape, torch_dtype(sig.dtype, name, schema.tensors[index].name)) for index, sig in plan.made]
    if len(known) >= _call.CACHE_LIMIT:
        known.clear()
    if (of := key(attrs, *inputs)) is not None:
        known[of] = found
    return found


def torch_dtype(dtype: DType, op: str, argument: str) -> torch.dtype:
    found = torch_dtypes()[1].get(dtype)
    if found is None:
        raise TensorDtypeError(op=op, argument=argument, expected="a dtype that torch has", got=dtype.name)
    return found


def refuse_gradients(op: str, **tensors: torch.Tensor | None) -> NoReturn:
    argument = next(name for name, tensor in tensors.items() if tensor is not None and tensor.requires_grad)
    raise BadParamError(
        op=op, argument=argument, expected="a tensor without requires_grad, or a call under torch.no_grad()",
        got="one that wants a gradient: infiniop's operators have no backward",
    )  # fmt: skip


def refuse_uninitialised(op: str, argument: str) -> NoReturn:
    raise BadParamError(op=op, argument=argument, expected=f"a tensor to read, in {op}.out", got="none")
