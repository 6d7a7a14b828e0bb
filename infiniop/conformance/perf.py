"""`--perf`: every operator at the shapes of a Llama layer, in decode and in prefill.

Time, and the share of the device's own copy bandwidth, measured in the same run. Nothing passes or fails by time.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from infiniop._library import lib
from infiniop.bench.cases import CASES
from infiniop.bench.shapes import LLAMA_1B, PHASES, Phase
from infiniop.device import Device
from infiniop.errors import check
from infiniop.memory import D2D, NULL, current
from infiniop.runtime import memory_info
from infiniop.schema import Operator, Role, Sample
from infiniop.schema.dtypes import BF16, F16, F32, DType
from infiniop.tensor import Tensor

from .call import Descriptor, synchronize
from .memory import Arguments, allocate, placed
from .subject import Subject

DTYPES = (F32, F16, BF16)
_COPIED = 256 << 20  # bytes, at most
_SECONDS = 0.2  # per row
_BATCH = 5e-3  # seconds of calls between two looks at the clock


@dataclass(frozen=True)
class Row:
    """`us`: microseconds of a call; `gbs`: GB/s of what it must read and write; `share`: of a copy's GB/s."""

    op: str
    dtype: str
    phase: str
    us: float
    gbs: float
    gflops: float
    share: float

    HEADINGS = ("operator", "dtype", "phase", "us", "GB/s", "GFLOP/s", "of a copy")

    def cells(self) -> tuple[str, ...]:
        flops = f"{self.gflops:.1f}" if self.gflops else ""
        numbers = (f"{self.us:.2f}", f"{self.gbs:.2f}", flops, f"{100 * self.share:.0f} %")
        return (self.op, self.dtype, self.phase, *numbers)


def points(operator: Operator) -> Iterator[tuple[Phase, DType]]:
    """What there is to measure of an operator."""
    kinds = {d for allowed in operator.dtypes.values() for d in allowed}
    for dtype in DTYPES:
        for phase in PHASES:
            if operator.name in CASES and dtype in kinds:
                yield phase, dtype


def measure(operator: Operator, tested: Subject, phase: Phase, dtype: DType) -> Row | None:
    """None: the operator has no such shape in this phase. Raises `Declined` and `Failed`."""
    case = CASES[operator.name](LLAMA_1B, phase, dtype)
    if case is None:
        return None
    sample = _sample(operator, case.run.args, case.run.keywords, case.run)
    arguments = Arguments(operator, sample.tensors)
    descriptor = Descriptor(operator, tested, arguments, sample.attrs)
    try:
        with placed(arguments, descriptor.workspace_size(), tested.device) as memory:
            call, copy = descriptor.prepared(memory, sample.attrs), copy_of(tested.device)
            before = copy.gbs()
            seconds = seconds_per_call(call, lambda: synchronize(tested.device))
            bandwidth = (before + copy.gbs()) / 2
    finally:
        descriptor.destroy()
    gbs = case.bytes / seconds / 1e9
    return Row(operator.name, dtype.name, phase.name, seconds * 1e6, gbs, case.flops / seconds / 1e9, gbs / bandwidth)


def _sample(operator: Operator, args: tuple, keywords: dict, run: Callable[[], object]) -> Sample:
    """A call of `infiniop.ops` as the C API takes it."""
    attrs = dict(keywords)
    out = attrs.pop("out", None)
    results = run() if out is None else out
    outputs = [t.name for t in operator.tensors if t.role is Role.OUT]
    given = dict(zip((t.name for t in operator.inputs), args, strict=False))
    if outputs:
        given |= zip(outputs, results if isinstance(results, tuple) else (results,), strict=True)
    tensors = {t.name: _numpy(given.get(t.name)) for t in operator.tensors}
    return Sample("perf", tensors, attrs)


def _numpy(tensor: object) -> np.ndarray | None:
    return tensor.numpy() if isinstance(tensor, Tensor) else None


def seconds_per_call(call: Callable[[], None], wait: Callable[[], None], seconds: float = _SECONDS) -> float:
    """The median of batches; what takes long by itself is called once more only."""

    def batch(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        return (time.perf_counter() - start) / count

    batch(1)
    count = max(1, round(_BATCH / max(batch(1), 1e-7)))
    times = [batch(count)]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or (len(times) < 3 and times[0] < seconds):
        times.append(batch(count))
    return statistics.median(times)


class Copy:
    """Copies within the device's memory: by its runtime, on the CPU by as many threads as there are CPUs."""

    def __init__(self, device: Device):
        self.device = device
        free, _ = memory_info(device)
        self._size = min(_COPIED, free // 8) or _COPIED
        if device.is_cpu:
            self._halves = np.ones((2, self._size), np.uint8)
            self._threads = len(os.sched_getaffinity(0))
        else:
            self._pointers = [allocate(device, self._size) for _ in range(2)]

    def gbs(self) -> float:
        """GB/s, read and written bytes both counted."""
        once = self._by_threads if self.device.is_cpu else self._by_runtime
        return 2 * self._size / seconds_per_call(once, lambda: synchronize(self.device), 0.0) / 1e9

    def _by_threads(self) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            pieces = np.array_split(self._halves, self._threads, axis=1)
            list(pool.map(lambda piece: np.copyto(piece[0], piece[1]), pieces))

    def _by_runtime(self) -> None:
        target, source = self._pointers
        with current(self.device):
            check(lib.infinirtMemcpyAsync(target, source, self._size, D2D, NULL))


@functools.cache
def copy_of(device: Device) -> Copy:
    """The same for all rows: its memory takes longer to get than a row to measure."""
    return Copy(device)
