"""`infiniop bench llm`: prefill and decode of a Llama shape with random weights, against peers and the machine's
limits."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import infiniop

from . import checkpoints, engines, limits
from .checkpoints import Checkpoint
from .shapes import LLAMA_1B, Model

if TYPE_CHECKING:
    from infiniop.lm import LlamaForCausalLM

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
class Start:
    """Seconds of a fresh process with the checkpoint in the page cache: to import the engine, to load, and from there
    to the first token of a prompt of one token."""

    importing: float
    loading: float
    first_token: float


@dataclass(frozen=True)
class Context:
    """Decode steps (batch 1) of a long context. `read_share`: the weights and the keys and values that a token reads,
    by the read bandwidth of the same seconds."""

    tokens: int
    cache: str
    decode: float  # tokens/s
    read_share: float


@dataclass(frozen=True)
class Result:
    rows: list[Row]  # ours first
    python_share: float  # of our decode step: what is not inside the replay of its recording
    start: Start
    contexts: list[Context]
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
    context: int | None = None,
    model: Model = LLAMA_1B,
    weights: str | None = None,
) -> Result:
    """Measures the engines in turns, and the limits among them, on one checkpoint in a temporary folder; decode at
    `context` tokens as well where it is given. `weights`: what ours gets as `quantize`; llama.cpp then has Q8_0
    or Q4_0."""
    from infiniop.lm import AutoLlamaModel

    meter = limits.Meter()
    with checkpoints.llama(dtype_name, layers, model, positions=max(4096, (context or 0) + tokens)) as checkpoint:
        start = _start(checkpoint.path)
        loaded = AutoLlamaModel.from_pretrained(checkpoint.path, quantize=weights)
        contexts = _contexts(loaded, checkpoint, context, tokens, meter) if context else []
        running = {"ours": engines.generation(loaded)}
        share = _python_share(running["ours"], [1], max(tokens, 8))  # before the threads of others are there
        sizes = {"ours": _weight_bytes(loaded)}
        if peers:
            form = engines.GGUF_FORMS[(weights or dtype_name).split("-")[0]]
            _add_peers(running, sizes, checkpoint, dtype_name, form)
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
    return Result(
        rows, share, start, contexts, absent, prompt, machine, engines.thread_count(),
        os.environ.get("OMP_WAIT_POLICY"),
    )  # fmt: skip


def _weight_bytes(model: LlamaForCausalLM) -> int:
    """What decoding a token reads of weights: those of the layers, and of the output."""
    state = model.state_dict()
    outside = ("model.embed_tokens.weight", "lm_head.weight")
    return model.logits_weight().nbytes + sum(t.nbytes for name, t in state.items() if name not in outside)


def _add_peers(
    running: dict[str, engines.Engine], sizes: dict[str, int], checkpoint: Checkpoint, dtype_name: str, form: str
) -> None:
    """The engines of others by name, and the bytes of weights that each reads for a token."""
    if peer := engines.transformers(checkpoint.path, dtype_name):
        running["transformers"], sizes["transformers"] = peer, checkpoint.weight_bytes
    if other := engines.llama_cpp(checkpoint, form):
        running["llama.cpp"], sizes["llama.cpp"] = other


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


_START = """
import json, sys, time
times = [time.perf_counter()]
from infiniop.lm import AutoLlamaModel
times.append(time.perf_counter())
model = AutoLlamaModel.from_pretrained(sys.argv[1])
times.append(time.perf_counter())
next(iter(model.stream_generate([[1]], 2, stop_on_eos=False)))
times.append(time.perf_counter())
print(json.dumps([end - start for start, end in zip(times, times[1:])]))
"""


def _start(path: Path, tries: int = 3) -> Start:
    """The median of a few processes."""
    command = [sys.executable, "-c", _START, str(path)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(tries)]
    return Start(*(statistics.median(column) for column in zip(*runs, strict=True)))


def _python_share(engine: engines.Engine, ids: list[int], tokens: int) -> float:
    inside, launch = [], infiniop.Graph.launch

    def timed(graph: infiniop.Graph, stream: object = None) -> None:
        began = time.perf_counter()
        launch(graph, stream)
        inside.append(time.perf_counter() - began)

    infiniop.Graph.launch = timed  # type: ignore[method-assign,assignment]
    try:
        steps = engine(ids, tokens).steps
    finally:
        infiniop.Graph.launch = launch  # type: ignore[method-assign]
    return 1 - statistics.median(inside) / statistics.median(steps)


def _contexts(
    model: LlamaForCausalLM, checkpoint: Checkpoint, context: int, tokens: int, meter: limits.Meter
) -> list[Context]:
    """Decode after `context` tokens whose keys and values are random, with either kind of cache."""
    from infiniop.lm import PagedKVCacheConfig, SamplingParams, StaticKVCacheConfig, infini_to_numpy

    length = context + tokens
    found = []
    for name, config in (
        ("static", StaticKVCacheConfig(1, length)),
        ("paged", PagedKVCacheConfig(num_blocks=-(-length // 16), block_size=16)),
    ):
        cache = model.new_cache(config)
        for memory in (cache.pool.keys, cache.pool.values):
            rows = infini_to_numpy(memory).reshape(-1)
            rows[:] = np.resize(np.random.default_rng(0).normal(size=1 << 16).astype(rows.dtype), rows.shape)
        cache.sequences.add(0)
        cache.sequences.append(0, context)
        row, steps, reads = [1], [], []
        for i in range(tokens):
            if i % 8 == 0:
                reads.append(meter.read())
            began = time.perf_counter()
            row = model.next_tokens(cache.batch([0], [row]), cache, [SamplingParams()])[0].tolist()
            steps.append(time.perf_counter() - began)
        seconds = statistics.median(steps)
        moved = _weight_bytes(model) + checkpoint.kv_bytes(context)
        found.append(Context(context, name, 1 / seconds, moved / seconds / 1e9 / statistics.median(reads)))
    return found
