"""What `infiniop.jax` needs of an operator: the signature of its function, and its row in the handler's table."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from infiniop.schema import REQUIRED, Attr, Operator, Role, Tensor

from .python import extra_keywords, identifier

_HEAD = """\
// The operators, for handler.hpp. Generated from the operator files.
#include <handler.hpp>

namespace {

using infiniop::jax::Call;

const infiniop::jax::Operator operators[] = {
"""
_TAIL = """\
};

xla::ffi::Error run(xla::ffi::RemainingArgs args, xla::ffi::RemainingRets results, xla::ffi::Dictionary attrs) {
    return infiniop::jax::run(operators, args, results, attrs);
}

} // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    infiniop_jax, run, xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
"""


def parameters(operator: Operator) -> inspect.Signature:
    """Of the function: arrays in C order, the rest by keyword. An output that may be read can be given, too."""
    arrays = [inspect.Parameter(identifier(t.name), inspect.Parameter.POSITIONAL_OR_KEYWORD, default=_default(t))
              for t in sorted(operator.inputs, key=lambda t: t.optional)]  # fmt: skip
    keywords = {identifier(a.name): inspect.Parameter.empty if a.default is REQUIRED else a.default
                for a in operator.attrs}  # fmt: skip
    keywords |= dict.fromkeys(extra_keywords(operator))
    keywords |= {identifier(t.name): None for t in operator.tensors if t.read_when}
    named = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in keywords.items()]
    return inspect.Signature([*arrays, *named])


def signature(operator: Operator) -> str:
    """`rms_norm(x, w, *, epsilon=1e-06)`."""
    return f"{operator.name}{parameters(operator)}"


def _default(tensor: Tensor) -> object:
    return None if tensor.optional else inspect.Parameter.empty


def table(operators: Iterable[Operator]) -> str:
    """The C++ that handler.hpp is compiled with."""
    return _HEAD + "".join(_row(operator) for operator in operators) + _TAIL


def _row(operator: Operator) -> str:
    tensors = {t.name: _tensor(i, t) for i, t in enumerate(operator.tensors)}
    required = [tensors[t.name] for t in operator.tensors if not t.optional]
    options = [tensors[t.name] for t in operator.tensors if t.optional]
    required += [_attr(a) for a in operator.attrs if not _is_option(a)]
    options += [_attr(a) for a in operator.attrs if _is_option(a)]
    arguments = ", ".join([*required, f"{{{', '.join(options)}}}"])
    return f'    {{"{operator.name}", [](const Call &call) {{ infiniop::{operator.name}({arguments}); }}}},\n'


def _is_option(attr: Attr) -> bool:
    return attr.default is not REQUIRED and not attr.length


def _tensor(index: int, tensor: Tensor) -> str:
    if tensor.role is Role.OUT and tensor.written is not None:
        return f"call.zeroed({index})"
    return f"call.{'output' if tensor.is_output else 'input'}({index})"


def _attr(attr: Attr) -> str:
    kind = "bool" if attr.ctype == "char" else attr.ctype
    return f'call.{"array" if attr.length else "attr"}<{kind}>("{attr.name}")'
