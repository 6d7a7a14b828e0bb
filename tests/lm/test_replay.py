"""Recorded decode steps: the same tokens as call by call, whatever happens between two of them."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref

import numpy as np
import pytest

import infiniop
from infiniop.lm import (
    AutoLlamaModel,
    HookRegistry,
    InferEngine,
    PagedKVCacheConfig,
    StaticKVCacheConfig,
    infini_to_numpy,
    load_config,
    replay,
)
from infiniop.lm.checkpoint import Checkpoint
from infiniop.lm.engine import _plan

Input = InferEngine.Input
SAMPLED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 3}
CACHES = {
    "static": StaticKVCacheConfig(4, 160),
    "paged": PagedKVCacheConfig(num_blocks=160, block_size=4),
}


@pytest.fixture
def launches(monkeypatch):
    """An entry for each replay."""
    launched, launch = [], infiniop.Graph.launch

    def counted(graph, stream=None):
        launched.append(graph)
        launch(graph, stream)

    monkeypatch.setattr(infiniop.Graph, "launch", counted)
    return launched


def load(pair, dtype="float32"):
    return AutoLlamaModel.from_pretrained(pair.path, dtype=dtype)


def watching(seen=None):
    """Hooks, which make the model run call by call."""
    hooks = HookRegistry()
    hooks.register_hook(
        "logits", lambda name, tensor, layer: seen is None or seen.append(infini_to_numpy(tensor)[0].copy())
    )
    return hooks


def call_by_call(pair, rows, count, **options):
    model = load(pair)
    model.set_hook_registry(watching())
    return model.generate(rows, count, **options).token_ids


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("architecture", "rope", "changed"),
    [
        ("llama-gqa", None, {}),
        ("qwen3", None, {}),
        ("mistral", None, {"sliding_window": 24}),
        ("llama-gqa", "longrope", {}),
        ("llama-gqa", "dynamic", {"max_position_embeddings": 64}),
    ],
    ids=["llama", "qwen3", "window", "longrope", "dynamic"],
)
def test_a_replay_draws_the_same_tokens(checkpoint, prompts, launches, architecture, rope, changed, cache, options):
    pair, rows = checkpoint(architecture, rope, **changed), prompts(9, 33, 4)
    expected = call_by_call(pair, rows, 72, cache_config=CACHES[cache], **options)
    assert not launches
    assert load(pair).generate(rows, 72, cache_config=CACHES[cache], **options).token_ids == expected
    assert len(launches) > 50


def test_a_batch_shrinks_as_sequences_end(checkpoint, prompts, launches):
    pair, rows = checkpoint("llama-gqa"), prompts(9, 4, 17, 30)
    free = call_by_call(pair, rows, 40, **SAMPLED)
    stops = [free[0][5], free[1][12], free[2][20]]
    expected = call_by_call(pair, rows, 40, eos_token_id=stops, **SAMPLED)
    assert len({len(row) for row in expected}) > 2
    model = load(pair)
    for _ in range(2):
        assert model.generate(rows, 40, eos_token_id=stops, **SAMPLED).token_ids == expected
    assert len({id(graph) for graph in launches}) > 2


def test_steps_of_single_tokens_replay_through_forward(checkpoint, prompts, launches):
    pair, (row,) = checkpoint("llama-gqa"), prompts(9)
    engine = InferEngine(load_config(pair.path), None, "cpu", StaticKVCacheConfig(2, 64), dtype="float32")
    engine.load_params({name: Checkpoint(pair.path).array(name) for name in Checkpoint(pair.path)})
    token = int(np.asarray(engine.forward(Input([row])))[0])
    for step in range(6):
        row = [*row, token]
        out = engine.forward(Input([[token]], past_sequence_lengths=[len(row) - 1], return_logits=True))
        expected = pair.logits([row])[0][-1]
        np.testing.assert_allclose(infini_to_numpy(out.logits)[0], expected, atol=1e-3 * np.abs(expected).max())
        token = int(np.asarray(out)[0])
        assert token == expected.argmax() and len(launches) == step


def test_hooks_in_mid_run_see_every_step(checkpoint, prompts, launches):
    pair, rows = checkpoint("llama-gqa"), prompts(9)
    expected, seen = call_by_call(pair, rows, 20), []
    model = load(pair)
    events = iter(model.stream_generate(rows, 20))
    found = [next(events).token_id for _ in range(6)]
    before = len(launches)
    model.set_hook_registry(watching(seen))
    found += [next(events).token_id for _ in range(5)]
    assert len(launches) == before > 0 and [int(row.argmax()) for row in seen] == found[6:]
    model.set_hook_registry(None)
    found += [event.token_id for event in events]
    assert len(launches) > before and found == expected[0]


def test_another_parameter_is_used_from_the_next_step_on(checkpoint, prompts):
    pair, rows = checkpoint("llama-gqa"), prompts(9, 4)
    model, fresh = load(pair), load(pair)
    before = model.generate(rows, 12).token_ids
    name = "model.layers.1.mlp.up_proj.weight"
    weight = 0.5 * Checkpoint(pair.path).array(name)
    for changed in (model, fresh):
        changed.load_param(name, weight)
    assert model.generate(rows, 12).token_ids == fresh.generate(rows, 12).token_ids != before


def test_recordings_go_with_their_cache(checkpoint, prompts, launches):
    pair, rows = checkpoint("llama-gqa"), prompts(9, 4)
    model = load(pair)
    expected = model.generate(rows, 8, cache_config=CACHES["paged"]).token_ids
    memory = weakref.ref(model._cache.pool.keys._owner)
    del launches[:]
    assert model.generate(rows, 8, cache_config=CACHES["static"]).token_ids == expected
    del launches[:]
    gc.collect()
    assert memory() is None
    assert model.generate(rows, 8, cache_config=PagedKVCacheConfig(num_blocks=9, block_size=7)).token_ids == expected


def test_a_cache_reset_in_mid_run(checkpoint, prompts):
    pair, (row,) = checkpoint("llama-gqa"), prompts(9)
    engine = InferEngine(load_config(pair.path), None, "cpu", StaticKVCacheConfig(1, 64), dtype="float32")
    engine.load_params({name: Checkpoint(pair.path).array(name) for name in Checkpoint(pair.path)})

    def run(**tables):
        tokens = [int(np.asarray(engine.forward(Input([row], **tables)))[0])]
        for past in range(9, 15):
            out = engine.forward(Input([tokens[-1:]], past_sequence_lengths=[past], **tables))
            tokens.append(int(np.asarray(out)[0]))
        return tokens

    expected = run()
    for config, tables in (
        (StaticKVCacheConfig(3, 32), {}),
        (PagedKVCacheConfig(num_blocks=8, block_size=4), {"block_tables": [[5, 3, 1, 0, 7, 2, 6]]}),
        (None, {"block_tables": [[1, 2, 3, 4]]}),
    ):
        engine.reset_cache(config)
        assert run(**tables) == expected


def test_longer_prompts_and_contexts_move_memory(checkpoint, prompts):
    pair = checkpoint("llama-gqa")
    model = load(pair)
    for lengths in ((5,), (60,), (5, 7, 90), (200,), (5,)):
        rows = prompts(*lengths)
        assert model.generate(rows, 12).token_ids == call_by_call(pair, rows, 12)


def test_models_take_turns(checkpoint, prompts):
    pairs = [checkpoint("llama-gqa"), checkpoint("qwen2"), checkpoint("llama-gqa")]
    rows = prompts(9, 4)
    runs = [iter(load(pair).stream_generate(rows, 16)) for pair in pairs]
    found = [[], [], []]
    for _ in range(32):
        for tokens, run in zip(found, runs, strict=True):
            tokens.append(next(run).token_id)
    for tokens, pair in zip(found, pairs, strict=True):
        assert [tokens[0::2], tokens[1::2]] == call_by_call(pair, rows, 16)


def test_two_threads_with_a_model_each(checkpoint, prompts):
    pair, rows = checkpoint("llama-gqa"), prompts(9, 4)
    expected, found = call_by_call(pair, rows, 40, **SAMPLED), {}

    def generate(name):
        model = load(pair)
        found[name] = [model.generate(rows, 40, **SAMPLED).token_ids for _ in range(3)]

    threads = [threading.Thread(target=generate, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": [expected] * 3, "b": [expected] * 3}


def test_bad_values_are_refused_in_a_replay(checkpoint, prompts, launches):
    pair, (row,) = checkpoint("llama-gqa"), prompts(5)
    engine = InferEngine(load_config(pair.path), None, "cpu", StaticKVCacheConfig(1, 32), dtype="float32")
    engine.load_params({name: Checkpoint(pair.path).array(name) for name in Checkpoint(pair.path)})
    engine.forward(Input([row]))
    step = {"input_ids": [[7]], "past_sequence_lengths": [5]}
    for _ in range(3):
        good = np.asarray(engine.forward(Input(**step))).tolist()
    assert len(launches) == 2
    with pytest.raises(ValueError, match="outside the vocabulary"):
        engine.forward(Input(**{**step, "input_ids": [[640]]}))
    cache = engine._engine_cache()
    beyond = dataclasses.replace(_plan(Input(**step), cache), slots=np.array([32]))
    with pytest.raises(infiniop.InfiniopError, match=r"paged_caching.*slot_mapping"):
        engine.next_tokens(beyond, cache, Input(**step).sampling(1))
    assert len(launches) == 3
    assert np.asarray(engine.forward(Input(**step))).tolist() == good


def test_the_number_of_recordings_is_bounded(checkpoint, prompts, launches, monkeypatch):
    monkeypatch.setattr(replay, "_MOST_GRAPHS", 2)
    model = load(checkpoint("llama-gqa"))
    config = StaticKVCacheConfig(4, 64)
    for count in (1, 2, 3, 4, 1):
        model.generate(prompts(*[5] * count), 6, cache_config=config)
    (recordings,) = model._graphs._by_cache.values()
    assert len(recordings) == 2 and launches


def test_a_device_that_cannot_record_runs_call_by_call(checkpoint, prompts, launches, monkeypatch):
    pair, rows = checkpoint("llama-gqa"), prompts(9, 4)
    expected = call_by_call(pair, rows, 12)

    def refuse(*_, **__):
        raise infiniop.InfiniopError("no graphs here")

    monkeypatch.setattr(infiniop, "capture", refuse)
    assert load(pair).generate(rows, 12).token_ids == expected and not launches
