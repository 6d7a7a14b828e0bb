"""Logits and greedy tokens against transformers, for every architecture, both caches, one sequence and four."""

from __future__ import annotations

import numpy as np
import pytest

from infiniop.lm import AutoLlamaModel, PagedKVCacheConfig, StaticKVCacheConfig
from infiniop.lm.arrays import infini_to_numpy

ARCHITECTURES = ["llama-gqa", "llama-mha", "llama-mqa-tied", "qwen2", "qwen3", "mistral"]
ROPES = ["linear", "dynamic", "llama3", "yarn", "yarn-mscale", "longrope"]
CACHES = {"static": StaticKVCacheConfig(4, 200), "paged": PagedKVCacheConfig(num_blocks=64, block_size=16)}
LENGTHS = {1: (21,), 4: (21, 3, 70, 1)}
F32_SHARE = 1e-4  # of the logits' largest magnitude
BF16_SHARE = 5e-2  # root mean square, relative: three layers of operators that each round to 8 bits


def difference(ours: np.ndarray, theirs: list[np.ndarray]) -> float:
    """The largest difference of packed logits, as a share of the largest magnitude."""
    expected = np.concatenate(theirs)
    assert ours.shape == expected.shape
    return float(np.abs(ours.astype(np.float32) - expected).max() / np.abs(expected).max())


def packed_logits(model, rows, cache) -> np.ndarray:
    """Logits of every token: the first part of each row as prefill, the rest as one more step over the cache."""
    table = cache.sequences
    for row in range(len(rows)):
        table.add(row)
    halves = [max(len(row) * 2 // 3, 1) for row in rows]
    first = infini_to_numpy(
        model.forward(
            cache.batch(range(len(rows)), [r[:h] for r, h in zip(rows, halves, strict=True)]), cache, all_logits=True
        )
    ).copy()
    rest = [i for i, row in enumerate(rows) if len(row) > halves[i]]
    pieces = [[part] for part in np.split(first, np.cumsum(halves)[:-1])]
    if rest:
        step = cache.batch(rest, [rows[i][halves[i] :] for i in rest])
        second = infini_to_numpy(model.forward(step, cache, all_logits=True))
        for i, part in zip(rest, np.split(second, step.offsets[1:-1]), strict=True):
            pieces[i].append(part)
    return np.concatenate([part for row in pieces for part in row])


@pytest.mark.parametrize("batch", LENGTHS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_transformers(checkpoint, prompts, architecture, cache, batch):
    pair, rows = checkpoint(architecture), prompts(*LENGTHS[batch])
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    ours = packed_logits(model, rows, model.new_cache(CACHES[cache]))
    assert difference(ours, pair.logits(rows)) <= F32_SHARE


@pytest.mark.parametrize("batch", LENGTHS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_equal_transformers(checkpoint, prompts, architecture, cache, batch):
    pair, rows = checkpoint(architecture), prompts(*LENGTHS[batch])
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    found = model.generate(rows, 64, cache_config=CACHES[cache])
    assert found.token_ids == [pair.greedy(row, 64) for row in rows]
    assert found.finish_reasons == ["length"] * batch


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("rope", ROPES)
def test_rope_types_equal_transformers(checkpoint, prompts, rope, cache):
    """Beyond the original context: 70 tokens where it is 64 or 48, and (dynamic) where max_position_embeddings is
    64."""
    short = {"max_position_embeddings": 64} if rope == "dynamic" else {}
    pair, rows = checkpoint("llama-gqa", rope, **short), prompts(40, 70)
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    ours = [infini_to_numpy(model([row]))[0] for row in rows]
    assert difference(np.concatenate(ours), pair.logits(rows)) <= F32_SHARE
    found = model.generate(rows, 32, cache_config=CACHES[cache])
    assert found.token_ids == [pair.greedy(row, 32) for row in rows]


def relative_rms(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found.astype(np.float32) - expected).mean() / np.square(expected).mean()))


@pytest.mark.parametrize("architecture", ["llama-gqa", "llama-mha", "qwen2", "qwen3"])
def test_bfloat16_is_as_near_to_float32_as_transformers(checkpoint, prompts, architecture):
    """bf16 keeps 8 bits, and rounds at every operator: the share that this leaves is measured on transformers' own
    bf16."""
    pair, rows = checkpoint(architecture), prompts(21, 3, 70, 1)
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="bfloat16")
    ours = infini_to_numpy(model(rows))
    assert ours.dtype.name == "bfloat16"
    exact = np.concatenate(pair.logits(rows))
    theirs = np.concatenate(pair.in_dtype("bfloat16").logits(rows))
    assert relative_rms(ours, exact) <= min(BF16_SHARE, 1.25 * relative_rms(theirs, exact))


@pytest.mark.parametrize("cache", ["static", "paged"])
def test_mistral_sliding_window(checkpoint, prompts, cache):
    """Prompts shorter and longer than the window, and generation across it."""
    pair, rows = checkpoint("mistral", sliding_window=24), prompts(10, 24, 40)
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    config = {"static": StaticKVCacheConfig(3, 24), "paged": PagedKVCacheConfig(num_blocks=15, block_size=5)}[cache]
    found = model.generate(rows, 32, cache_config=config)
    assert found.token_ids == [pair.greedy(row, 32) for row in rows]


def test_a_request_gets_the_same_tokens_in_any_batch(checkpoint, prompts):
    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32")
    rows = prompts(21, 3, 70, 1)
    alone = [model.generate(row, 24).token_ids[0] for row in rows]
    assert model.generate(rows, 24).token_ids == alone
    assert model.generate(rows[::-1], 24).token_ids == alone[::-1]


def test_long_prompts_come_in_pieces(checkpoint, prompts, monkeypatch):
    import infiniop.lm.generation as generation

    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa", "longrope").path, dtype="float32")
    rows = prompts(90, 7)
    whole = model.generate(rows, 12).token_ids
    monkeypatch.setattr(generation, "_PREFILL_TOKENS_PER_STEP", 16)
    assert model.generate(rows, 12).token_ids == whole
