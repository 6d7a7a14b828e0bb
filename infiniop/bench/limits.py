"""What the machine can do, measured: memory bandwidth and arithmetic peak. The limits that benchmarks divide by."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import timing

_BYTES = 256 << 20


@dataclass(frozen=True)
class Limits:
    """GB/s of one and of all threads reading, of all threads copying (bytes read + written), and f32 GFLOP/s."""

    threads: int
    read_one: float
    read: float
    copy: float
    flops: float

    @property
    def uneven(self) -> bool:
        """Whether two threads read less than 1.8 times one: a shared memory bus, or a noisy moment."""
        return self.threads > 1 and self.read < 1.8 * self.read_one

    def describe(self) -> str:
        note = " (less than 1.8 x one thread: bandwidth shared or disturbed)" if self.uneven else ""
        return (
            f"limits: read {self.read:.1f} GB/s with {self.threads} threads{note}, {self.read_one:.1f} with one; "
            f"copy {self.copy:.1f} GB/s; f32 matrix product (NumPy's BLAS) {self.flops:.0f} GFLOP/s"
        )


def measure() -> Limits:
    """Takes about three seconds and half a gigabyte."""
    threads = len(os.sched_getaffinity(0))
    source = np.ones(_BYTES // 4, np.int32)
    target = np.zeros_like(source)
    a = np.ones((1536, 1536), np.float32)
    reads = _best(lambda: _parallel(threads, lambda part: np.maximum.reduce(part), source))
    one = _best(lambda: np.maximum.reduce(source))
    copies = _best(lambda: _parallel(threads, np.copyto, target, source))
    product = _best(lambda: a @ a)
    return Limits(
        threads, source.nbytes / one / 1e9, source.nbytes / reads / 1e9, 2 * source.nbytes / copies / 1e9,
        2 * 1536**3 / product / 1e9,
    )  # fmt: skip


def _best(call: Callable[[], object], tries: int = 6) -> float:
    return min(timing.once(call) for _ in range(tries))


def _parallel(threads: int, work: Callable[..., object], *arrays: np.ndarray) -> None:
    """`work` on equal slices, one thread each; NumPy releases the GIL inside."""
    bounds = np.linspace(0, len(arrays[0]), threads + 1).astype(int)
    slices = [tuple(a[low:high] for a in arrays) for low, high in itertools.pairwise(bounds)]
    workers = [threading.Thread(target=work, args=part) for part in slices]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
