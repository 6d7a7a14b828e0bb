"""The core's share: schema tables, one function per constraint, and the typed C functions that pack arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping

from infiniop.schema import Attr, DType, Operator, Role, Tensor, dtype, expr
from infiniop.schema.shapes import parse

from . import signature
from .abi import Abi
from .lock import Registry

_HEAD = """\
// Generated from operators/ at build.
#include <algorithm>

#include "dispatch.hpp"
#include "infiniop.h"
#include "schema_env.hpp"

namespace {
using namespace infini;
"""
_REAL = ("float", "double")
_ELEMENT_SIZE = {"float": 4, "double": 8, "int": 4, "bool": 1, "char": 1}


def operators(ops: Mapping[str, Operator], registry: Registry) -> str:
    """Tables and functions of every operator."""
    shared_first = sorted(ops.values(), key=lambda o: (o.shares is not None, o.name))
    tables = "\n".join(_Table(o, registry.version(o.name)).text() for o in shared_first)
    functions = "\n".join(_functions(o) for o in ops.values())
    pointers = "".join(f"    &schema_{name},\n" for name in ops)
    return (
        f"{_HEAD}\n{tables}\n}} // namespace\n\n"
        f"const OperatorSchema *const infini::operator_schemas[] = {{\n{pointers}}};\n"
        f"const size_t infini::operator_schema_count = {len(ops)};\n\n{functions}"
    )


def stubs(ops: Mapping[str, Operator], abi: Abi) -> str:
    """The symbols of the ABI whose operators are not built."""
    built = {s.name for o in ops.values() for s in signature.functions(o)}
    lines = ["// Generated from operators/infinicore_abi.json at build.", '#include "dispatch.hpp"']
    headers = {f.header for f in abi.operator_functions().values() if f.name not in built}
    lines += [f'#include "{h}"' for h in sorted(headers)] + [""]
    for function in abi.operator_functions().values():
        if function.name not in built:
            types = ", ".join(signature.type_of(p) for p in function.params)
            lines.append(f'infiniStatus_t {function.name}({types}) {{ return infini::not_built("{function.name}"); }}')
    return "\n".join(lines) + "\n"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Table:
    """One operator's constant tables."""

    def __init__(self, operator: Operator, version: int):
        self.op, self.version = operator, version
        tokens = [t for tensor in operator.tensors for a in parse(tensor.shape) for t in a]
        self.axes = list(dict.fromkeys(t.name for t in tokens if not t.group))
        self.groups = list(dict.fromkeys(t.name for t in tokens if t.group))
        self.dtype_vars = list(operator.dtypes)
        self.names = expr.CppNames(
            axes=_index(self.axes),
            groups=_index(self.groups),
            attrs=_index([a.name for a in operator.attrs]),
            real_attrs=frozenset(a.name for a in operator.attrs if a.ctype in _REAL),
            dtypes=_index(self.dtype_vars),
            tensors=_index([t.name for t in operator.tensors]),
        )

    def text(self) -> str:
        parts = [
            f"namespace {self.op.name}_ {{",
            _array("const char *const axes[]", [_string(a) for a in self.axes]),
            _array("const char *const groups[]", [_string(g) for g in self.groups]),
            *(self._expression(f"group_rank_{g}", e, "int64_t") for g, e in self.op.group_rank.items()),
            _array("int64_t (*const group_rank[])(const SchemaEnv &)", [
                f"group_rank_{g}" if g in self.op.group_rank else "nullptr" for g in self.groups]),
            *self._dtype_vars(), *self._tensors(), *self._attrs(), *self._constraints(),
            _array("const AliasPair aliases[]", [
                f"{{{self.names.tensors[o]}, {self.names.tensors[i]}}}" for o, i in self.op.aliases]),
            _array("const Tolerance tolerances[]", [
                f"{{{d.enumerator}, {atol!r}, {rtol!r}}}" for d, (atol, rtol) in self.op.tolerances.items()]),
            f"}} // namespace {self.op.name}_",
            self._schema(),
        ]  # fmt: skip
        return "\n".join(p for p in parts if p) + "\n"

    def _expression(self, name: str, text: str, ctype: str) -> str:
        return f"{ctype} {name}([[maybe_unused]] const SchemaEnv &e) {{ return {expr.to_cpp(text, self.names)}; }}"

    def _dtype_vars(self) -> list[str]:
        lines = [
            _array(f"const infiniDtype_t allowed_{name}[]", [d.enumerator for d in allowed])
            for name, allowed in self.op.dtypes.items()
        ]
        rows = [f"{{{_string(n)}, allowed_{n}, {len(a)}}}" for n, a in self.op.dtypes.items()]
        return [*lines, _array("const DtypeVar dtype_vars[]", rows)]

    def _tensors(self) -> list[str]:
        lines, rows = [], []
        for tensor in self.op.tensors:
            alternatives = []
            for i, tokens in enumerate(parse(tensor.shape)):
                cells = [f"{{{_bool(t.group)}, {self._axis(t)}}}" for t in tokens]
                name = f"{tensor.name}_shape_{i}"
                lines.append(_array(f"const AxisToken {name}[]", cells))
                alternatives.append(f"{{{name if cells else 'nullptr'}, {len(cells)}}}")
            lines.append(_array(f"const ShapeAlternative {tensor.name}_shapes[]", alternatives))
            rows.append(self._tensor(tensor, len(alternatives)))
        return [*lines, _array("const TensorSchema tensors[]", rows)]

    def _axis(self, token) -> int:
        return (self.groups if token.group else self.axes).index(token.name)

    def _tensor(self, t: Tensor, nalternatives: int) -> str:
        variable = self.dtype_vars.index(t.dtype) if t.dtype in self.dtype_vars else -1
        fixed = "INFINI_DTYPE_INVALID" if variable >= 0 else _fixed_dtype(t).enumerator
        low, high = t.rank or (0, 255)
        return (
            f"{{{_string(t.name)}, Role::{t.role.value}, Strides::{t.strides.value}, {t.name}_shapes, {nalternatives}, "
            f"{variable}, {fixed}, {low}, {high}, {_bool(t.optional)}, {_bool(t.null_at_run)}, "
            f"{_bool(t.opaque)}, {_bool(t.role is Role.OUT and not (t.written or t.read_when))}}}"
        )

    def _attrs(self) -> list[str]:
        lengths = [self._expression(f"length_{a.name}", a.length, "int64_t") for a in self.op.attrs if a.length]
        rows = [
            f"{{{_string(a.name)}, {_string(a.ctype)}, AttrKind::{_kind(a)}, AttrTime::{a.at}, "
            f"{_ELEMENT_SIZE.get(a.ctype, 8)}, {f'length_{a.name}' if a.length else 'nullptr'}}}"
            for a in self.op.attrs
        ]
        return [*lengths, _array("const AttrSchema attrs[]", rows)]

    def _constraints(self) -> list[str]:
        lines, rows = [], []
        for i, c in enumerate(self.op.constraints):
            lines.append(self._expression(f"holds_{i}", c.expr, "bool"))
            uses = [self._value_ref(n, c.expr) for n in expr.names(c.expr) if n != c.argument or n in self.names.attrs]
            lines.append(_array(f"const ValueRef uses_{i}[]", uses))
            rows.append(
                f"{{holds_{i}, {_string(c.argument)}, {_string(c.expected)}, INFINI_STATUS_{c.status.name}, "
                f"{_bool(c.at == 'run')}, {f'uses_{i}' if uses else 'nullptr'}, {len(uses)}}}"
            )
        return [*lines, _array("const ConstraintSchema constraints[]", rows)]

    def _value_ref(self, name: str, text: str) -> str:
        n = self.names
        if name in n.groups and expr.is_counted(text, name):
            return f"{{{_string(f'axes of {name}')}, ValueKind::group_ndim, {n.groups[name]}}}"
        real = name in n.real_attrs
        for table, kind in ((n.axes, "axis"), (n.groups, "group_size"), (n.dtypes, "dtype"),
                            (n.tensors, "shape"), (n.attrs, "attr_real" if real else "attr_integer")):  # fmt: skip
            if name in table:
                return f"{{{_string(name)}, ValueKind::{kind}, {table[name]}}}"
        raise expr.ExpressionError(f"{self.op.name}: {name} is no name of this operator")

    def _schema(self) -> str:
        op, ns = self.op, f"{self.op.name}_::"

        def table(name: str, count: int) -> str:
            return f"{ns}{name}, {count}" if count else "nullptr, 0"

        return (
            f"const OperatorSchema schema_{op.name} = {{\n"
            f"    {_string(op.name)}, {_string(op.symbol)}, {self.version},\n"
            f"    {table('axes', len(self.axes))}, {table('groups', len(self.groups))}, "
            f"{f'{ns}group_rank' if self.groups else 'nullptr'},\n"
            f"    {table('dtype_vars', len(self.dtype_vars))}, {table('tensors', len(op.tensors))}, "
            f"{table('attrs', len(op.attrs))},\n"
            f"    {table('constraints', len(op.constraints))}, {table('aliases', len(op.aliases))},\n"
            f"    INFINI_STATUS_{op.shape_status.name}, INFINI_STATUS_{op.rank_status.name}, "
            f"{f'&schema_{op.shares}' if op.shares else 'nullptr'}, {table('tolerances', len(op.tolerances))}, "
            f"{_bool(op.compare is not None)}}};"
        )


def _index(names: list[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


def _array(declaration: str, cells: list[str]) -> str:
    """A constant array; nothing when it would be empty (C++ has no empty arrays)."""
    return f"{declaration} = {{{', '.join(cells)}}};" if cells else ""


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _fixed_dtype(tensor: Tensor) -> DType:
    return dtype(tensor.dtype)


def _kind(attr: Attr) -> str:
    return "array" if attr.length else "real" if attr.ctype in _REAL else "integer"


def _value(attr: Attr) -> str:
    return f"{_kind(attr)}({attr.name})"


def _functions(operator: Operator) -> str:
    return "\n".join(_function(operator, s) for s in signature.functions(operator))


def _function(operator: Operator, function: signature.Signature) -> str:
    body = {"create": _create, "workspace": _workspace, "calculate": _calculate, "destroy": _destroy}[function.role]
    lines = "".join(f"    {line}\n" for line in body(operator))
    return f"infiniStatus_t {function.name}({', '.join(function.params)}) {{\n{lines}}}\n"


def _create(operator: Operator) -> list[str]:
    tensors = ", ".join(f"{t.name}_desc" for t in operator.tensors)
    attrs = ", ".join("none()" if a.at == "run" else _value(a) for a in operator.attrs)
    lines = [f"const infiniopTensorDescriptor_t tensors[] = {{{tensors}}};"]
    if operator.attrs:
        lines.append(f"const infiniopValue attrs[] = {{{attrs}}};")
    pointer = "attrs" if operator.attrs else "nullptr"
    return [*lines, f"return create_descriptor(schema_{operator.name}, handle, desc_ptr, tensors, {pointer});"]


def _calculate(operator: Operator) -> list[str]:
    data = ", ".join(t.name if t.is_output else f"const_cast<void *>({t.name})" for t in operator.tensors)
    lines = [f"void *const data[] = {{{data}}};"]
    late = signature.run_attrs(operator)
    if late:
        attrs = ", ".join(_value(a) if a in late else "none()" for a in operator.attrs)
        lines.append(f"const infiniopValue attrs[] = {{{attrs}}};")
    workspace = "workspace, workspace_size" if operator.workspace else "nullptr, SIZE_MAX"
    return [*lines, f"return calculate(schema_{operator.name}, desc, {workspace}, data, "
            f"{'attrs' if late else 'nullptr'}, stream);"]  # fmt: skip


def _workspace(operator: Operator) -> list[str]:
    return [f"return workspace_size(schema_{operator.name}, desc, size);"]


def _destroy(operator: Operator) -> list[str]:
    return [f"return destroy_descriptor(schema_{operator.name}, desc);"]
