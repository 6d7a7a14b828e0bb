"""The built-in backends, one folder each. Calling the module, `infiniop.backends()`, lists those of this process."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniop.registry import BackendInfo


class _Backends(types.ModuleType):
    def __call__(self) -> list[BackendInfo]:
        from infiniop.registry import backends

        return backends()


sys.modules[__name__].__class__ = _Backends
