"""Values inside tensors that lead nowhere: what they concern is skipped on the device, the rest is as it should be."""

from __future__ import annotations

import numpy as np

import infiniop
from infiniop import ops

FAR = 2**40


def there(array: np.ndarray) -> infiniop.Tensor:
    return infiniop.asarray(array).to("opencl")


def here(tensor: infiniop.Tensor) -> np.ndarray:
    return tensor.to("cpu").numpy()


def test_slots_beyond_the_cache():
    caches = [there(np.zeros((2, 1, 4, 8), np.float32)) for _ in range(2)]
    new = there(np.arange(24, dtype=np.float32).reshape(3, 1, 8) + 1)
    ops.paged_caching(*caches, new, new, there(np.array([FAR, 5, -1])))
    for cache in map(here, caches):
        np.testing.assert_array_equal(cache[1, 0, 1], np.arange(8) + 9)
        assert np.count_nonzero(cache) == 8


def test_lengths_without_room():
    caches = [there(np.zeros((3, 1, 4, 8), np.float32)) for _ in range(2)]
    new = there(np.ones((3, 1, 2, 8), np.float32))
    ops.kv_caching(*caches, new, new, there(np.array([-5, 3, 1])))
    for cache in map(here, caches):
        assert cache.any(axis=-1)[:, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]


def test_positions_outside_the_tables():
    x = np.ones((3, 1, 4), np.float32)
    table = there(np.zeros((5, 2), np.float32))
    y = there(x)
    ops.rope(there(x), there(np.array([4, 5, -1])), table, table, out=y)
    assert here(y)[:, 0, 0].tolist() == [0, 1, 1]


def test_ids_and_offsets_outside():
    weight = there(np.arange(12, dtype=np.float32).reshape(3, 4))
    rows = there(np.full((4, 4), -1, np.float32))
    ops.embedding(there(np.array([2, 3, -1, FAR])), weight, out=rows)
    assert here(rows)[:, 0].tolist() == [8, -1, -1, -1]
    last = there(np.full((1, 3, 4), -1, np.float32))
    offsets = there(np.array([0, 0, 3, 9], np.int32))
    ops.select_last_token_hidden(infiniop.Tensor.reshape(weight, (1, 3, 4)), offsets, out=last)
    assert here(last)[0, :, 0].tolist() == [-1, 8, -1]


def test_tables_that_name_no_block():
    cache = there(np.ones((2, 1, 4, 8), np.float32))
    q = there(np.ones((4, 1, 8), np.float32))
    tables = there(np.array([[0, 1], [0, FAR], [0, -1], [0, 1]]))
    lengths = there(np.array([7, 7, 7, 9]))
    out = there(np.full((4, 1, 8), -1, np.float32))
    ops.paged_attention(q, cache, cache, tables, lengths, scale=1.0, out=out)
    np.testing.assert_allclose(here(out)[:, 0, 0], [1, -1, -1, -1], rtol=1e-5)
    out = there(np.full((4, 1, 8), -1, np.float32))
    starts = there(np.arange(5))
    ops.paged_attention_prefill(q, cache, cache, tables, lengths, starts, scale=1.0, out=out)
    np.testing.assert_allclose(here(out)[:, 0, 0], [1, -1, -1, -1], rtol=1e-5)
    for wrong in ([0, 1, 3, 2, 4], [-1, 1, 2, 3, 4], [0, 1, 2, 3, 5]):
        out = there(np.full((4, 1, 8), -1, np.float32))
        ops.paged_attention_prefill(q, cache, cache, tables, lengths, there(np.array(wrong)), scale=1.0, out=out)
        assert (here(out) == -1).all()


def test_keys_that_are_not_there():
    ones = there(np.ones((3, 1, 4, 8), np.float32))
    out = there(np.full((3, 1, 4, 8), -1, np.float32))
    ops.flash_attention(ones, ones, ones, there(np.array([4, 5, -1])), scale=1.0, is_causal=0, out=out)
    np.testing.assert_allclose(here(out)[:, 0, 0, 0], [1, -1, -1], rtol=1e-5)


def test_parameters_of_sampling():
    def column(*values, dtype=np.float32):
        return there(np.array(values, dtype))

    logits = there(np.tile(np.array([0, 3, 1], np.float32), (4, 1)))
    tokens = ops.sample(
        logits, column(0, -1, 1, 1), column(0, 0, 0, 0, dtype=np.int32), column(1, 1, 0, 1),
        column(0, 0, 0, 2), column(1, 1, 1, 1, dtype=np.int64), column(0, 0, 0, 0, dtype=np.int64),
    )  # fmt: skip
    assert here(tokens).tolist() == [1, -1, -1, -1]


def test_a_packed_weight_of_another_backend():
    def packed(weight: infiniop.Tensor) -> infiniop.Tensor:
        return ops.linear_pack(weight, packed_bytes=ops.linear_packed_size(weight).item())

    foreign = packed(infiniop.asarray(np.ones((4, 8), np.float32)))
    own = packed(there(np.ones((4, 8), np.float32)))
    x, y = there(np.ones((1, 8), np.float32)), there(np.full((1, 4), -1, np.float32))
    assert here(ops.linear(x, own, out=y)).tolist() == [[8] * 4]
    y = there(np.full((1, 4), -1, np.float32))
    assert here(ops.linear(x, foreign.to("opencl"), out=y)).tolist() == [[-1] * 4]
