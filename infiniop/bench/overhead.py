"""`infiniop bench overhead`: what a call costs beyond its kernel, through each door."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import infiniop
from infiniop import ops

from . import timing

Calls = dict[str, Callable[[], object]]


def run() -> dict[str, float]:
    """Nanoseconds per call of a three-tensor operator on one element, by door; the kernel itself is included.

    Each door stands beside the call of the same kind that its framework brings.
    """
    calls: Calls = {}
    for door in DOORS:
        try:
            calls |= door()
        except ImportError:
            continue  # a framework that is not installed
    return {name: seconds * 1e9 for name, seconds in timing.medians(calls, seconds=2.0).items()}


def _python() -> Calls:
    return {"an empty Python call": lambda: None}


def _tensor() -> Calls:
    a, b, c = (infiniop.from_numpy(np.ones(1, np.float32)) for _ in range(3))

    def descriptor() -> None:
        with infiniop.descriptor("add", c=c, a=a, b=b):
            pass

    return {
        "infiniop.Tensor, out=": lambda: ops.add(a, b, out=c),
        "descriptor creation and destruction": descriptor,
    }


def _numpy() -> Calls:
    a, b, c = (np.ones(1, np.float32) for _ in range(3))
    return {"NumPy, out=": lambda: ops.add(a, b, out=c), "numpy.add itself, out=": lambda: np.add(a, b, out=c)}


def _torch() -> Calls:
    import torch

    import infiniop.torch  # noqa: F401  # registers the operators

    a, b, c = (torch.ones(1) for _ in range(3))
    library = torch.library.Library("infiniop_bench", "DEF")
    library.define("nothing(Tensor a, Tensor b, Tensor(a!) c) -> ()")
    library.impl("nothing", lambda a, b, c: None, "CompositeExplicitAutograd")
    nothing, add = torch.ops.infiniop_bench.nothing.default, torch.ops.infiniop.add.out

    def empty(library: object = library) -> None:  # registered as long as the library object lives
        nothing(a, b, c)

    return {
        "torch, out=": lambda: ops.add(a, b, out=c),
        "torch.add itself, out=": lambda: torch.add(a, b, out=c),
        "torch.ops.infiniop.add.out": lambda: add(a, b, out=c),
        "an empty operator of torch.library in Python": empty,
    }


def _jax() -> Calls:
    import jax

    import infiniop.jax

    a = jax.numpy.ones(1)
    ours, theirs = jax.jit(infiniop.jax.add), jax.jit(jax.numpy.add)
    return {
        "JAX, jitted": lambda: ours(a, a).block_until_ready(),
        "jax.numpy.add itself, jitted": lambda: theirs(a, a).block_until_ready(),
    }


DOORS: tuple[Callable[[], Calls], ...] = (_python, _tensor, _numpy, _torch, _jax)


def native() -> dict[str, float] | None:
    """Nanoseconds per call of an empty kernel from C and C++, by way of calling. None without a compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return None
    root = infiniop.root()
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/dispatch"
        subprocess.run(
            [compiler, "-std=c++17", "-O2", Path(__file__).with_name("dispatch.cpp"), f"-I{root}/include",
             f"-L{root}/lib", f"-Wl,-rpath,{root}/lib", "-linfiniop", "-linfinirt", "-o", program], check=True,
        )  # fmt: skip
        result = subprocess.run([program], check=True, capture_output=True, text=True)
    rows = (line.split("\t") for line in result.stdout.splitlines())
    return {name: float(nanoseconds) for name, nanoseconds in rows}
