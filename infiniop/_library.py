"""Finding and loading the native libraries. `ffi` and `lib` are loaded on first use."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._trampolines import TRAMPOLINES
from .errors import LibraryNotFoundError

if TYPE_CHECKING:
    ffi: Any
    lib: Any

_LIBRARIES = ("libinfinirt.so", "libinfiniop.so", "libinfiniccl.so")
_HINT = "run `pip install .` (or `make build` in the source tree), or set INFINIOP_ROOT to a prefix that has lib/"


@functools.cache
def root() -> Path:
    """The prefix that holds `lib/` and `include/`."""
    import infiniop

    override = os.environ.get("INFINIOP_ROOT")
    candidates = [Path(override)] if override else [Path(entry) for entry in infiniop.__path__]
    for candidate in candidates:
        if (candidate / "lib" / "libinfiniop.so").exists():
            return candidate
    looked = ", ".join(str(c / "lib") for c in candidates)
    raise LibraryNotFoundError(f"libinfiniop.so is not in {looked}: {_HINT}")


class _Dlopened:
    """The functions of several libraries, looked up on first use and kept."""

    def __init__(self, ffi: Any, paths: list[Path]):
        self._libraries = [ffi.dlopen(str(path), ffi.RTLD_NOW | ffi.RTLD_GLOBAL) for path in paths]

    def __getattr__(self, name: str) -> Any:
        for library in self._libraries:
            try:
                found = getattr(library, name)
            except AttributeError:
                continue
            setattr(self, name, found)
            return found
        raise AttributeError(name)


def _load_extension() -> tuple[Any, Any]:
    module = importlib.import_module("infiniop._native")
    return module.ffi, module.lib


def _load_by_name() -> tuple[Any, Any]:
    """Without the compiled extension: cffi's ABI mode, with the same declarations."""
    import cffi

    import infiniop

    texts = [Path(entry) / "_cdef.h" for entry in [*infiniop.__path__, str(root())]]
    text = next((path for path in texts if path.exists()), None)
    if text is None:
        raise LibraryNotFoundError(f"infiniop/_cdef.h is missing: {_HINT}")
    ffi = cffi.FFI()
    ffi.cdef(text.read_text())
    return ffi, _Dlopened(ffi, [root() / "lib" / name for name in _LIBRARIES])


@functools.cache
def load() -> tuple[Any, Any]:
    """(ffi, lib). `INFINIOP_FFI=abi` chooses cffi's ABI mode."""
    if os.environ.get("INFINIOP_FFI") == "abi":
        return _load_by_name()
    try:
        return _load_extension()
    except ImportError as error:
        if isinstance(error, LibraryNotFoundError):
            raise
        if getattr(error, "name", None) != "infiniop._native":
            raise LibraryNotFoundError(f"{error}: {_HINT}") from None
    return _load_by_name()


def is_extension() -> bool:
    """Whether the compiled extension is in use (and not cffi's ABI mode)."""
    return not isinstance(load()[1], _Dlopened)


def accelerator() -> Any:
    """The compiled calls of `infiniop._fast`; None without it, and in cffi's ABI mode."""
    if not is_extension():
        return None
    try:
        return importlib.import_module("infiniop._fast")
    except ImportError:
        return None


def callback(name: str, function: Any, error: Any = None) -> Any:
    """The C function pointer of a trampoline, which calls `function` from now on."""
    ffi, lib = load()
    if is_extension():
        ffi.def_extern(name=name, error=error)(function)
        return ffi.addressof(lib, name)
    made = ffi.callback(TRAMPOLINES[name].format(""), function, error=error)
    _callbacks.append(made)
    return made


_callbacks: list[Any] = []  # C keeps their addresses: they live as long as the process


def __getattr__(name: str) -> Any:
    if name in ("ffi", "lib"):
        globals()["ffi"], globals()["lib"] = load()
        return globals()[name]
    raise AttributeError(name)
