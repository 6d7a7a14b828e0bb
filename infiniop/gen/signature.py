"""The four C functions of an operator: create, workspace size, calculate, destroy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from infiniop.schema import Attr, Operator, Tensor


@dataclass(frozen=True)
class Signature:
    """A C function; `role` is create, workspace, calculate or destroy."""

    role: str
    name: str
    params: tuple[str, ...]

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(type_of(p) for p in self.params)

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(re.search(r"\w+$", p).group() for p in self.params)  # type: ignore[union-attr]


def type_of(param: str) -> str:
    """The type of a parameter as far as the ABI sees it: without its name, and without const on a value."""
    text = re.sub(r"\s*\*\s*", " *", re.sub(r"\w+$", "", param)).strip()
    return text if "*" in text else text.removeprefix("const ")


def descriptor_type(operator: Operator) -> str:
    return f"infiniop{owner_symbol(operator)}Descriptor_t"


def owner_symbol(operator: Operator) -> str:
    """The symbol that getter, destroy and descriptor type carry."""
    if operator.shares is None:
        return operator.symbol
    from infiniop.operators import all_operators

    return all_operators()[operator.shares].symbol


def attr_param(attr: Attr) -> str:
    return f"const {attr.ctype} *{attr.name}" if attr.length else f"{attr.ctype} {attr.name}"


def data_param(tensor: Tensor) -> str:
    return f"void *{tensor.name}" if tensor.is_output else f"const void *{tensor.name}"


def create_attrs(operator: Operator) -> tuple[Attr, ...]:
    return tuple(a for a in operator.attrs if a.at != "run")


def run_attrs(operator: Operator) -> tuple[Attr, ...]:
    return tuple(a for a in operator.attrs if a.at != "create")


def functions(operator: Operator) -> tuple[Signature, ...]:
    """Those that this operator defines itself."""
    desc, symbol = descriptor_type(operator), operator.symbol
    create = Signature("create", f"infiniopCreate{symbol}Descriptor", (
        "infiniopHandle_t handle", f"{desc} *desc_ptr",
        *(f"infiniopTensorDescriptor_t {t.name}_desc" for t in operator.tensors),
        *(attr_param(a) for a in create_attrs(operator)),
    ))  # fmt: skip
    workspace = Signature("workspace", f"infiniopGet{symbol}WorkspaceSize", (f"{desc} desc", "size_t *size"))
    calculate = Signature("calculate", f"infiniop{symbol}", (
        f"{desc} desc", *(("void *workspace", "size_t workspace_size") if operator.workspace else ()),
        *(data_param(t) for t in operator.tensors), *(attr_param(a) for a in run_attrs(operator)), "void *stream",
    ))  # fmt: skip
    destroy = Signature("destroy", f"infiniopDestroy{symbol}Descriptor", (f"{desc} desc",))
    if operator.shares:
        return (create, calculate)
    return (create, workspace, calculate, destroy) if operator.workspace else (create, calculate, destroy)
