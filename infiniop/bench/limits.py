"""What the machine can do, measured: memory bandwidth and arithmetic peaks. The limits that benchmarks divide by."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import timing

_BYTES = 256 << 20
_PASSES = 3  # over the memory, per measurement: starting the threads takes a tenth of a millisecond
_PRODUCT = 2048


@dataclass(frozen=True)
class Limits:
    """GB/s of one and of all threads reading, of all threads copying (bytes read + written), f32 GFLOP/s, and bf16
    GFLOP/s (None without torch)."""

    threads: int
    read_one: float
    read: float
    copy: float
    flops: float
    bf16_flops: float | None = None

    @property
    def uneven(self) -> bool:
        """Whether two threads read less than 1.8 times one: a shared memory bus, or a noisy moment."""
        return self.threads > 1 and self.read < 1.8 * self.read_one

    def describe(self) -> str:
        note = " (less than 1.8 x one thread: bandwidth shared or disturbed)" if self.uneven else ""
        bf16 = "" if self.bf16_flops is None else f"; bf16 (torch) {self.bf16_flops:.0f} GFLOP/s"
        return (
            f"limits: read {self.read:.1f} GB/s with {self.threads} threads{note}, {self.read_one:.1f} with one; "
            f"copy {self.copy:.1f} GB/s; f32 matrix product (NumPy's BLAS) {self.flops:.0f} GFLOP/s{bf16}"
        )


@dataclass
class Meter:
    """Limits measured again and again, in turns with what is to be compared with them: a machine that is shared
    changes its speed from one second to the next."""

    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def __post_init__(self) -> None:
        self._memory = np.ones(_BYTES // 4, np.int32)
        self._read, self._read_one, self._bf16 = ([] for _ in range(3))  # type: list[float], list[float], list[float]

    def read(self, tries: int = 4) -> float:
        """GB/s of all threads reading: the best of a few tries, kept for `limits`."""
        self._read.append(self._bandwidth(self.threads, tries))
        self._read_one.append(self._bandwidth(1, max(1, tries // 2)))
        return self._read[-1]

    def bf16(self, tries: int = 4) -> float | None:
        """GFLOP/s of torch's bf16 product of 2048² matrices: the best of a few tries, kept for `limits`."""
        try:
            import torch
        except ImportError:
            return None
        a = torch.ones(_PRODUCT, _PRODUCT, dtype=torch.bfloat16)
        self._bf16.append(2 * _PRODUCT**3 / _best(lambda: a @ a, tries) / 1e9)
        return self._bf16[-1]

    def limits(self) -> Limits:
        """The medians of what was read, the best product rate, and the rest measured now."""
        if not self._read:
            self.read()
        if not self._bf16:
            self.bf16()
        target = np.zeros_like(self._memory)
        a = np.ones((1536, 1536), np.float32)
        copies = _best(lambda: _parallel(self.threads, np.copyto, target, self._memory))
        product = _best(lambda: a @ a)
        return Limits(
            self.threads, statistics.median(self._read_one), statistics.median(self._read),
            2 * target.nbytes / copies / 1e9, 2 * 1536**3 / product / 1e9, max(self._bf16, default=None),
        )  # fmt: skip

    def _bandwidth(self, threads: int, tries: int) -> float:
        seconds = _best(lambda: _parallel(threads, _reader(), self._memory), tries)
        return self._memory.nbytes * _PASSES / seconds / 1e9


def measure() -> Limits:
    """Takes about three seconds and half a gigabyte."""
    return Meter().limits()


@functools.cache
def _reader() -> Callable[[np.ndarray], object]:
    """Reads an array `_PASSES` times without the GIL: in C where there is a compiler; NumPy reaches two thirds of
    that."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return lambda part: [np.maximum.reduce(part) for _ in range(_PASSES)]
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/read.so"
        source = Path(__file__).with_name("read.c")
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        function = ctypes.CDLL(library).read_bytes
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], ctypes.c_uint64
    return lambda part: function(part.ctypes.data, part.nbytes, _PASSES)


def _best(call: Callable[[], object], tries: int = 6) -> float:
    return min(timing.once(call) for _ in range(tries))


def _parallel(threads: int, work: Callable[..., object], *arrays: np.ndarray) -> None:
    """`work` on equal slices, one thread each; it releases the GIL inside."""
    bounds = np.linspace(0, len(arrays[0]), threads + 1).astype(int)
    slices = [tuple(a[low:high] for a in arrays) for low, high in itertools.pairwise(bounds)]
    workers = [threading.Thread(target=work, args=part) for part in slices]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
