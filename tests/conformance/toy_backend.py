"""A backend for tests of the kit: `add` is right and takes no F16, `sub` forgets the last element, `relu` may die.

`pytest -p toy_backend` registers it as `toy`, on a device of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np

import infiniop
from infiniop.operators import all_operators
from infiniop.python_runtime import PythonRuntime

REFERENCES = {name: all_operators()[name].reference for name in ("add", "sub", "relu", "sigmoid")}


def array(tensor: infiniop.Tensor) -> np.ndarray:
    """The device's memory happens to be the host's."""
    size = tensor.dtype.itemsize
    described = {
        "shape": tensor.shape, "strides": tuple(size * s for s in tensor.strides), "typestr": f"|V{size}",
        "data": (tensor.data_ptr, False), "version": 3,
    }  # fmt: skip
    return np.asarray(type("Memory", (), {"__array_interface__": described})()).view(tensor.dtype.numpy)


def add(**tensors: Any) -> None:
    REFERENCES["add"](**{name: array(tensor) for name, tensor in tensors.items()})


def sub(c: Any, a: Any, b: Any) -> None:
    out = array(c)
    last = out[(-1,) * out.ndim].copy() if out.size else None
    REFERENCES["sub"](c=out, a=array(a), b=array(b))
    if out.size > 3:
        out[(-1,) * out.ndim] = last


def relu(y: Any, x: Any) -> None:
    if y.shape == (17,):
        os.kill(os.getpid(), signal.SIGSEGV)
    REFERENCES["relu"](y=array(y), x=array(x))


def sigmoid(y: Any, x: Any) -> None:
    raise MemoryError("no sigmoid today")


def supports(op: str, signatures: Mapping[str, Any], attrs: Mapping[str, Any]) -> bool | str:
    halves = any(s is not None and s.dtype is infiniop.float16 for s in signatures.values())
    return "no float16" if halves else True


infiniop.PythonBackend(
    "toy", device="toy", runtime=PythonRuntime(), supports=supports,
    kernels={"add": add, "sub": sub, "relu": relu, "sigmoid": sigmoid},
).register()  # fmt: skip
