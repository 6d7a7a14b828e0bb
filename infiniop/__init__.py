"""infiniop: the same operators on any device. Attributes are loaded on first use: importing this is cheap."""

# ruff: noqa: F401 - the imports below TYPE_CHECKING are the typed face of __getattr__

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "tensor": ("Tensor", "asarray", "empty", "from_dlpack", "from_numpy", "zeros"),
    "device": ("Device",),
    "streams": ("Event", "Graph", "Stream", "capture", "current_stream", "synchronize"),
    "registry": ("BackendInfo", "load_backend"),
    "plugins": ("NativeBackend", "hookimpl", "hookspec"),
    "python_backend": ("PythonBackend",),
    "python_runtime": ("PythonRuntime",),
    "_descriptor": ("Descriptor", "descriptor"),
    "_library": ("root",),
    "errors": ("InfiniopError",),
    "schema": ("DType", "Operator", "Status"),
}
_DTYPES = {
    "bool8": "BOOL", "byte": "BYTE", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "float8_e4m3": "F8", "float16": "F16", "float32": "F32",
    "float64": "F64", "bfloat16": "BF16", "complex64": "C64", "complex128": "C128",
}  # fmt: skip
_MODULES = (
    "arrays",
    "backends",
    "conformance",
    "errors",
    "gen",
    "lm",
    "operators",
    "ops",
    "plugins",
    "runtime",
    "schema",
    "verify",
)
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, *_DTYPES, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from . import arrays, errors, gen, operators, plugins, runtime, schema, verify
    from ._descriptor import Descriptor, descriptor
    from ._library import root
    from .device import Device
    from .errors import InfiniopError
    from .plugins import NativeBackend, hookimpl, hookspec
    from .python_backend import PythonBackend
    from .python_runtime import PythonRuntime
    from .registry import BackendInfo, backends, load_backend
    from .schema import DType, Operator, Status
    from .schema.dtypes import BF16 as bfloat16
    from .schema.dtypes import BOOL as bool8
    from .schema.dtypes import BYTE as byte
    from .schema.dtypes import C64 as complex64
    from .schema.dtypes import C128 as complex128
    from .schema.dtypes import F8 as float8_e4m3
    from .schema.dtypes import F16 as float16
    from .schema.dtypes import F32 as float32
    from .schema.dtypes import F64 as float64
    from .schema.dtypes import I8 as int8
    from .schema.dtypes import I16 as int16
    from .schema.dtypes import I32 as int32
    from .schema.dtypes import I64 as int64
    from .schema.dtypes import U8 as uint8
    from .schema.dtypes import U16 as uint16
    from .schema.dtypes import U32 as uint32
    from .schema.dtypes import U64 as uint64
    from .streams import Event, Graph, Stream, capture, current_stream, synchronize
    from .tensor import Tensor, asarray, empty, from_dlpack, from_numpy, zeros


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    elif name in _DTYPES:
        value = getattr(importlib.import_module(".schema", __name__).dtypes, _DTYPES[name])
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
