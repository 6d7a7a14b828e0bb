"""`infiniop bench torch`: what a call through torch's dispatcher costs, and a transformers Llama before and after
`infiniop.torch.accelerate`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import checkpoints, engines, timing
from .shapes import LLAMA_1B, Model


@dataclass(frozen=True)
class Row:
    """Tokens per second of the same model, without and with our operators."""

    phase: str
    transformers: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.transformers


def calls() -> dict[str, float]:
    """Nanoseconds per call on one element, kernels and new tensors included."""
    import torch

    import infiniop.torch  # noqa: F401 - registers the operators
    from infiniop import ops

    a, b, out = (torch.ones(1) for _ in range(3))
    x, weight = torch.ones(1, 8), torch.ones(8)
    add, norm = torch.ops.infiniop.add, torch.ops.infiniop.rms_norm
    candidates: dict[str, Callable[[], object]] = {
        "torch.add": lambda: torch.add(a, b),
        "torch.ops.infiniop.add": lambda: add.default(a, b),
        "torch.add, out=": lambda: torch.add(a, b, out=out),
        "torch.ops.infiniop.add.out": lambda: add.out(a, b, out=out),
        "infiniop.ops.add, out=": lambda: ops.add(a, b, out=out),
        "torch.nn.functional.rms_norm": lambda: torch.nn.functional.rms_norm(x, (8,), weight),
        "torch.ops.infiniop.rms_norm": lambda: norm.default(x, weight),
    }
    with torch.no_grad():
        return {name: seconds * 1e9 for name, seconds in timing.medians(candidates, seconds=2.0).items()}


def llama(
    dtype: str = "bfloat16", prompt: int = 512, tokens: int = 16, layers: int | None = 4, rounds: int = 3,
    model: Model = LLAMA_1B,
) -> list[Row]:  # fmt: skip
    """Prefill and decode, batch 1, in turns on one model."""
    import infiniop.torch

    with checkpoints.llama(dtype, layers, model) as checkpoint:
        network = engines.transformers_model(checkpoint.path, dtype)
    if network is None:
        return []
    run = engines.greedy(network)
    ids = np.random.default_rng(0).integers(0, model.vocab, prompt).tolist()
    found: dict[Callable, list[engines.Timing]] = {infiniop.torch.restore: [], infiniop.torch.accelerate: []}
    for change in found:
        change(network)
        run(ids[:8], 2)
    for _ in range(rounds):
        for change, timings in found.items():
            change(network)
            timings.append(run(ids, tokens))
    prefill = [prompt / statistics.median(t.prefill for t in timings) for timings in found.values()]
    decode = [statistics.median(t.decode for t in timings) for timings in found.values()]
    return [Row("prefill", *prefill), Row("decode", *decode)]
