"""`infiniop bench serving`: many requests at once against one after the other, and what the cache costs and saves."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checkpoints

_REQUESTS, _BLOCK = 32, 16


@dataclass(frozen=True)
class Result:
    """Generated tokens per second of 32 requests of mixed lengths; the share of slots in used blocks that hold no
    token, averaged over time; milliseconds to the first token of a 1,000-token prompt, and of one that begins like it;
    decode steps per second, paged and static; bytes of keys and values, of a pool and of its used blocks."""

    layers: int
    together: float
    one_by_one: float
    peer: float | None
    peer_kind: str
    wasted: float
    preemptions: int
    ttft_cold_ms: float
    ttft_prefix_ms: float
    paged_steps: float
    static_steps: float
    pool_bytes: int
    used_bytes: int


def run(dtype: str = "bfloat16", layers: int = 2, requests: int = _REQUESTS) -> Result:
    """A Llama of the 1.24 B shape with fewer layers, random weights."""
    from infiniop.lm import AutoLlamaModel

    with checkpoints.llama(dtype, layers) as made:
        model = AutoLlamaModel.from_pretrained(made.path, device="cpu", dtype=dtype)
        jobs = _jobs(requests, made.model.vocab)
        together, wasted, preemptions = _together(model, jobs)
        one_by_one = _one_by_one(model, jobs)
        peer, kind = _transformers(made.path, dtype, jobs)
        cold, prefix = _prefix(model, made.model.vocab)
        paged, static = _paged_and_static(model, made.model.vocab)
        pool, used = _memory(model)
    return Result(
        layers, together, one_by_one, peer, kind, wasted, preemptions, cold, prefix, paged, static, pool, used
    )


Job = tuple[list[int], int]  # a prompt, and how many tokens to generate


def _jobs(count: int, vocab: int) -> list[Job]:
    """Prompts of 32 to 256 tokens, 16 to 64 new ones."""
    rng = np.random.default_rng(0)
    return [
        (rng.integers(3, vocab, int(rng.integers(32, 257))).tolist(), int(rng.integers(16, 65))) for _ in range(count)
    ]


def _engine(model: Any, blocks: int, **options: Any) -> Any:
    from infiniop.lm import PagedKVCacheConfig, ServingEngine

    return ServingEngine(model, cache_config=PagedKVCacheConfig(num_blocks=blocks, block_size=_BLOCK), **options)


def _params(tokens: int) -> Any:
    from infiniop.lm import RequestParams

    return RequestParams(max_new_tokens=tokens, ignore_eos=True)


def _together(model: Any, jobs: list[Job]) -> tuple[float, float, int]:
    engine = _engine(model, sum(-(-(len(p) + n) // _BLOCK) for p, n in jobs), max_running=len(jobs))
    for warm in (True, False):
        began = time.perf_counter()
        for number, (prompt, tokens) in enumerate(jobs[:2] if warm else jobs):
            engine.add(str(number), prompt, _params(tokens))
        while engine:
            engine.step()
    return (
        sum(n for _, n in jobs) / (time.perf_counter() - began),
        wasted_slots(model, (256, 2048)),
        engine.scheduler.statistics.preemptions,
    )


def wasted_slots(model: Any, lengths: tuple[int, int], sequences: int = 8, block_size: int = _BLOCK) -> float:
    """The share of slots in used blocks that hold no token, averaged over the life of sequences that grow to lengths
    between these two. It is a property of the table: no model runs."""
    from infiniop.lm.cache import SequenceTable

    rng = np.random.default_rng(1)
    ends = rng.integers(lengths[0], lengths[1] + 1, sequences).tolist()
    table = SequenceTable(sum(-(-end // block_size) for end in ends), block_size)
    for row in range(sequences):
        table.add(row)
    shares = []
    for step in range(max(ends)):
        for row, end in enumerate(ends):
            if step < end:
                table.append(row, 1)
            elif step == end:
                table.free(row)
        held = sum(table.length(row) for row in table)
        shares.append(1 - held / (table.allocator.used_blocks * block_size))
    return statistics.mean(shares)


def _one_by_one(model: Any, jobs: list[Job]) -> float:
    began = time.perf_counter()
    for prompt, tokens in jobs:
        model.generate([prompt], tokens, stop_on_eos=False)
    return sum(n for _, n in jobs) / (time.perf_counter() - began)


def _transformers(path: Any, dtype: str, jobs: list[Job]) -> tuple[float | None, str]:
    """Static batches of 8 of similar lengths, padded on the left: each runs as long as its longest asks for."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None, "not installed"
    from .engines import thread_count

    torch.set_num_threads(thread_count())
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    ordered = sorted(jobs, key=lambda job: (job[1], len(job[0])))
    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(ordered), 8):
            part = ordered[start : start + 8]
            width = max(len(prompt) for prompt, _ in part)
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in part])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in part])
            longest = max(n for _, n in part)
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=longest,
                min_new_tokens=longest,
                do_sample=False,
                pad_token_id=0,
            )
    return sum(n for _, n in jobs) / (time.perf_counter() - began), "transformers, static batches of 8"


def _prefix(model: Any, vocab: int) -> tuple[float, float]:
    rng = np.random.default_rng(2)
    prompt = rng.integers(3, vocab, 1000).tolist()
    engine = _engine(model, 256, max_step_tokens=1024)
    times = []
    for name, tail in (("cold", [3, 4, 5]), ("warm", [6, 7, 8])):
        began = time.perf_counter()
        engine.add(name, [*prompt, *tail], _params(1))
        while engine:
            engine.step()
        times.append((time.perf_counter() - began) * 1e3)
    return times[0], times[1]


def _paged_and_static(model: Any, vocab: int) -> tuple[float, float]:
    """Medians of decode steps of 8 sequences of 256 tokens, in turns."""
    from infiniop.lm import PagedKVCacheConfig, StaticKVCacheConfig

    rows = [np.random.default_rng(n).integers(3, vocab, 256).tolist() for n in range(8)]
    kinds: dict[str, Any] = {
        "paged": PagedKVCacheConfig(num_blocks=8 * 20, block_size=_BLOCK), "static": StaticKVCacheConfig(8, 320),
    }  # fmt: skip
    steps: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(3):
        for name, config in kinds.items():
            stream = model.stream_generate(rows, 24, cache_config=config, stop_on_eos=False)
            last, seen = time.perf_counter(), 0
            for event in stream:
                if event.row == 7:
                    now = time.perf_counter()
                    seen += 1
                    if seen > 4:  # the first steps compute the prompt and record
                        steps[name].append(now - last)
                    last = now
    return 1 / statistics.median(steps["paged"]), 1 / statistics.median(steps["static"])


def _memory(model: Any) -> tuple[int, int]:
    """The document's configuration: 64 blocks of 16 tokens, of which one sequence of 64 tokens uses 4."""
    from infiniop.lm.cache import PagedKVCache

    cache = PagedKVCache(model.config, _BLOCK, 64, dtype=model.dtype)
    cache.allocate_sequence(0, 64)
    memory = cache.memory()
    return memory.total_bytes, memory.used_bytes
