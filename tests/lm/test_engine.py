"""FEATURES.md section 3: DistConfig, InferEngine, Input, Output, the models' classes."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import infiniop
from infiniop.lm import (
    AutoLlamaModel,
    DistConfig,
    DynamicCache,
    HookRegistry,
    InferEngine,
    LlamaForCausalLM,
    PagedKVCacheConfig,
    StaticKVCacheConfig,
    infini_to_numpy,
    load_config,
)
from infiniop.lm.cache import PagedKVCache
from infiniop.lm.checkpoint import Checkpoint, CheckpointError
from infiniop.lm.distributed import get_tensor_parallel_shard

torch = pytest.importorskip("torch")
Input = InferEngine.Input


@pytest.fixture
def engine(checkpoint):
    """An engine with the weights of the small Llama, f32, static cache for four."""
    pair = checkpoint("llama-gqa")
    engine = InferEngine(load_config(pair.path), DistConfig(), "cpu", StaticKVCacheConfig(4, 128), dtype="float32")
    weights = Checkpoint(pair.path)
    for name in weights:
        engine.load_param(name, weights.array(name))
    return engine


def greedy_steps(engine, rows, count, **tables):
    """Greedy tokens through `forward` alone: one packed prefill, then a token per request and step."""
    lengths = np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    out = engine.forward(Input(np.concatenate(rows), input_offsets=offsets, total_sequence_lengths=lengths, **tables))
    found = [np.asarray(out)]
    for _ in range(count - 1):
        out = engine.forward(Input(found[-1][:, None], past_sequence_lengths=lengths, **tables))
        lengths = lengths + 1
        found.append(np.asarray(out).copy())
    return np.stack(found, 1).tolist()


# ---------------------------------------------------------------------- DistConfig


def test_dist_config():
    with pytest.raises(ValueError, match=r"^Provide either tp_size OR tp_device_ids, not both$"):
        DistConfig(tp_size=2, tp_device_ids=[0, 1])
    assert DistConfig().tp_device_ids == [0]
    assert DistConfig(tp_size=3).tp_device_ids == [0, 1, 2]
    assert repr(DistConfig(tp_device_ids=[0, 1])) == "DistConfig(tp_device_ids=[0, 1])"
    assert DistConfig(2) == DistConfig(tp_device_ids=[0, 1]) != DistConfig(2, pp_size=2)
    assert DistConfig(2, pp_size=3).world_size == 6


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"tp_size": 0}, ValueError),
        ({"tp_device_ids": []}, ValueError),
        ({"tp_device_ids": [1, 1]}, ValueError),
        ({"tp_device_ids": [-1]}, ValueError),
        ({"pp_size": 0}, ValueError),
        ({"tp_size": "2"}, TypeError),
        ({"tp_device_ids": ["a"]}, TypeError),
        ({"pp_size": 1.5}, TypeError),
    ],
)
def test_bad_dist_configs(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        DistConfig(**arguments)


def test_shards():
    full = np.arange(24).reshape(6, 4)
    for axis in (0, 1):
        parts = [get_tensor_parallel_shard(full, axis, rank, 2) for rank in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(parts, axis), full)
        assert np.shares_memory(parts[0], full)
    assert get_tensor_parallel_shard(full, None, 1, 2) is full
    with pytest.raises(
        ValueError, match=r"6 along axis 0 cannot be split over 4 ranks; \[1, 2, 3, 6\] would divide it"
    ):
        get_tensor_parallel_shard(full, 0, 0, 4)
    with pytest.raises(ValueError, match="rank must be"):
        get_tensor_parallel_shard(full, 0, 2, 2)


# ---------------------------------------------------------------------- parameters


def test_repr(engine):
    assert repr(engine) == "<InferEngine: DistConfig(tp_device_ids=[0])>"


def test_load_param_and_state_dict(checkpoint, engine):
    (state,) = engine.state_dict()
    weights = Checkpoint(checkpoint("llama-gqa").path)
    assert set(state) == set(weights)
    for name in state:
        np.testing.assert_array_equal(infini_to_numpy(state[name]), weights.array(name))
    engine.load_param("model.norm.weight", torch.full((96,), 2.0, dtype=torch.bfloat16))
    assert infini_to_numpy(engine.state_dict()[0]["model.norm.weight"]).tolist() == [2.0] * 96


def test_bad_parameters(engine):
    with pytest.raises(KeyError, match=r"no parameter 'model.nothing'"):
        engine.load_param("model.nothing", np.zeros(3, np.float32))
    with pytest.raises(CheckpointError, match=r"model.norm.weight has shape \[3\], the configuration asks for \[96\]"):
        engine.load_param("model.norm.weight", np.zeros(3, np.float32))


def test_forward_without_parameters_names_them(checkpoint):
    engine = InferEngine(load_config(checkpoint("llama-gqa").path), cache_config=StaticKVCacheConfig(1, 16))
    with pytest.raises(RuntimeError, match=r"no values yet for model\.embed_tokens\.weight, .* and 25 more"):
        engine.forward(Input([1, 2]))


# ---------------------------------------------------------------------- Input and Output


def test_unknown_keywords_are_named():
    with pytest.raises(ValueError, match=r"^InferEngine.Input got an unexpected keyword argument 'beams'$"):
        Input(None, beams=3)


def test_input_defaults():
    given = Input()
    assert given.input_ids is None and (given.temperature, given.top_p, given.top_k) == (1.0, 1.0, 1)


def test_output_reads_as_numpy_and_gives_logits(checkpoint, engine, prompts):
    (row,) = prompts(9)
    out = engine.forward(Input(np.array([row]), return_logits=True))
    expected = checkpoint("llama-gqa").logits([row])[0][-1]
    logits = infini_to_numpy(out.logits)
    assert logits.shape == (1, 640) and np.abs(logits[0] - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.shares_memory(np.asarray(out), np.asarray(out)) and np.asarray(out).tolist() == [int(expected.argmax())]
    kept = logits.copy()
    engine.forward(Input(np.array([row[::-1]])))
    np.testing.assert_array_equal(infini_to_numpy(out.logits), kept)
    assert engine.forward(Input(np.array([row]))).logits is None


def test_mixed_lengths_with_the_static_cache(checkpoint, engine, prompts):
    rows = prompts(21, 3, 70, 1)
    assert greedy_steps(engine, rows, 10) == [checkpoint("llama-gqa").greedy(row, 10) for row in rows]


def test_mixed_lengths_with_the_callers_blocks(checkpoint, engine, prompts):
    rows = prompts(21, 3, 70, 1)
    engine.reset_cache(PagedKVCacheConfig(num_blocks=40, block_size=8))
    tables = np.random.default_rng(1).permutation(40).reshape(4, 10)
    found = greedy_steps(engine, rows, 10, block_tables=tables)
    assert found == [checkpoint("llama-gqa").greedy(row, 10) for row in rows]


@pytest.mark.parametrize("form", ["position_ids", "past_sequence_lengths", "total_sequence_lengths", "cu_seqlens"])
def test_any_form_of_lengths_will_do(checkpoint, engine, prompts, form):
    (row,) = prompts(12)
    engine.forward(Input(row[:8]))
    lengths = {
        "position_ids": np.arange(8, 12), "past_sequence_lengths": [8], "total_sequence_lengths": torch.tensor([12]),
        "cu_seqlens": [0, 12],
    }  # fmt: skip
    out = engine.forward(Input(row[8:], **{form: lengths[form]}))
    assert np.asarray(out).tolist() == checkpoint("llama-gqa").greedy(row, 1)


def test_an_explicit_slot_mapping_is_followed(checkpoint, engine, prompts):
    (row,) = prompts(12)
    engine.reset_cache(PagedKVCacheConfig(num_blocks=4, block_size=8))
    slots = [16 + i for i in range(8)] + [i for i in range(4)]
    out = engine.forward(Input(row, block_tables=[[2, 0]], slot_mapping=slots))
    assert np.asarray(out).tolist() == checkpoint("llama-gqa").greedy(row, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "input_ids must be given"),
        ({"input_ids": np.zeros((1, 0), int)}, "at least one token"),
        ({"input_ids": [640]}, "token id 640 at position 0 is outside the vocabulary of 640"),
        ({"input_ids": [1, 2], "input_offsets": [0, 1]}, "input_offsets must rise from 0 to 2"),
        ({"input_ids": [1, 2], "input_offsets": [0, 0, 2]}, "input_offsets must rise"),
        ({"input_ids": [1, 2], "position_ids": [0]}, "position_ids has 1 entries, 2 are needed"),
        ({"input_ids": [1, 2], "slot_mapping": [0]}, "slot_mapping has 1 entries, 2 are needed"),
        ({"input_ids": [1, 2], "past_sequence_lengths": [0, 0]}, "past_sequence_lengths has 2 entries, 1 are needed"),
        ({"input_ids": [1, 2], "past_sequence_lengths": [3], "total_sequence_lengths": [4]}, "total_sequence_lengths"),
        ({"input_ids": [1, 2], "total_sequence_lengths": [1]}, "past_sequence_lengths"),
        ({"input_ids": [1, 2], "past_sequence_lengths": [127]}, r"\[129\] tokens need tables of \[2\] blocks of 128"),
        ({"input_ids": np.ones((5, 1), int)}, "5 requests, and the static cache takes max_batch_size=4"),
        ({"input_ids": [1, 2], "block_tables": [[4]]}, "block_tables must name blocks from 0 to 3"),
        ({"input_ids": [1, 2], "temperature": [1.0, 2.0]}, "temperature has 2 values for 1 requests"),
        ({"input_ids": [1, 2], "top_p": 0.0}, "top_p"),
    ],
)
def test_bad_inputs_name_the_field(engine, fields, words):
    with pytest.raises(ValueError, match=words):
        engine.forward(Input(**fields))
    engine.forward(Input([1, 2]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"slot_mapping": [3, 100_000]}, "slot_mapping must name slots below"), ({"position_ids": [0, -1]}, "at least 0")],
)
def test_values_that_a_kernel_would_refuse(engine, fields, words):
    """Other ranks would die of them."""
    with pytest.raises(ValueError, match=words) as caught:
        engine.forward(InferEngine.Input([[1, 2]], **fields))
    assert not isinstance(caught.value, infiniop.InfiniopError)


def test_wrong_types_are_type_errors(engine):
    with pytest.raises(TypeError, match="input_ids must hold integers"):
        engine.forward(Input([1.5]))
    with pytest.raises(TypeError, match=r"forward takes an InferEngine\.Input, got list"):
        engine.forward([1])


def test_a_paged_cache_needs_tables(engine):
    engine.reset_cache(PagedKVCacheConfig(num_blocks=4))
    with pytest.raises(ValueError, match="block_tables must be given with a paged cache"):
        engine.forward(Input([1]))


def test_sampling_parameters_per_request(engine, prompts):
    rows = np.array(prompts(6, 6, 6))
    greedy = np.asarray(engine.forward(Input(rows))).copy()
    mixed = {"temperature": np.array([1.0, 5.0, 0.0]), "top_k": [1, 0, 0], "seed": [1, 2, 3]}
    found = np.asarray(engine.forward(Input(rows, **mixed)))
    assert found[[0, 2]].tolist() == greedy[[0, 2]].tolist()
    assert found.tolist() == np.asarray(engine.forward(Input(rows, **mixed))).tolist()
    drawn = {int(np.asarray(engine.forward(Input(rows, temperature=5.0, top_k=0)))[1]) for _ in range(8)}
    assert len(drawn) > 1


# ---------------------------------------------------------------------- cache


def test_reset_cache_switches_and_resizes(checkpoint, engine, prompts):
    rows = prompts(21, 3)
    expected = [checkpoint("llama-gqa").greedy(row, 8) for row in rows]
    for config in (
        PagedKVCacheConfig(num_blocks=8, block_size=8),
        StaticKVCacheConfig(2, 64),
        PagedKVCacheConfig(1 << 20),
    ):
        engine.reset_cache(config)
        assert engine.get_cache_config() == config and engine.get_cache_config() is not config
        assert engine.generate(rows, 8).token_ids == expected


def test_a_cache_that_cannot_be_had_leaves_the_engine_usable(checkpoint, engine, prompts):
    (row,) = prompts(5)
    before = engine.get_cache_config()
    with pytest.raises(ValueError, match="smallest sufficient budget"):
        engine.reset_cache(PagedKVCacheConfig(10))
    with pytest.raises(MemoryError, match=r"bytes was asked for, \d+ bytes are free"):
        engine.reset_cache(StaticKVCacheConfig(1, 2**45))
    assert engine.get_cache_config() == before
    assert engine.generate(row, 4).token_ids[0] == checkpoint("llama-gqa").greedy(row, 4)


def test_the_configuration_given_is_copied(checkpoint):
    config = StaticKVCacheConfig(2, 32)
    engine = InferEngine(load_config(checkpoint("llama-gqa").path), cache_config=config)
    assert engine.get_cache_config() == config and engine._cache_config is not config


# ---------------------------------------------------------------------- models


def test_model_classes(checkpoint):
    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path)
    names = [
        type(part).__name__ for part in (model, model.model, model.model.layers[0], model.model.layers[0].self_attn)
    ]
    assert names == ["LlamaForCausalLM", "LlamaModel", "LlamaDecoderLayer", "LlamaAttention"]
    assert type(model.model.layers[2].mlp).__name__ == "LlamaMLP" and isinstance(model, LlamaForCausalLM)
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoLlamaModel()


def test_a_call_returns_logits_of_all_positions_and_continues_a_cache(checkpoint, prompts):
    pair, rows = checkpoint("qwen3"), prompts(10, 10)
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    expected = np.stack(pair.logits(rows))
    for config in (StaticKVCacheConfig(2, 16), PagedKVCacheConfig(num_blocks=8, block_size=4)):
        cache = model.new_cache(config)
        parts = [infini_to_numpy(model(np.array(rows)[:, cut], kv_cache=cache)) for cut in (slice(0, 6), slice(6, 10))]
        found = np.concatenate(parts, 1)
        assert found.shape == (2, 10, 640) and np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_one_dtype_conversion_for_torch_tensors():
    array = infini_to_numpy(__import__("infiniop").asarray(torch.ones(3, dtype=torch.bfloat16)))
    assert array.dtype.name == "bfloat16" and array.tolist() == [1, 1, 1]


def test_a_call_that_fails_leaves_the_cache_as_it_was(checkpoint, prompts):
    (row,) = prompts(9)
    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32")
    cache = PagedKVCache(model.config, block_size=4, num_blocks=8, dtype="float32")
    model([row[:6]], kv_cache=cache)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model([[640]], kv_cache=cache)
    hooks = HookRegistry()
    hooks.register_hook("layer1_q_proj", lambda *_: 1 / 0)
    model.set_hook_registry(hooks)
    with pytest.raises(ZeroDivisionError):
        model([row[6:]], kv_cache=cache)
    with pytest.raises(TypeError, match="DynamicCache"):
        model([row[6:]], kv_cache=DynamicCache())
    model.set_hook_registry(None)
    expected = infini_to_numpy(model([row]))[:, 6:]
    np.testing.assert_allclose(infini_to_numpy(model([row[6:]], kv_cache=cache)), expected, atol=1e-4)


def test_parameters_reach_other_ranks_from_the_device(checkpoint):
    """NCCL takes nothing else."""
    sent = []

    class Others:
        parallel = SimpleNamespace(world=SimpleNamespace(broadcast=sent.append))

        def command(self, *_):
            pass

        def guarded(self):
            return nullcontext()

        def close(self):
            pass

    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32")
    model.lead(Others())
    weight = np.arange(96, dtype=np.float32)
    model.load_param("model.norm.weight", weight)
    (tensor,) = sent
    assert isinstance(tensor, infiniop.Tensor) and tensor.device is infiniop.Device(model.device)
    assert np.array_equal(tensor.numpy(), weight)


def test_caches_that_nobody_has_are_dropped_on_every_rank(checkpoint):
    """Rank 0 tells the others, whatever the order in which caches come and go."""

    class Others:
        def __init__(self):
            self.alive: set[int] = set()

        def command(self, method, number, config, dropped):
            self.alive = self.alive - {*dropped} | {number}

        def close(self):
            pass

    model, others = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32"), Others()
    model.lead(others)
    caches = [model.new_cache(StaticKVCacheConfig(1, 8)) for _ in range(3)]
    del caches[0]
    caches.append(model.new_cache(StaticKVCacheConfig(1, 8)))
    assert others.alive == {cache.number for cache in caches}
