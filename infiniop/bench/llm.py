"""`infiniop bench llm`: prefill and decode of a Llama shape with random weights, against peers and the machine's
limits."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import checkpoints, engines, limits
from .checkpoints import Checkpoint
from .shapes import LLAMA_1B, Model

PEERS = ("transformers", "llama.cpp")


@dataclass(frozen=True)
class Row:
    """One engine. `read_share`: the weights that a decoded token reads by the measured read bandwidth;
    `product_share`: a prompt's matrix products by torch's best bf16 rate."""

    engine: str
    prefill: float  # tokens/s
    decode: float  # tokens/s
    weight_bytes: int
    read_share: float
    product_share: float | None


@dataclass(frozen=True)
class Result:
    rows: list[Row]  # ours first
    absent: list[str]  # peers that are not installed
    prompt: int
    limits: limits.Limits
    threads: int
    omp_wait_policy: str | None

    @property
    def ours(self) -> Row:
        return self.rows[0]


def run(
    dtype_name: str = "bfloat16",
    prompt: int = 512,
    tokens: int = 24,
    layers: int | None = None,
    rounds: int = 3,
    peers: bool = True,
    model: Model = LLAMA_1B,
) -> Result:
    """Measures the engines in turns, and the limits among them, on one checkpoint in a temporary folder."""
    meter = limits.Meter()
    with checkpoints.llama(dtype_name, layers, model) as checkpoint:
        running, sizes = _engines(checkpoint, dtype_name, peers)
        ids = np.random.default_rng(0).integers(0, model.vocab, prompt).tolist()
        timings: dict[str, list[engines.Timing]] = {name: [] for name in running}
        for _ in range(rounds):
            meter.read()
            meter.bf16()
            for name, engine in running.items():
                timings[name].append(engine(ids, tokens))
        machine = meter.limits()
        rows = [_row(name, timings[name], prompt, sizes[name], checkpoint, machine) for name in running]
    absent = [name for name in PEERS if peers and name not in running]
    return Result(rows, absent, prompt, machine, engines.thread_count(), os.environ.get("OMP_WAIT_POLICY"))


def _engines(
    checkpoint: Checkpoint, dtype_name: str, peers: bool
) -> tuple[dict[str, engines.Engine], Mapping[str, int]]:
    """The engines by name, and the bytes of weights that each reads for a token."""
    found, sizes = {"ours": engines.ours(checkpoint.path)}, {"ours": checkpoint.weight_bytes}
    if peers and (peer := engines.transformers(checkpoint.path, dtype_name)):
        found["transformers"], sizes["transformers"] = peer, checkpoint.weight_bytes
    if peers and (other := engines.llama_cpp(checkpoint, engines.GGUF_FORMS[dtype_name])):
        found["llama.cpp"], sizes["llama.cpp"] = other
    return found, sizes


def _row(
    name: str, timings: list[engines.Timing], prompt: int, weight_bytes: int, checkpoint: Checkpoint, m: limits.Limits
) -> Row:
    seconds = statistics.median(t.prefill for t in timings)
    decode = statistics.median(t.decode for t in timings)
    product = checkpoint.prefill_flops(prompt) / seconds / 1e9
    return Row(
        name, prompt / seconds, decode, weight_bytes, decode * weight_bytes / (m.read * 1e9),
        product / m.bf16_flops if m.bf16_flops else None,
    )  # fmt: skip
