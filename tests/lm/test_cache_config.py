"""FEATURES.md section 2, row by row."""

from __future__ import annotations

import copy
import pickle

import pytest

from infiniop.lm import LlamaConfig
from infiniop.lm.cache import (
    BlockCache,
    CacheConfig,
    CacheGeometry,
    PagedKVCacheConfig,
    StaticKVCacheConfig,
    create_cache_config,
    register_cache_mode,
)
from infiniop.schema import BF16, F32

UNLIMITED = 2**64 - 1
MODEL = LlamaConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=100,
)  # fmt: skip


def test_cache_config_is_abstract():
    with pytest.raises(NotImplementedError, match="abstract"):
        CacheConfig()
    assert repr(CacheConfig) == "<CacheConfig (abstract)>"


def test_static_defaults_and_repr():
    config = StaticKVCacheConfig()
    assert (config.max_batch_size, config.max_cache_len) == (1, UNLIMITED)
    assert repr(config) == "<StaticKVCacheConfig>" and isinstance(config, CacheConfig)


@pytest.mark.parametrize("length", [UNLIMITED, 0])
def test_static_default_length_is_the_models(length):
    assert StaticKVCacheConfig(2, length).geometry(MODEL, F32) == CacheGeometry(2, 100, 2, contiguous=True)
    assert StaticKVCacheConfig(2, 40).geometry(MODEL, F32) == CacheGeometry(2, 40, 2, contiguous=True)


def test_paged_forms_and_repr():
    config = PagedKVCacheConfig(1 << 20)
    assert (config.max_kv_memory_bytes, config.block_size, config.num_blocks) == (1 << 20, 16, None)
    assert repr(config) == "<PagedKVCacheConfig>"
    newer = PagedKVCacheConfig(num_blocks=8, block_size=4, max_batch_size=3)
    assert (newer.num_blocks, newer.block_size, newer.max_batch_size, newer.max_kv_memory_bytes) == (8, 4, 3, None)
    assert newer.geometry(MODEL, F32) == CacheGeometry(8, 4, 3)
    with pytest.raises(TypeError, match="exactly one"):
        PagedKVCacheConfig()
    with pytest.raises(TypeError, match="exactly one"):
        PagedKVCacheConfig(1 << 20, num_blocks=8)


@pytest.mark.parametrize(("dtype", "itemsize"), [(F32, 4), (BF16, 2)])
def test_blocks_from_bytes(dtype, itemsize):
    block = (16 + 16) * 2 * 8 * 3 * itemsize
    assert PagedKVCacheConfig(5 * block + block - 1, 8).geometry(MODEL, dtype) == CacheGeometry(5, 8, None)
    with pytest.raises(ValueError, match=rf"{block} bytes, the smallest sufficient budget"):
        PagedKVCacheConfig(block - 1, 8).geometry(MODEL, dtype)
    assert PagedKVCacheConfig(block, 8).geometry(MODEL, dtype).num_blocks == 1


def test_accessors_read_and_call():
    static, paged = StaticKVCacheConfig(3, 7), PagedKVCacheConfig(4096, 8)
    assert static.max_batch_size == static.max_batch_size() == 3
    assert static.max_cache_len == static.max_cache_len() == 7
    assert paged.max_kv_memory_bytes == paged.max_kv_memory_bytes() == 4096
    assert paged.block_size == paged.block_size() == 8
    assert isinstance(paged.block_size, int) and type(paged.block_size()) is int


@pytest.mark.parametrize(
    "config", [StaticKVCacheConfig(3, 7), PagedKVCacheConfig(4096), PagedKVCacheConfig(num_blocks=4)]
)
def test_copies_are_equal_and_independent(config):
    for twin in (config.unique_copy(), copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config and twin is not config and hash(twin) == hash(config) and type(twin) is type(config)
    assert config != StaticKVCacheConfig(9, 9)


def test_subclasses_must_provide_unique_copy():
    with pytest.raises(TypeError, match="unique_copy"):
        type("Half", (CacheConfig,), {"geometry": lambda self, model, dtype: None})


@pytest.mark.parametrize("config", [StaticKVCacheConfig(), PagedKVCacheConfig(4096)])
def test_configurations_are_immutable(config):
    with pytest.raises(AttributeError, match="immutable"):
        config.block_size = 3
    with pytest.raises(AttributeError, match="immutable"):
        del config.max_batch_size
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = config.nonsense


@pytest.mark.parametrize("wrong", ["1", 1.5, None, True])
def test_wrong_types_are_type_errors(wrong):
    with pytest.raises(TypeError):
        StaticKVCacheConfig(wrong)
    with pytest.raises(TypeError):
        StaticKVCacheConfig(1, wrong)
    with pytest.raises(TypeError):
        PagedKVCacheConfig(wrong)
    with pytest.raises(TypeError):
        PagedKVCacheConfig(4096, wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StaticKVCacheConfig(-1),
        lambda: StaticKVCacheConfig(0),
        lambda: StaticKVCacheConfig(1, -1),
        lambda: StaticKVCacheConfig(1, 2**64),
        lambda: PagedKVCacheConfig(-1),
        lambda: PagedKVCacheConfig(0),
        lambda: PagedKVCacheConfig(4096, 0),
        lambda: PagedKVCacheConfig(num_blocks=0),
        lambda: PagedKVCacheConfig(num_blocks=1, max_batch_size=0),
    ],
)
def test_illegal_values_are_value_errors(make):
    with pytest.raises(ValueError):
        make()


def test_factory():
    assert create_cache_config("static") == StaticKVCacheConfig(1, 4096)
    assert create_cache_config("static", batch_size=16, cache_len=2048) == StaticKVCacheConfig(16, 2048)
    assert create_cache_config("paged", memory_bytes=8192) == PagedKVCacheConfig(8192, 16)
    assert create_cache_config("paged", memory_bytes=8192, block_size=4) == PagedKVCacheConfig(8192, 4)
    with pytest.raises(KeyError, match="memory_bytes"):
        create_cache_config("paged")
    with pytest.raises(ValueError, match=r"^Unknown mode: ring$"):
        create_cache_config("ring")
    with pytest.raises(TypeError, match="blocksize"):
        create_cache_config("paged", memory_bytes=8192, blocksize=4)


class HalvesConfig(CacheConfig):
    """A new kind of configuration, in two blocks per sequence."""

    __slots__ = ()

    def __init__(self, sequences):
        self._set(sequences=sequences)

    def unique_copy(self):
        return HalvesConfig(self.sequences)

    def geometry(self, model, dtype):
        return CacheGeometry(2 * self.sequences, model.max_position_embeddings // 2, self.sequences)


def test_a_new_configuration_is_a_subclass_and_a_registration():
    register_cache_mode("halves", lambda options: HalvesConfig(options["sequences"]))
    config = create_cache_config("halves", sequences=2)
    cache = BlockCache(config, MODEL, F32, "cpu")
    cache.sequences.add("a")
    assert cache.sequences.append("a", 60).tolist()[-1] == 59
    assert cache.pool.layer(2)[0].shape == (4, 2, 50, 16)
