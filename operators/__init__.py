"""Operators, one file each: schema, reference, samples. Files that begin with `_` are helpers."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from infiniop.schema import Operator


@functools.cache
def all_operators() -> dict[str, Operator]:
    """Every operator by name, in alphabetical order."""
    found: dict[str, Operator] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
            if isinstance(value, Operator):
                found[value.name] = value
    return dict(sorted(found.items()))
