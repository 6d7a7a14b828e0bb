"""The constraint language: a small subset of Python's expressions, evaluated here and compiled to C++."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from .dtypes import ALL

_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}
_FUNCTIONS = {"rank", "size", "ndim", "stride", "dim", "has", "min", "max"}
_DTYPE_CODES = {d.name: d.code for d in ALL}


class ExpressionError(ValueError):
    """An expression outside the constraint language, or a name that the operator does not have."""


@functools.cache
def parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{text!r}: {error.msg}") from None


def names(text: str) -> list[str]:
    """The names of an expression in order of appearance, functions and dtype names left out."""
    nodes = list(ast.walk(parse(text)))
    called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}  # an attribute may be called dim
    found = [n.id for n in nodes if isinstance(n, ast.Name) and id(n) not in called]
    return list(dict.fromkeys(n for n in found if n not in _DTYPE_CODES))


def is_counted(text: str, group: str) -> bool:
    """Whether an expression asks for the axes of a group, and not for the elements."""
    calls = [n for n in ast.walk(parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return any(n.func.id == "ndim" and getattr(n.args[0], "id", None) == group for n in calls)  # type: ignore[attr-defined]


def evaluate(text: str, values: Mapping[str, object], functions: Mapping[str, object]) -> object:
    """Python's value. `functions` supplies rank, size, ndim, stride, dim and has, which take names as strings."""
    scope = {**_DTYPE_CODES, "min": min, "max": max, **functions, **values}
    return eval(_python_code(text), {"__builtins__": {}}, scope)


@functools.cache
def _python_code(text: str):
    class Quote(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            if isinstance(node.func, ast.Name) and node.func.id not in ("min", "max"):
                first = ast.Constant(node.args[0].id) if isinstance(node.args[0], ast.Name) else node.args[0]
                return ast.Call(node.func, [first, *node.args[1:]], [])
            return self.generic_visit(node)

    tree = ast.Expression(Quote().visit(ast.parse(text, mode="eval").body))
    return compile(ast.fix_missing_locations(tree), text, "eval")


@dataclass
class CppNames:
    """Where the C++ of one operator finds each name: index of axes, groups, attributes, dtype variables, tensors."""

    axes: Mapping[str, int]
    groups: Mapping[str, int]
    attrs: Mapping[str, int]
    real_attrs: frozenset[str]
    dtypes: Mapping[str, int]
    tensors: Mapping[str, int] = field(default_factory=dict)


def to_cpp(text: str, names: CppNames) -> str:
    """The expression in C++, over a `const SchemaEnv &e`."""
    return _cpp(parse(text), names, text)


def _cpp(node: ast.expr, names: CppNames, text: str) -> str:
    match node:
        case ast.BoolOp(op=op, values=values):
            joiner = " && " if isinstance(op, ast.And) else " || "
            return "(" + joiner.join(_cpp(v, names, text) for v in values) + ")"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return f"!({_cpp(operand, names, text)})"
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"-({_cpp(operand, names, text)})"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return f"{_BINARY[type(op)]}({_cpp(left, names, text)}, {_cpp(right, names, text)})"
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            return f"floor_div({_cpp(left, names, text)}, {_cpp(right, names, text)})"
        case ast.BinOp(left=left, op=ast.Mod(), right=right):
            return f"floor_mod({_cpp(left, names, text)}, {_cpp(right, names, text)})"
        case ast.Compare():
            return _compare(node, names, text)
        case ast.Call(func=ast.Name(id=function)) if function in _FUNCTIONS:
            return _call(node, function, names, text)
        case ast.Constant(value=bool(value)):
            return "true" if value else "false"
        case ast.Constant(value=int(value)):
            return f"INT64_C({value})"
        case ast.Constant(value=float(value)):
            return repr(value)
        case ast.Name(id=name):
            return _name(name, names, text)
    raise ExpressionError(f"{text!r}: {ast.unparse(node)} is outside the constraint language")


def _compare(node: ast.Compare, names: CppNames, text: str) -> str:
    parts = []
    left = node.left
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In) and isinstance(right, ast.Tuple | ast.Set | ast.List):
            value = _cpp(left, names, text)
            parts.append("(" + " || ".join(f"{value} == {_cpp(e, names, text)}" for e in right.elts) + ")")
        elif type(op) in _COMPARE:
            parts.append(f"({_cpp(left, names, text)} {_COMPARE[type(op)]} {_cpp(right, names, text)})")
        else:
            raise ExpressionError(f"{text!r}: comparison outside the constraint language")
        left = right
    return parts[0] if len(parts) == 1 else "(" + " && ".join(parts) + ")"


def _call(node: ast.Call, function: str, names: CppNames, text: str) -> str:
    if function in ("min", "max"):
        first, *rest = (_cpp(a, names, text) for a in node.args)
        for argument in rest:
            first = f"std::{function}<int64_t>({first}, {argument})"
        return first
    subject = node.args[0].id if isinstance(node.args[0], ast.Name) else ""
    if function in ("size", "ndim") and subject in names.groups:
        return f"e.group_{function}[{names.groups[subject]}]"
    if function in ("rank", "has", "stride", "dim") and subject in names.tensors:
        tensor = f"e.tensors[{names.tensors[subject]}]"
        if function == "has":
            return f"({tensor} != nullptr)"
        index = f", {_cpp(node.args[1], names, text)}" if len(node.args) > 1 else ""
        return f"tensor_{function}({tensor}{index})"
    raise ExpressionError(f"{text!r}: {function}({subject}) names nothing of this operator")


def _name(name: str, names: CppNames, text: str) -> str:
    if name in names.axes:
        return f"e.axis[{names.axes[name]}]"
    if name in names.attrs:
        return f"e.attrs[{names.attrs[name]}].{'f' if name in names.real_attrs else 'i'}"
    if name in names.dtypes:
        return f"e.dtype[{names.dtypes[name]}]"
    if name in _DTYPE_CODES:
        return str(_DTYPE_CODES[name])
    raise ExpressionError(f"{text!r}: {name} is no axis, attribute or dtype variable of this operator")
