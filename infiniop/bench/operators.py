"""`infiniop bench ops`: per operator, dtype, model shape and phase: time, ratio to torch, share of the limit."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from infiniop.schema import DType, dtype

from . import limits, timing
from .cases import CASES, Case
from .shapes import MODELS, PHASES

DTYPES = ("float32", "bfloat16", "float16")
SLOW = 3.0
"""Seconds: a peer that takes so long (torch's f16 products do) is measured once, and not at larger shapes."""


@dataclass(frozen=True)
class Row:
    """Times in microseconds; `ratio`: torch's time over ours; `limit`: the share of bandwidth or of the f32 peak."""

    op: str
    dtype: str
    model: str
    phase: str
    us: float
    torch_us: float | None
    ratio: float | None
    limit: float
    bound: str


def run(
    machine: limits.Limits, ops: Sequence[str] | None = None, dtypes: Sequence[str] = DTYPES, seconds: float = 0.4
) -> Iterator[Row]:
    """Rows as they are measured. Cases without a dtype or a phase of the operator are left out."""
    torch = _torch(machine.threads)
    slow: dict[tuple[str, DType], int] = {}  # operations at which the peer was slow
    for name, model, phase, kind in _points(ops, dtypes):
        built = CASES[name](model, phase, kind)
        if built is None:
            continue
        too_large = built.flops >= slow.get((name, kind), math.inf)
        row = _row(name, model.name, phase.name, kind, built, machine, None if too_large else torch, seconds)
        if row.torch_us and row.torch_us > SLOW * 1e6:
            slow[name, kind] = built.flops
        yield row


def _points(ops: Sequence[str] | None, dtypes: Sequence[str]) -> Iterable[tuple]:
    from infiniop.operators import all_operators

    for name in ops or sorted(CASES):
        allowed = [d for kinds in all_operators()[name].dtypes.values() for d in kinds]
        for kind in map(dtype, dtypes):
            if kind in allowed:
                yield from ((name, model, phase, kind) for model in MODELS for phase in PHASES)


def _row(
    name: str, model: str, phase: str, kind: DType, case: Case, machine: limits.Limits, torch, seconds: float
) -> Row:
    candidates: dict[str, Callable[[], object]] = {"ours": case.run}
    if torch is not None:
        candidates["torch"] = case.peer(torch)
    with torch.inference_mode() if torch is not None else contextlib.nullcontext():
        times = timing.medians(candidates, seconds)
    ours, peer = times["ours"], times.get("torch")
    by_bytes = case.bytes / machine.read / 1e9
    by_flops = case.flops / machine.flops / 1e9
    bound, least = ("arithmetic", by_flops) if by_flops > by_bytes else ("memory", by_bytes)
    return Row(
        name, repr(kind).removeprefix("infiniop."), model, phase, ours * 1e6, peer and peer * 1e6,
        peer and peer / ours, least / ours, bound,
    )  # fmt: skip


def _torch(threads: int):
    """torch as a peer, where it is installed, with as many threads as we use."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(int(os.environ.get("INFINIOP_NUM_THREADS", threads)))
    return torch


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Per dtype: geometric mean of torch's time over ours, each ratio capped at 4; share of rows at 1 or above."""
    result = {}
    for kind in sorted({r.dtype for r in rows}):
        ratios = [r.ratio for r in rows if r.dtype == kind and r.ratio]
        if ratios:
            result[f"{kind} geometric mean"] = statistics.geometric_mean(min(r, 4.0) for r in ratios)
            result[f"{kind} share >= 1.0"] = sum(r >= 1.0 for r in ratios) / len(ratios)
    return {k: v for k, v in result.items() if math.isfinite(v)}


def as_json(rows: Sequence[Row]) -> dict[str, object]:
    return {"rows": [asdict(r) for r in rows], "summary": summary(rows)}
