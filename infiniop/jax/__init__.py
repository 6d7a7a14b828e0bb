"""The operators as functions of JAX arrays: `infiniop.jax.rms_norm(x, w)`, as they are and under `jit` and `vmap`.

They are pure: what an operator changes in place is returned as a new array, over the old one's memory where the caller
donates it. Each has the arguments that `help` shows; nothing here lists them, they come from the operator files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infiniop.operators import all_operators

from .functions import function


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in all_operators():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = function(name)
    return made


def __dir__() -> list[str]:
    return sorted(all_operators())
