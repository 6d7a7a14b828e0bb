"""`infiniop bench overhead`: what a call costs beyond its kernel, through each door."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import infiniop
from infiniop import ops

from . import timing


def run() -> dict[str, float]:
    """Nanoseconds per call of a three-tensor operator on one element, by door; the kernel itself is included."""
    a, b, c = (np.ones(1, np.float32) for _ in range(3))
    ta, tb, tc = (infiniop.from_numpy(x) for x in (a, b, c))
    candidates: dict[str, Callable[[], object]] = {
        "infiniop.Tensor, out=": lambda: ops.add(ta, tb, out=tc),
        "NumPy, out=": lambda: ops.add(a, b, out=c),
        "numpy.add itself, out=": lambda: np.add(a, b, out=c),
        "descriptor creation and destruction": lambda: _descriptor(tc, ta, tb),
        "an empty Python call": lambda: None,
    }
    try:
        import torch

        pa, pb, pc = (torch.ones(1) for _ in range(3))
        candidates["torch, out="] = lambda: ops.add(pa, pb, out=pc)
        candidates["torch.add itself, out="] = lambda: torch.add(pa, pb, out=pc)
    except ImportError:
        pass
    return {name: seconds * 1e9 for name, seconds in timing.medians(candidates, seconds=2.0).items()}


def _descriptor(c: infiniop.Tensor, a: infiniop.Tensor, b: infiniop.Tensor) -> None:
    with infiniop.descriptor("add", c=c, a=a, b=b):
        pass


def c_dispatch() -> tuple[float, float, float] | None:
    """Nanoseconds per C call: the empty kernel called directly, through `infiniopAdd`, and in the replay of a recording
    of such calls. None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    root = infiniop.root()
    version = f"-DINFINIOP_BENCH_ADD_VERSION={_schema_version(root)}"
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/dispatch"
        subprocess.run(
            [compiler, "-O2", version, Path(__file__).with_name("dispatch.c"), f"-I{root}/include", f"-L{root}/lib",
             f"-Wl,-rpath,{root}/lib", "-linfiniop", "-linfinirt", "-o", program], check=True,
        )  # fmt: skip
        result = subprocess.run([program], check=True, capture_output=True, text=True)
    empty, through, replayed = map(float, result.stdout.split())
    return empty, through, replayed


def _schema_version(root: Path) -> str:
    text = (root / "include" / "infiniop" / "schema" / "add.h").read_text(encoding="utf-8")
    return re.search(r"version = (\d+)", text).group(1)  # type: ignore[union-attr]
