"""Attention over drawn lengths, blocks, heads and strides; what must not change its results; what it must not read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import infiniop
from infiniop import ops
from infiniop.conformance import runner
from infiniop.operators import all_operators, paged_attention, paged_attention_prefill
from infiniop.schema import BF16, F32, FLOATS, I32, I64, U32, Sample
from infiniop.schema.samples import uniform

RELAXED = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
# Tiles of 64 keys, pieces of at least 256, vectors of 4, 8, 16 or 32 elements: lengths on and beside their ends.
LENGTHS = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65, 128, 129, 255, 256, 257, 511, 640, 1100]))
FACTORS = st.sampled_from([1, 8, 100])
HEAD_SIZES = st.sampled_from([1, 7, 16, 31, 32, 33, 48, 64, 80, 128, 192])


@st.composite
def layouts(draw: st.DrawFn) -> dict:
    kv_heads = draw(st.integers(1, 3))
    return {
        "nh": kv_heads * draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 120])),
        "nkvh": kv_heads,
        "d": draw(HEAD_SIZES),
        "dv": draw(st.one_of(st.none(), HEAD_SIZES)),
        "block_size": draw(st.sampled_from([1, 3, 16, 32, 100, 256])),
        "index": draw(st.sampled_from([I64, I32, U32])),
        "slopes": draw(st.booleans()),
        "gap": draw(st.integers(0, 3)),
        "head_major": draw(st.booleans()),
    }


def enlarge(values: np.ndarray, dtype, factor: float) -> None:
    """Of larger values little is left where they cancel out: the weights must be more exact than a half dtype. In f32
    itself sums of such terms are no better than the tolerance."""
    if dtype != F32:
        values[...] = (values.astype(np.float32) * factor).astype(values.dtype)


def agrees(name: str, tensors: dict, attrs: dict) -> None:
    assert not runner.run_sample(all_operators()[name], Sample("drawn", tensors, attrs), "cpu")


@RELAXED
@given(st.data(), st.sampled_from(FLOATS), layouts(), st.integers(0, 2**32 - 1))
def test_decode(data, dtype, layout, seed) -> None:
    lengths = data.draw(st.lists(LENGTHS, min_size=1, max_size=3))
    tensors = paged_attention._arguments(np.random.default_rng(seed), dtype, lengths, **layout)
    enlarge(tensors["v_cache"], dtype, data.draw(FACTORS))
    agrees("paged_attention", tensors, {"scale": data.draw(st.sampled_from([0.1, -0.2, 1.0]))})


@RELAXED
@given(st.data(), st.sampled_from(FLOATS), layouts(), st.integers(0, 2**32 - 1))
def test_prefill(data, dtype, layout, seed) -> None:
    new = data.draw(st.lists(st.one_of(st.integers(0, 9), st.sampled_from([64, 65, 130])), min_size=1, max_size=3))
    lengths = [n + data.draw(st.one_of(st.just(0), LENGTHS)) for n in new]
    tensors = paged_attention_prefill._arguments(np.random.default_rng(seed), dtype, new, lengths, **layout)
    enlarge(tensors["v_cache"], dtype, data.draw(FACTORS))
    agrees("paged_attention_prefill", tensors, {"scale": data.draw(st.sampled_from([0.1, -0.2, 1.0]))})


@RELAXED
@given(st.data(), st.sampled_from(FLOATS), st.integers(0, 2**32 - 1))
def test_dense(data, dtype, seed) -> None:
    draw, rng = data.draw, np.random.default_rng(seed)
    sequences, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 9))
    tokens, keys, d = draw(st.sampled_from([1, 2, 9, 70])), draw(LENGTHS), draw(HEAD_SIZES)

    def tensor(heads: int, rows: int) -> np.ndarray:
        extents = (sequences, heads, rows, d)
        strides, step = [0] * 4, 1
        for axis in draw(st.permutations(range(4))):
            strides[axis] = step
            step *= max(extents[axis], 1) + draw(st.integers(0, 2))
        return uniform(rng, extents, dtype, strides=tuple(strides))

    tensors = {
        "out": tensor(kv_heads * group, tokens),
        "q": tensor(kv_heads * group, tokens),
        "k": tensor(kv_heads, keys),
        "v": tensor(kv_heads, keys),
        "total_kv_len": rng.integers(0, keys + 1, sequences),
    }
    enlarge(tensors["v"], dtype, draw(FACTORS))
    agrees("flash_attention", tensors, {"scale": 0.3, "is_causal": draw(st.integers(0, 1))})


def decode(dtype, length: int, block_size: int, unused: float, heads: int = 8, kv_heads: int = 2) -> np.ndarray:
    """One sequence whose keys and values depend on nothing but their position; `unused` fills the rest of the cache."""
    rng = np.random.default_rng(3)
    q, keys, values = (
        rng.standard_normal((n, m, 64)).astype(dtype.numpy)
        for n, m in ((1, heads), (kv_heads, length), (kv_heads, length))
    )
    blocks = -(-length // block_size)
    caches = [np.full((blocks + 1, kv_heads, block_size, 64), unused, dtype.numpy) for _ in range(2)]
    table = np.arange(blocks)[::-1].reshape(1, -1)
    for cache, rows in zip(caches, (keys, values), strict=True):
        for t in range(length):
            cache[table[0, t // block_size], :, t % block_size] = rows[:, t]
    given = [infiniop.from_numpy(np.ascontiguousarray(a)) for a in (q, *caches, table, np.array([length]))]
    return ops.paged_attention(*given, scale=0.125).numpy()


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_the_block_size_changes_nothing(dtype) -> None:
    expected = decode(dtype, 777, 16, 0.0).tobytes()
    for block_size in (1, 32, 256, 1000):
        assert decode(dtype, 777, block_size, 0.0).tobytes() == expected


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("heads", [2, 8, 32])
def test_unused_rows_are_not_read(dtype, heads) -> None:
    for length in (1, 5, 63, 65, 301):
        expected = decode(dtype, length, 256, 0.0, heads).tobytes()
        assert decode(dtype, length, 256, np.nan, heads).tobytes() == expected


def digest() -> str:
    """Of decode and prefill steps that are split over threads."""
    found = hashlib.sha256()
    for heads in (2, 8, 32):
        found.update(decode(BF16, 1500, 16, 0.0, heads).tobytes())
    found.update(decode(BF16, 6000, 16, 0.0, 16, kv_heads=8).tobytes())  # several heads of the same keys in a task
    rng = np.random.default_rng(5)
    for dtype in FLOATS:
        shapes = ((1, 8, 150, 64), (1, 2, 300, 64), (1, 2, 300, 64))
        q, k, v = (infiniop.from_numpy(rng.standard_normal(s).astype(dtype.numpy)) for s in shapes)
        lengths = infiniop.from_numpy(np.array([290]))
        found.update(ops.flash_attention(q, k, v, lengths, scale=0.1, is_causal=1).numpy().tobytes())
    return found.hexdigest()


def test_the_number_of_threads_changes_nothing() -> None:
    expected = digest()
    for threads in ("1", "2", "5", "16"):
        printed = subprocess.run(
            [sys.executable, __file__], env={**os.environ, "INFINIOP_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert printed.strip() == expected


if __name__ == "__main__":
    print(digest())
