"""generate(): sampling, seeds, stopping, streaming, statistics, room in the cache."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from infiniop.lm import AutoLlamaModel, PagedKVCacheConfig, SamplingParams, StaticKVCacheConfig
from infiniop.lm.sampling import sample_on_host


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32")


def used_blocks(model):
    return model._cache.sequences.allocator.used_blocks


def test_seeds_are_reproducible(model, prompts):
    (row,) = prompts(12)
    first = model.generate(row, 20, temperature=1.5, seed=11).token_ids
    assert model.generate(row, 20, temperature=1.5, seed=11).token_ids == first
    assert model.generate(row, 20, temperature=1.5, seed=12).token_ids != first
    assert model.generate(row, 20, temperature=1.5).token_ids != model.generate(row, 20, temperature=1.5).token_ids


def test_a_seed_means_the_same_in_any_batch(model, prompts):
    rows = prompts(12, 5, 30)
    batch = model.generate(rows, 16, temperature=1.0, top_k=50, top_p=0.95, seed=[4, 5, 6]).token_ids
    for row, seed, expected in zip(rows, (4, 5, 6), batch, strict=True):
        assert model.generate(row, 16, temperature=1.0, top_k=50, top_p=0.95, seed=seed).token_ids == [expected]
    assert model.generate(rows, 16, temperature=1.0, top_k=50, top_p=0.95, seed=4).token_ids == batch


def test_top_k_1_and_tiny_top_p_are_greedy(model, prompts):
    (row,) = prompts(12)
    greedy = model.generate(row, 12).token_ids
    assert model.generate(row, 12, temperature=2.0, top_k=1, seed=0).token_ids == greedy
    assert model.generate(row, 12, temperature=2.0, top_p=1e-6, seed=0).token_ids == greedy
    assert model.generate(row, 12, temperature=2.0, min_p=1.0, seed=0).token_ids == greedy
    assert model.generate(row, 12, temperature=0.0, seed=3).token_ids == greedy


def test_an_option_without_a_temperature_samples(model, prompts):
    (row,) = prompts(12)
    warm = model.generate(row, 12, temperature=1.0, top_k=30, seed=2).token_ids
    assert model.generate(row, 12, top_k=30, seed=2).token_ids == warm != model.generate(row, 12, seed=2).token_ids
    assert (
        model.generate(row, 12, top_p=0.9, seed=2).token_ids
        == model.generate(row, 12, temperature=1.0, top_p=0.9, seed=2).token_ids
    )


def test_stop_tokens_end_a_sequence_and_are_in_the_ids(model, prompts):
    rows = prompts(12, 5)
    free = model.generate(rows, 24).token_ids
    stop = free[0][7]
    found = model.generate(rows, 24, eos_token_id=stop)
    for tokens, full, reason in zip(found.token_ids, free, found.finish_reasons, strict=True):
        expected = full[: full.index(stop) + 1] if stop in full else full
        assert tokens == expected and reason == ("stop" if stop in full else "length")
    assert model.generate(rows, 24, eos_token_id=stop, stop_on_eos=False).token_ids == free
    assert model.generate(rows, 24, eos_token_id=[639, stop]).token_ids == found.token_ids


def test_generation_config_gives_defaults(checkpoint, tmp_path, prompts):
    folder = shutil.copytree(checkpoint("llama-gqa").path, tmp_path / "m")
    (row,) = prompts(12)
    greedy = AutoLlamaModel.from_pretrained(folder).generate(row, 12).token_ids[0]
    defaults = {"do_sample": True, "temperature": 5.0, "eos_token_id": [greedy[3]]}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    model = AutoLlamaModel.from_pretrained(folder)
    stopped = model.generate(row, 12, temperature=0.0)
    assert stopped.token_ids[0] == greedy[: greedy.index(greedy[3]) + 1] and stopped.finish_reasons == ["stop"]
    sampled = model.generate(row, 12, seed=1, stop_on_eos=False).token_ids
    assert sampled == model.generate(row, 12, temperature=5.0, seed=1, stop_on_eos=False).token_ids
    assert sampled[0] != greedy


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"temperature": "hot"}, "temperature must be a number"), ({"eos_token_id": "</s>"}, "eos_token_id must be int")],
)
def test_a_generation_config_that_makes_no_sense_is_named(checkpoint, tmp_path, wrong, words):
    folder = shutil.copytree(checkpoint("llama-gqa").path, tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, **wrong}))
    with pytest.raises(ValueError, match=rf"generation_config\.json: {words}"):
        AutoLlamaModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([],), {}, "sequence 0 is empty"),
        (([[1], []],), {}, "sequence 1 is empty"),
        (([640],), {}, "token id 640 is outside the vocabulary of 640"),
        (([-1],), {}, "token id -1"),
        (([1], 0), {}, "max_new_tokens must be an integer of at least 1"),
        (([1], 2.5), {}, "max_new_tokens"),
        (("text",), {}, "needs a tokenizer"),
        (([1],), {"temperature": -1.0}, "temperature"),
        (([1],), {"temperature": float("nan")}, "temperature"),
        (([1],), {"temperature": 1.0, "top_p": 0.0}, "top_p"),
        (([1],), {"temperature": 1.0, "top_k": -1}, "top_k"),
        (([1],), {"temperature": 1.0, "min_p": 1.5}, "min_p"),
        (([[1], [2]],), {"seed": [1]}, "1 seeds for 2 sequences"),
    ],
)
def test_bad_arguments(model, arguments, options, words):
    with pytest.raises(ValueError, match=words):
        model.generate(*arguments, **options)


def test_input_forms(model, prompts):
    torch = pytest.importorskip("torch")
    rows = prompts(6, 6)
    expected = model.generate(rows, 4).token_ids
    for form in (np.array(rows), torch.tensor(rows), [np.array(r) for r in rows], tuple(map(tuple, rows))):
        assert model.generate(form, 4).token_ids == expected
    assert model.generate(np.array(rows[0]), 4).token_ids == expected[:1]
    with pytest.raises(TypeError, match="integers only"):
        model.generate([1.5], 4)
    with pytest.raises(TypeError, match="sequence or an array"):
        model.generate(5, 4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (StaticKVCacheConfig(2, 30), "a sequence of 31 tokens .* holds 30 of each"),
        (StaticKVCacheConfig(1, 64), "a batch of 2 sequences, and the cache takes 1"),
        (PagedKVCacheConfig(num_blocks=3, block_size=16), "need 4 cache blocks of 16, 3 are free"),
        (PagedKVCacheConfig(num_blocks=9, block_size=16, max_batch_size=1), "the cache takes 1"),
        (PagedKVCacheConfig(64), "smallest sufficient budget"),
    ],
)
def test_a_cache_that_is_too_small_is_refused_before_anything_runs(model, prompts, config, words):
    with pytest.raises(ValueError, match=words):
        model.generate(prompts(20, 20), 12, cache_config=config)


def test_a_cache_that_just_fits(model, prompts):
    """The last token is never fed back: 20 + 12 - 1 tokens."""
    rows = prompts(20, 20)
    expected = model.generate(rows, 12).token_ids
    assert model.generate(rows, 12, cache_config=StaticKVCacheConfig(2, 31)).token_ids == expected
    assert model.generate(rows, 12, cache_config=PagedKVCacheConfig(num_blocks=4, block_size=16)).token_ids == expected
    assert used_blocks(model) == 0


def test_memory_is_kept_between_calls(model, prompts):
    (row,) = prompts(20)
    model.generate(row, 12, cache_config=StaticKVCacheConfig(2, 100))
    cache = model._cache
    model.generate(row, 30)
    assert model._cache is cache


def test_an_impossible_cache_says_what_was_asked_and_what_is_free(model, prompts):
    (row,) = prompts(4)
    with pytest.raises(MemoryError, match=r"\d+ bytes was asked for, \d+ bytes are free on cpu"):
        model.generate(row, 4, cache_config=StaticKVCacheConfig(1, 2**40))
    assert len(model.generate(row, 4).token_ids[0]) == 4


def test_streaming_gives_the_same_tokens_as_they_come(model, prompts):
    rows = prompts(12, 5)
    expected = model.generate(rows, 8)
    events = []
    assert model.generate(rows, 8, streamer=events.append).token_ids == expected.token_ids
    for row in (0, 1):
        assert [e.token_id for e in events if e.row == row] == expected.token_ids[row]
        assert [e.finish_reason for e in events if e.row == row] == [None] * 7 + ["length"]
    stream = model.stream_generate(rows, 8)
    assert [next(iter(stream)).row, next(iter(stream)).row] == [0, 1]
    assert stream.output().token_ids == expected.token_ids


def test_a_stream_that_is_left_early_gives_its_blocks_back(model, prompts):
    stream = model.stream_generate(prompts(12, 5), 50)
    next(iter(stream))
    assert used_blocks(model) > 0
    stream.close()
    assert used_blocks(model) == 0
    with pytest.raises(RuntimeError, match="ended early"):
        stream.output()


def test_an_exception_in_the_streamer_gives_blocks_back(model, prompts):
    def fail(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate(prompts(12), 50, streamer=fail)
    import gc

    gc.collect()
    assert used_blocks(model) == 0


def test_statistics_add_up(model, prompts):
    rows = prompts(12, 5)
    statistics = model.generate(rows, 9).statistics
    assert (statistics.batch_size, statistics.prompt_tokens, statistics.generated_tokens) == (2, 17, 18)
    total_ms = statistics.total_seconds * 1e3
    assert 0 < statistics.ttft_ms < total_ms and statistics.itl_ms is not None
    assert statistics.ttft_ms + 8 * statistics.itl_ms <= total_ms
    assert statistics.tokens_per_second == pytest.approx(18 / statistics.total_seconds)
    assert statistics.prefill_tokens_per_second == pytest.approx(17 / statistics.ttft_ms * 1e3)
    assert statistics.decode_tokens_per_second == pytest.approx(2 / statistics.itl_ms * 1e3)
    single = model.generate(rows[0], 1).statistics
    assert single.itl_ms is None and single.decode_tokens_per_second is None
    json.dumps(single.as_dict())


def test_host_sampling_equals_the_operator(model):
    """The stand-in for devices without `sample` draws the same tokens."""
    import infiniop
    from infiniop.lm.buffers import Buffers
    from infiniop.lm.sampling import Sampler

    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (64, 300)).astype(np.float32)
    choices = [(0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (0.7, 40, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 20, 0.9, 0.05)]
    params = [SamplingParams(*choices[i % 5], seed=i * 2**40 + 5) for i in range(64)]
    positions = np.arange(64) * 3
    found = []
    for on_device in (False, True):
        sampler, rows = Sampler(Buffers("cpu"), on_device), infiniop.from_numpy(logits)
        sampler.prepare(params, positions)
        sampler.draw(rows)
        found.append(sampler.tokens(rows).tolist())
    assert found[0] == found[1]


def test_logits_without_a_distribution_still_give_a_token():
    """A model that overflows: whoever samples, the token is one of the vocabulary."""
    logits = np.zeros((3, 6), np.float32)
    logits[0, 4], logits[1], logits[2, 2] = np.nan, -np.inf, np.inf
    ones, zeros = np.ones(3), np.zeros(3, np.int64)
    for top_k, top_p, min_p in ((0, 1.0, 0.0), (3, 0.9, 0.1)):
        found = sample_on_host(logits, ones, zeros + top_k, ones * top_p, ones * min_p, zeros, zeros)
        assert ((found >= 0) & (found < 6)).all() and found[2] == 2


def test_host_sampling_follows_the_distribution():
    logits = np.log(np.array([0.5, 0.2, 0.2, 0.1]))
    rows = np.repeat(logits[None], 4000, 0)
    ones, seeds = np.ones(len(rows)), np.arange(len(rows))

    def shares(top_k=0, top_p=1.0, min_p=0.0):
        found = sample_on_host(rows, ones, seeds * 0 + top_k, ones * top_p, ones * min_p, seeds, seeds * 0 + 7)
        return np.bincount(found, minlength=4) / len(rows)

    np.testing.assert_allclose(shares(), [0.5, 0.2, 0.2, 0.1], atol=0.03)
    np.testing.assert_allclose(shares(top_k=1), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(top_p=0.6), [5 / 7, 2 / 7, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(min_p=0.3), [5 / 9, 2 / 9, 2 / 9, 0], atol=0.03)
