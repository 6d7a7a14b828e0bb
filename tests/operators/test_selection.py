"""Rows as long as a vocabulary: topk, random_sample and sample on the CPU backend against the reference.

They pass over most of a row by the largest value of each group of elements; ties, order, infinities and NaN decide
what they may pass over.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.schema import Sample, dtype

LENGTHS = st.sampled_from([1, 63, 255, 257, 1025, 4096, 4097, 8200, 33000, 70001])
DTYPES = st.sampled_from(["F32", "F16", "BF16"])


@st.composite
def rows(draw: st.DrawFn, count: int, nan: bool) -> np.ndarray:
    """[count, n]: values drawn, in few steps, equal, sorted, peaked or mostly forbidden."""
    n, kind = draw(LENGTHS), draw(st.sampled_from(["normal", "steps", "equal", "up", "down", "peak", "forbidden"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(0, 3, (count, n))
    if kind == "steps":
        x = np.rint(x)
    elif kind == "equal":
        x[...] = draw(st.sampled_from([0.0, -1.5]))
    elif kind in ("up", "down"):
        x.sort(axis=1)
        x = x if kind == "up" else x[:, ::-1].copy()
    elif kind == "peak":
        x[:, : min(n, 300)] += 20
    elif kind == "forbidden":
        x[:, : -max(n // 50, 1)] = -np.inf
    if nan:
        places = rng.integers(0, n, draw(st.integers(0, 4)))
        x[:, places] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return x.astype(dtype(draw(DTYPES)).numpy)


def check(name: str, sample: Sample) -> None:
    assert not runner.run_sample(all_operators()[name], sample, "cpu")


@settings(deadline=None, max_examples=60)
@given(x=rows(2, nan=True), k=st.integers(1, 300), largest=st.booleans(), column=st.booleans())
def test_topk(x: np.ndarray, k: int, largest: bool, column: bool) -> None:
    k = min(k, x.shape[1])
    x = np.asfortranarray(x) if column else x
    shape = (len(x), k)
    tensors = {"values_output": np.zeros(shape, x.dtype), "indices_output": np.zeros(shape, np.int64), "input": x}
    check("topk", Sample("drawn", tensors, {"k": k, "dim": 1, "largest": largest, "sorted": True}))


@settings(deadline=None, max_examples=60)
@given(
    x=rows(1, nan=False),
    u=st.floats(0, 1, width=32),
    topp=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    topk=st.sampled_from([-1, 2, 50, 400, 2000]),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
)
def test_random_sample(x: np.ndarray, u: float, topp: float, topk: int, temperature: float) -> None:
    attrs = {"random_val": u, "topp": topp, "topk": topk, "temperature": temperature}
    check("random_sample", Sample("drawn", {"result": np.zeros((), np.int64), "probs": x[0]}, attrs))


@pytest.mark.parametrize("min_p", [0.0, 0.05])
@settings(deadline=None, max_examples=40)
@given(
    x=rows(3, nan=True),
    top_k=st.sampled_from([0, 1, 50, 400, 2000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    seed=st.integers(0, 2**32),
)
def test_sample(min_p: float, x: np.ndarray, top_k: int, top_p: float, temperature: float, seed: int) -> None:
    def column(value: float, kind: type) -> np.ndarray:
        return np.full(len(x), value, kind)

    tensors = {
        "tokens": np.zeros(len(x), np.int64), "logits": x, "temperature": column(temperature, np.float32),
        "top_k": column(top_k, np.int32), "top_p": column(top_p, np.float32), "min_p": column(min_p, np.float32),
        "seed": column(seed, np.int64), "position": np.arange(len(x), dtype=np.int64),
    }  # fmt: skip
    check("sample", Sample("drawn", tensors))
