"""KVCache, DynamicCache, PagedKVCache and its adapter hold what NumPy keeps beside them, in any order of calls."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import infiniop
from infiniop.lm import AutoLlamaModel, DynamicCache, LlamaConfig
from infiniop.lm.arrays import infini_to_numpy
from infiniop.lm.cache import (
    Block,
    BlockCache,
    CacheFullError,
    KVCache,
    PagedKVCache,
    PagedKVCacheAdapter,
    create_paged_kv_cache,
)
from infiniop.lm.models.mistral import MistralConfig

SIZES = {
    "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "num_hidden_layers": 2,
    "vocab_size": 32, "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
CONFIG = LlamaConfig(**SIZES)


def tokens(rng, count, batch=None, dtype=np.float32) -> np.ndarray:
    shape = (count, 2, 6) if batch is None else (batch, count, 2, 6)
    return rng.standard_normal(shape).astype(dtype)


class PagedMachine(RuleBasedStateMachine):
    """Against lists of arrays per sequence and layer."""

    config: LlamaConfig = CONFIG

    def __init__(self):
        super().__init__()
        self.cache = PagedKVCache(self.config, block_size=3, num_blocks=7)
        self.window = self.config.attention_window or 1000
        self.held: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self.rng = np.random.default_rng(0)

    @rule(seq=st.integers(0, 4), length=st.integers(0, 6))
    def allocate(self, seq, length):
        needed = -(-min(length, self.window) // 3)
        if seq in self.held:
            with pytest.raises(ValueError, match="exists already"):
                self.cache.allocate_sequence(seq, length)
        elif needed > self.cache.sequences.allocator.free_blocks:
            with pytest.raises(CacheFullError):
                self.cache.allocate_sequence(seq, length)
        else:
            self.cache.allocate_sequence(seq, length)
            self.held[seq] = [(tokens(self.rng, 0), tokens(self.rng, 0))] * 2

    @precondition(lambda self: self.held)
    @rule(data=st.data(), layer=st.integers(0, 1), count=st.integers(0, 5))
    def append(self, data, layer, count):
        seq = data.draw(st.sampled_from(sorted(self.held)))
        k, v = tokens(self.rng, count), tokens(self.rng, count)
        used = self.cache.sequences.allocator.used_blocks
        if self.cache.append_tokens(seq, layer, k, v):
            old = self.held[seq][layer]
            self.held[seq] = list(self.held[seq])
            self.held[seq][layer] = np.concatenate([old[0], k]), np.concatenate([old[1], v])
        else:
            assert count > 0 and self.cache.sequences.allocator.used_blocks == used

    @precondition(lambda self: self.held)
    @rule(data=st.data(), new=st.integers(0, 4))
    def fork(self, data, new):
        seq = data.draw(st.sampled_from(sorted(self.held)))
        if new in self.held:
            with pytest.raises(ValueError, match="exists already"):
                self.cache.fork_sequence(seq, new)
        else:
            self.cache.fork_sequence(seq, new)
            self.held[new] = list(self.held[seq])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data):
        seq = data.draw(st.sampled_from(sorted(self.held)))
        self.cache.free_sequence(seq)
        del self.held[seq]
        with pytest.raises(KeyError):
            self.cache.get_kv(seq, 0)

    @invariant()
    def every_sequence_has_its_own(self):
        for seq, layers in self.held.items():
            for layer, expected in enumerate(layers):
                for found, want in zip(self.cache.get_kv(seq, layer), expected, strict=True):
                    np.testing.assert_array_equal(np.asarray(found), want[-self.window :])
        if not self.held:
            assert self.cache.sequences.allocator.used_blocks == 0


class WindowMachine(PagedMachine):
    """A sequence keeps its last tokens only, in a ring."""

    config = MistralConfig(**SIZES, sliding_window=7)


TestPagedCache, TestWindow = PagedMachine.TestCase, WindowMachine.TestCase
TestPagedCache.settings = TestWindow.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_adapter_is_bit_identical_to_the_contiguous_cache(dtype, batch):
    name = np.dtype(dtype).name
    plain = KVCache(CONFIG, batch, 40, dtype=name)
    paged = PagedKVCacheAdapter(create_paged_kv_cache(CONFIG, batch, 4, 10, dtype=name), batch)
    rng = np.random.default_rng(1)
    for count in (5, 1, 1, 7, 0, 2):
        for layer in (0, 1):
            k, v = tokens(rng, count, batch, dtype), tokens(rng, count, batch, dtype)
            for found, expected in zip(paged.update(k, v, layer), plain.update(k, v, layer), strict=True):
                assert found.shape == expected.shape and found.dtype == dtype
                np.testing.assert_array_equal(found.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


@pytest.mark.parametrize("make", [lambda: KVCache(CONFIG, 2, 20), lambda: DynamicCache(), lambda: DynamicCache(CONFIG)])
def test_caches_that_grow(make):
    cache, rng = make(), np.random.default_rng(2)
    expected = [[], []]
    for count in (3, 1, 4):
        for layer in (0, 1):
            pair = tokens(rng, count, 2), tokens(rng, count, 2)
            expected[layer].append(pair)
            for i, found in enumerate(cache.update(*pair, layer)):
                np.testing.assert_array_equal(found, np.concatenate([p[i] for p in expected[layer]], 1))


def test_a_dynamic_cache_reads_like_a_list_of_layers():
    cache, rng = DynamicCache(), np.random.default_rng(3)
    assert len(cache) == 0 and cache.get_seq_length() == 0
    k, v = tokens(rng, 4, 1), tokens(rng, 4, 1)
    cache.update(k, v, 0)
    assert (len(cache), cache.get_seq_length(), cache.get_seq_length(5)) == (1, 4, 0)
    np.testing.assert_array_equal(cache[0][1], v)
    assert [a.shape for a, _ in cache] == [(1, 4, 2, 6)]
    with pytest.raises(KeyError, match="no layer 1"):
        cache[1]


def test_what_comes_out_is_of_the_kind_that_came_in():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    arrays = tokens(rng, 3), tokens(rng, 3)
    cache = PagedKVCache(CONFIG)
    cache.allocate_sequence("x")
    for give, kind in (
        (lambda a: a, np.ndarray),
        (infiniop.from_numpy, infiniop.Tensor),
        (torch.from_numpy, torch.Tensor),
    ):
        assert cache.append_tokens("x", 0, *map(give, arrays))
        assert all(isinstance(found, kind) for found in cache.get_kv("x", 0))
    batch = tokens(rng, 3, 1), tokens(rng, 3, 1)
    for make in (lambda: DynamicCache(), lambda: KVCache(CONFIG, 1, 8)):
        assert isinstance(make().update(*map(torch.from_numpy, batch), 0)[0], torch.Tensor)


def test_blocks_are_views_of_the_pool():
    cache = PagedKVCache(CONFIG, block_size=4, num_blocks=3)
    cache.allocate_sequence("x")
    k = tokens(np.random.default_rng(5), 6)
    for layer in (0, 1):
        cache.append_tokens("x", layer, k, -k)
    block = cache.block(cache.sequences.blocks("x")[1])
    assert isinstance(block, Block) and block.k_data.shape == (2, 2, 4, 6)
    keys, values = block.layer(1)
    assert keys.shape == (2, 4, 6)
    np.testing.assert_array_equal(infini_to_numpy(keys)[:, :2], k[4:].transpose(1, 0, 2))
    infini_to_numpy(values)[...] = 7.0
    np.testing.assert_array_equal(np.asarray(cache.get_kv("x", 1)[1])[4:], 7.0)
    with pytest.raises(ValueError, match="block 3 is not one of"):
        cache.block(3)


def test_blocks_in_a_row_are_one_run_to_each_head():
    cache = PagedKVCache(CONFIG, block_size=4, num_blocks=8)
    cache.allocate_sequence("x", 24)
    first, *_, last = cache.sequences.blocks("x")
    for memory in cache.pool.layer(1):
        head = memory[first : last + 1, 1]
        assert head.shape[0] == 6 and head.is_contiguous()


def test_memory_statistics():
    """The document's example: 4 of 64 blocks in use leaves 93.75 % of the pool unused."""
    cache = PagedKVCache(CONFIG, block_size=16, num_blocks=64)
    cache.allocate_sequence("x")
    k = tokens(np.random.default_rng(6), 4 * 16 - 8)
    cache.append_tokens("x", 0, k, k)
    memory = cache.memory()
    assert memory.total_bytes == 64 * 16 * 2 * 2 * 2 * 6 * 4
    assert memory.utilisation == 0.0625 and memory.wasted == 8 / 64
    cache.free_sequence("x")
    assert cache.memory().utilisation == 0 and cache.memory().wasted == 0


def test_an_exhausted_pool_is_left_as_it_was():
    cache = PagedKVCache(CONFIG, block_size=2, num_blocks=3)
    cache.allocate_sequence("x")
    k = tokens(np.random.default_rng(7), 5)
    assert cache.append_tokens("x", 0, k, k)
    assert not cache.append_tokens("x", 0, k, k)
    np.testing.assert_array_equal(cache.get_kv("x", 0)[0], k)
    assert cache.append_tokens("x", 0, k[:1], k[:1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c, k: c.append_tokens("y", 0, k, k), KeyError, "no sequence 'y'"),
        (lambda c, k: c.get_kv("y", 0), KeyError, "no sequence 'y'"),
        (lambda c, k: c.free_sequence("y"), KeyError, "no sequence 'y'"),
        (lambda c, k: c.fork_sequence("y", "z"), KeyError, "no sequence 'y'"),
        (lambda c, k: c.allocate_sequence("x"), ValueError, "'x' exists already"),
        (lambda c, k: c.allocate_sequence("z", -1), ValueError, "initial_len"),
        (lambda c, k: c.append_tokens("x", 2, k, k), ValueError, "layer_idx must be between 0 and 1"),
        (lambda c, k: c.append_tokens("x", 0, k[:, :1], k), ValueError, r"k must have shape \['any', 2, 6\]"),
        (lambda c, k: c.append_tokens("x", 0, k, k[:1]), ValueError, "must have one shape"),
        (lambda c, k: c.append_tokens("x", 0, k.astype("f2"), k), TypeError, "as the cache is"),
    ],
)
def test_wrong_calls(call, error, message):
    cache = PagedKVCache(CONFIG)
    cache.allocate_sequence("x")
    with pytest.raises(error, match=message):
        call(cache, tokens(np.random.default_rng(8), 3))


def test_contiguous_caches_refuse_what_does_not_fit():
    k = tokens(np.random.default_rng(9), 5, 1)
    with pytest.raises(CacheFullError, match="would hold 5 tokens, the cache holds 4"):
        KVCache(CONFIG, 1, 4).update(k, k, 0)
    grown = DynamicCache(CONFIG)
    grown.update(k, k, 0)
    with pytest.raises(ValueError, match="must have shape"):
        grown.update(np.repeat(k, 2, 0), k, 0)
    with pytest.raises(ValueError, match="below 2"):
        grown.update(k, k, 2)
    with pytest.raises(ValueError, match="must be \\[batch"):
        DynamicCache().update(k[0], k[0], 0)


@pytest.mark.parametrize("make", [lambda c: PagedKVCache(c, 4, 40), lambda c: KVCache(c, 2, 64),
                                  lambda c: create_paged_kv_cache(c, 2, 4, 16)])  # fmt: skip
def test_models_run_on_these_caches(checkpoint, prompts, make):
    """It is the cache that the engine runs on: the model fills it, and `get_kv` reads what the model wrote."""
    pair, rows = checkpoint("llama-gqa"), prompts(9, 9)
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    cache = make(model.config)
    assert isinstance(cache, BlockCache)
    model([row[:6] for row in rows], kv_cache=cache)
    found = infini_to_numpy(model([row[6:] for row in rows], kv_cache=cache))
    for row, logits in zip(rows, found, strict=True):
        expected = pair.logits([row])[0][6:]
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    if isinstance(cache, PagedKVCache):
        keys, _ = cache.get_kv(1, 2)
        assert keys.shape == (9, 2, 12)
        fresh = PagedKVCache(model.config, 16, 4)
        model([rows[1]], kv_cache=fresh)
        np.testing.assert_allclose(infini_to_numpy(keys), infini_to_numpy(fresh.get_kv(0, 2)[0]), atol=1e-4)


@pytest.mark.parametrize("values", [(0, 4, 4), (1, 4, 0), (1, True, 4), (1, 0, 4)])
def test_impossible_pools(values):
    with pytest.raises((ValueError, TypeError)):
        create_paged_kv_cache(CONFIG, *values)
