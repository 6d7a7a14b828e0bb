"""The backend under test."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from infiniop.device import Device
from infiniop.registry import BackendInfo, backends
from infiniop.runtime import device_count


class UnknownBackend(ValueError):
    """No such backend, or one that cannot run here; the sentence says which there are."""


@dataclass(frozen=True)
class Subject:
    """A backend and the device whose memory it works on."""

    info: BackendInfo
    device: Device

    @property
    def backend(self) -> str:
        return self.info.name

    def has(self, op: str) -> bool:
        """Whether it claims the operator."""
        return self.info.has(op)


@functools.cache
def subject(name: str) -> Subject:
    """The loaded backend of that name. Raises `UnknownBackend`."""
    found = backends()
    for info in found:
        if info.name == name and info.error:
            raise UnknownBackend(f"backend {name} could not be loaded: {info.error}")
        if info.name == name and device_count(info.device) == 0:
            raise UnknownBackend(f"backend {name}: there is no {info.device} device here")
        if info.name == name:
            return Subject(info, Device(info.device))
    known = ", ".join(info.name for info in found)
    raise UnknownBackend(f"there is no backend named {name}: expected one of {known}")
