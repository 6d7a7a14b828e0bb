"""What the samples of the attention operators do not reach on the NVIDIA backend: keys divided among blocks, tables
that go wrong in one share of them, a captured launch that serves other lengths, memory that is not aligned."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infiniop
from infiniop import ops
from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.schema import BF16, F16, F32, FLOATS, DType, Sample

decode: Any = importlib.import_module("infiniop.operators.paged_attention")
prefill: Any = importlib.import_module("infiniop.operators.paged_attention_prefill")
dense: Any = importlib.import_module("infiniop.operators.flash_attention")


def check(name: str, tensors: dict, attrs: dict, backend: str) -> None:
    failed = list(runner.run_sample(all_operators()[name], Sample("made", tensors, attrs), backend))
    assert not failed, failed


@given(
    lengths=st.lists(st.integers(0, 900), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (8, 1), (20, 1), (6, 2), (4, 4)]),
    sizes=st.sampled_from([(64, None), (128, None), (80, None), (40, 24), (36, None), (8, 264)]),
    block_size=st.integers(1, 70),
    dtype=st.sampled_from(FLOATS),
    slopes=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=12, deadline=None)
def test_decode_divides_the_keys(
    nvidia: str, lengths: list[int], heads: tuple[int, int], sizes: tuple[int, int | None], block_size: int,
    dtype: DType, slopes: bool, seed: int,
) -> None:  # fmt: skip
    (nh, nkvh), (d, dv) = heads, sizes
    rng = np.random.default_rng(seed)
    tensors = decode._arguments(rng, dtype, lengths, nh, nkvh, d, block_size, dv=dv, slopes=slopes)
    check("paged_attention", tensors, {"scale": d**-0.5}, nvidia)


@pytest.mark.parametrize("dtype", [BF16, F32], ids=lambda d: d.name)
def test_latent_heads_divide_the_keys(nvidia: str, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    tensors = decode._arguments(rng, dtype, [600, 1, 257], 16, 1, 576, 16, dv=512)
    check("paged_attention", tensors, {"scale": 576**-0.5}, nvidia)


@given(
    new=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    history=st.integers(0, 200),
    heads=st.sampled_from([(1, 1), (7, 1), (4, 2)]),
    d=st.sampled_from([64, 96, 128, 256]),
    dtype=st.sampled_from([F16, BF16]),
    slopes=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_prefill(
    nvidia: str, new: list[int], history: int, heads: tuple[int, int], d: int, dtype: DType, slopes: bool
) -> None:
    rng = np.random.default_rng(sum(new))
    lengths = [n + history * (i % 2) for i, n in enumerate(new)]
    tensors = prefill._arguments(rng, dtype, new, lengths, *heads, d, 16, slopes=slopes)
    check("paged_attention_prefill", tensors, {"scale": d**-0.5}, nvidia)


def test_dense_decode_divides_the_keys(nvidia: str) -> None:
    tensors = dense._arguments(np.random.default_rng(0), BF16, 2, 4, 2, 3, 64, 900, lengths=[900, 40])
    for causal in (0, 1):
        check("flash_attention", tensors, {"scale": 0.125, "is_causal": causal}, nvidia)


def on(device: str, array: np.ndarray | None) -> infiniop.Tensor | None:
    return None if array is None else infiniop.from_numpy(array).to(device)


@pytest.mark.parametrize("scale", [-0.125, 0.0])
def test_a_scale_that_does_not_keep_the_order_of_products(nvidia: str, scale: float) -> None:
    rng = np.random.default_rng(4)
    tensors = decode._arguments(rng, BF16, [300, 20], 4, 2, 64, 16)
    check("paged_attention", tensors, {"scale": scale}, nvidia)
    tensors = prefill._arguments(rng, BF16, [70, 40], [70, 90], 4, 2, 64, 16)
    check("paged_attention_prefill", tensors, {"scale": scale}, nvidia)


@pytest.mark.parametrize("dtype", [BF16, F32], ids=lambda d: d.name)
@pytest.mark.parametrize("entry", [0, 20, 39])
@pytest.mark.parametrize(("kind", "value"), [("i4", None), ("i4", -1), ("u4", None), ("i8", -1), ("i8", 1 << 32)])
def test_a_bad_entry_in_any_share_skips_the_sequence(
    nvidia: str, dtype: DType, entry: int, kind: str, value: int | None
) -> None:
    tensors = decode._arguments(np.random.default_rng(1), dtype, [640, 640], 2, 1, 64, 16)
    for name in ("block_tables", "seq_lens"):
        tensors[name] = tensors[name].astype(kind)
    tensors["block_tables"][1, entry] = len(tensors["k_cache"]) if value is None else value
    before = np.array(tensors["out"])
    q, k, v, tables, lengths = (
        on(nvidia, np.ascontiguousarray(tensors[n])) for n in ("q", "k_cache", "v_cache", "block_tables", "seq_lens")
    )
    out = on(nvidia, np.ascontiguousarray(before))
    assert out is not None
    ops.paged_attention(q, k, v, tables, lengths, None, scale=0.125, out=out)
    after = out.to("cpu").numpy()
    assert (after[1] == before[1]).all()
    assert (after[0] != before[0]).any()


@pytest.mark.parametrize("dtype", [BF16, F32], ids=lambda d: d.name)
def test_a_captured_launch_serves_other_lengths(nvidia: str, dtype: DType) -> None:
    tensors = decode._arguments(np.random.default_rng(2), dtype, [600, 600], 4, 2, 64, 16)
    q, k, v, tables = (
        on(nvidia, np.ascontiguousarray(tensors[n])) for n in ("q", "k_cache", "v_cache", "block_tables")
    )
    lengths = infiniop.from_numpy(np.array([600, 600])).to(nvidia)
    out = on(nvidia, np.zeros_like(np.ascontiguousarray(tensors["out"])))
    assert out is not None

    def call() -> None:
        ops.paged_attention(q, k, v, tables, lengths, None, scale=0.125, out=out)

    call()
    with infiniop.capture(device=nvidia) as graph:
        call()
    for now in ([600, 3], [1, 511]):
        lengths.copy_(infiniop.from_numpy(np.array(now)))
        graph.launch()
        replayed = out.to("cpu").numpy().copy()
        call()
        assert (replayed == out.to("cpu").numpy()).all()


def test_memory_off_by_one_element(nvidia: str) -> None:
    """Tensor cores read 16 bytes at a time: such queries are another kernel's."""
    rng = np.random.default_rng(3)
    tensors = decode._arguments(rng, BF16, [40], 2, 1, 64, 16)
    arrays = {n: np.ascontiguousarray(a) for n, a in tensors.items() if a is not None}
    flat = np.zeros(arrays["q"].size + 1, arrays["q"].dtype)
    flat[1:] = arrays["q"].ravel()
    odd = infiniop.from_numpy(flat).to(nvidia)[1:].reshape(arrays["q"].shape)
    caches = [on(nvidia, arrays[n]) for n in ("k_cache", "v_cache", "block_tables", "seq_lens")]
    got = ops.paged_attention(odd, *caches, None, scale=0.125).to("cpu").numpy()
    want = ops.paged_attention(on(nvidia, arrays["q"]), *caches, None, scale=0.125).to("cpu").numpy()
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), atol=8e-3)
