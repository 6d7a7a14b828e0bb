"""infinirt as a C program sees it, on an OpenCL device."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

import infiniop

H2H, H2D, D2H, D2D = range(4)


class Runtime:
    """The calling thread's current device is opencl:0 while one is in use."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(infiniop.root() / "lib" / "libinfinirt.so")
        self.operators = ctypes.CDLL(infiniop.root() / "lib" / "libinfiniop.so")
        self.operators.infiniopGetLastError.restype = ctypes.c_char_p

    def status(self, function: str, *arguments: object) -> int:
        return getattr(self.lib, function)(*arguments)

    def call(self, function: str, *arguments: object) -> None:
        status = self.status(function, *arguments)
        assert status == 0, f"{function}: {status}: {self.last_error()}"

    def last_error(self) -> str:
        return self.operators.infiniopGetLastError().decode()

    @contextlib.contextmanager
    def made(self, kind: str) -> Iterator[ctypes.c_void_p]:
        """A stream or an event."""
        handle = ctypes.c_void_p()
        self.call(f"infinirt{kind}Create", ctypes.byref(handle))
        yield handle
        self.call(f"infinirt{kind}Destroy", handle)

    @contextlib.contextmanager
    def memory(self, size: int) -> Iterator[int]:
        pointer = ctypes.c_void_p()
        self.call("infinirtMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        yield pointer.value or 0
        self.call("infinirtFree", pointer)

    def write(self, pointer: int, data: np.ndarray) -> None:
        self.call("infinirtMemcpy", ctypes.c_void_p(pointer), data.ctypes.data_as(ctypes.c_void_p), data.nbytes, H2D)

    def read(self, pointer: int, size: int) -> np.ndarray:
        data = np.empty(size, np.uint8)
        self.call("infinirtMemcpy", data.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(pointer), size, D2H)
        return data


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime()
    made.call("infinirtSetDevice", infiniop.Device("opencl").code, 0)
    yield made
    made.call("infinirtSetDevice", 0, 0)
