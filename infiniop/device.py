"""Devices: what memory lives on. Named, numbered, or a `torch.device`; `cuda` means `nvidia`."""

from __future__ import annotations

from typing import Any, ClassVar

from .errors import DeviceNotFoundError, DeviceNotSupportedError

_FIXED = (
    "cpu", "nvidia", "cambricon", "ascend", "metax", "moore", "iluvatar", "kunlun", "hygon", "qy", "ali",
)  # fmt: skip
_ALIASES = {"cuda": "nvidia"}

DeviceLike = Any  # Device, "cpu", "nvidia:1", the ABI's number, torch.device, None (the CPU)


class Device:
    """One device. Equal devices are one object."""

    __slots__ = ("code", "index", "is_cpu", "name")
    _known: ClassVar[dict[tuple[str, int], Device]] = {}

    name: str
    index: int
    code: int  # the ABI's infiniDevice_t
    is_cpu: bool

    def __new__(cls, device: DeviceLike = None, index: int | None = None) -> Device:
        if isinstance(device, Device):
            return device if index is None else cls(device.name, index)
        name, parsed = _parse(device)
        key = (name, parsed if index is None else index)
        known = cls._known.get(key)
        if known is None:
            known = object.__new__(cls)
            known.name, known.index = key
            known.code = _code(name)
            known.is_cpu = name == "cpu"
            if known.is_cpu and known.index:
                raise DeviceNotFoundError(argument="device", expected="cpu, which is one device", got=f"cpu:{key[1]}")
            known = cls._known.setdefault(key, known)
        return known

    def __reduce__(self):
        return (Device, (self.name, self.index))

    def __str__(self) -> str:
        return self.name if self.is_cpu else f"{self.name}:{self.index}"

    def __repr__(self) -> str:
        return f"infiniop.Device({str(self)!r})"


def _parse(device: DeviceLike) -> tuple[str, int]:
    if device is None:
        return "cpu", 0
    if isinstance(device, str):
        name, _, number = device.partition(":")
        if number and not number.isdigit():
            raise ValueError(f"not a device: {device!r} (a name, or name:index)")
        return _ALIASES.get(name, name), int(number or 0)
    if isinstance(device, int) and not isinstance(device, bool):
        return _name(device), 0
    kind = getattr(device, "type", None)
    if isinstance(kind, str):
        return _ALIASES.get(kind, kind), getattr(device, "index", None) or 0
    raise TypeError(f"not a device: {device!r} (a name, an enum value or a torch.device)")


def _code(name: str) -> int:
    if name in _FIXED:
        return _FIXED.index(name)
    from . import plugins
    from ._library import ffi, lib

    plugins.discover()
    code = ffi.new("infiniDevice_t *")
    if lib.infiniopGetDeviceByName(name.encode(), code):
        raise DeviceNotSupportedError(f"no backend has brought a device named {name!r}", got=name)
    return int(code[0])


def _name(code: int) -> str:
    if 0 <= code < len(_FIXED):
        return _FIXED[code]
    from . import plugins
    from ._library import ffi, lib

    plugins.discover()
    name = ffi.new("const char **")
    if lib.infiniopGetDeviceName(code, name):
        raise DeviceNotSupportedError(f"no device has the number {code}", got=str(code))
    return ffi.string(name[0]).decode()


def device(key: DeviceLike = None) -> Device:
    """The `Device` for a name, a number, a `torch.device`, or None (the CPU)."""
    return Device(key)
