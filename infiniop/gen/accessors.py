"""C++ accessors for kernel authors: names for the indices of an operator's tensors and attributes."""

from __future__ import annotations

from infiniop.schema import Operator

from .lock import Registry


def generate(operator: Operator, registry: Registry) -> str:
    tensors = "".join(f"        {t.name},\n" for t in operator.tensors)
    attrs = "".join(f"        {a.name},\n" for a in operator.attrs)
    return f"""\
// Generated from operators/: names for {operator.name}'s tensors (T) and attributes (A), in schema order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace infiniop::schema::{operator.name} {{
inline constexpr const char *op = "{operator.name}";
inline constexpr uint32_t version = {registry.version(operator.name)};
struct T {{
    enum : size_t {{
{tensors}        count
    }};
}};
struct A {{
    enum : size_t {{
{attrs}        count
    }};
}};
}} // namespace infiniop::schema::{operator.name}
"""
