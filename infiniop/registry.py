"""The backends of this process: listing and loading."""

from __future__ import annotations

import os
from dataclasses import dataclass

from . import plugins
from ._library import ffi, lib
from .errors import check
from .plugins import NativeBackend


@dataclass(frozen=True)
class BackendInfo:
    """One backend, loaded or not. `error` is "" when it loaded; `notes` says what of it is not used, and why."""

    name: str
    device: str
    version: str
    origin: str
    priority: int
    explicit_only: bool
    device_count: int
    kernels: int
    error: str
    fallbacks: int
    notes: str

    def has(self, op: str) -> bool:
        """Whether it has a kernel for the operator."""
        room = ffi.new("int *")
        return (
            not self.error
            and lib.infiniopBackendHasOperator(self.name.encode(), op.encode(), room) == 0
            and bool(room[0])
        )


def backends() -> list[BackendInfo]:
    """All backends found, those that failed to load included."""
    plugins.discover()
    count = ffi.new("size_t *")
    check(lib.infiniopGetBackendCount(count))
    return [_info(i) for i in range(count[0])]


def _info(index: int) -> BackendInfo:
    info = ffi.new("infiniopBackendInfo *")
    info.struct_size = ffi.sizeof("infiniopBackendInfo")
    check(lib.infiniopGetBackendInfo(index, info))

    def text(field: str) -> str:
        pointer = getattr(info, field)
        return "" if pointer == ffi.NULL else ffi.string(pointer).decode("utf-8", "replace")

    return BackendInfo(
        name=text("name"), device=text("device_name"), version=text("version"), origin=text("origin"),
        priority=int(info.priority), explicit_only=bool(info.flags & 1), device_count=int(info.device_count),
        kernels=int(info.nkernels), error=text("error"), fallbacks=int(info.fallbacks), notes=text("notes"),
    )  # fmt: skip


def load_backend(path: str | os.PathLike[str]) -> None:
    """Load a backend's shared library."""
    NativeBackend(path).register()
