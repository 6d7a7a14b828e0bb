"""Blocked matrix products: shapes cut in every way, any layout, the same bits from any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.operators.gemm import _matrix
from infiniop.operators.linear import _arguments, _packed_sample
from infiniop.operators.linear_pack import Weight
from infiniop.schema import BF16, F16, F32, DType, Sample

DTYPES = (F32, BF16, F16)
KINDS = ("row", "column", "padded", "padded-column")
CUTS = (
    (600, 40, 70),  # more than one part of rows
    (1100, 100, 65),  # the right operand is packed before
    (70, 700, 300),  # several strips of columns
    (40, 700, 300),  # the same, of scaled rows
    (17, 50, 20001),  # the depth is split
    (70, 80, 17000),
    (29, 31, 511),  # an odd number of terms
)


def check(name: str, sample: Sample) -> None:
    assert not runner.run_sample(all_operators()[name], sample, "cpu")


def product(
    dtype: DType, m: int, n: int, k: int, kinds: tuple[str, str, str], batch: int, beta: float, integers: bool = False
) -> Sample:
    rng = np.random.default_rng(m * n + k)
    front = (batch,) if batch else ()
    shapes = {"c": (*front, m, n), "a": (*front, m, k), "b": (*front, k, n)}
    tensors = {t: _matrix(rng, shape, dtype, kind) for (t, shape), kind in zip(shapes.items(), kinds, strict=True)}
    if integers:
        whole(tensors)
    return Sample("product", tensors, {"alpha": 0.5, "beta": beta})


def whole(tensors: dict) -> dict:
    """The same in small integers, whose sums are exact."""
    for array in tensors.values():
        array[...] = np.rint(2 * array.astype(np.float32)).astype(array.dtype)
    return tensors


def layer(dtype: DType, m: int, n: int, k: int, gap: int, packed: bool, integers: bool = False) -> Sample:
    tensors = _arguments(np.random.default_rng(m * n + k), dtype, m, n, k, gap=gap)
    if integers:
        whole(tensors)
    if packed:
        return _packed_sample("packed", tensors, Weight(tensors["weight"]))
    return Sample("plain", tensors, {"activation_bits": 16})


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.tuples(st.integers(17, 150), st.integers(17, 150), st.integers(1, 300)),
    kinds=st.tuples(*[st.sampled_from(KINDS)] * 3),
    batch=st.integers(0, 3),
    beta=st.sampled_from([0.0, 1.5]),
)
def test_gemm(dtype, sizes, kinds, batch, beta) -> None:
    check("gemm", product(dtype, *sizes, kinds, batch, beta))


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.tuples(st.integers(1, 70), st.integers(256, 700), st.integers(1, 100)),
    kinds=st.tuples(*[st.sampled_from(KINDS)] * 3),
    batch=st.integers(0, 2),
    turned=st.booleans(),
)
def test_a_few_rows_or_columns(dtype, sizes, kinds, batch, turned) -> None:
    m, n, k = sizes
    check("gemm", product(dtype, *((n, m) if turned else (m, n)), k, kinds, batch, 1.5))


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.tuples(st.integers(17, 150), st.integers(1, 150), st.integers(1, 300)),
    gap=st.integers(0, 3),
    packed=st.booleans(),
)
def test_linear(dtype, sizes, gap, packed) -> None:
    check("linear", layer(dtype, *sizes, gap, packed))


@pytest.mark.parametrize("sizes", CUTS, ids=lambda sizes: "x".join(map(str, sizes)))
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_cuts(dtype, sizes) -> None:
    for kinds in (("row", "row", "row"), ("row", "row", "column"), ("column", "padded-column", "padded")):
        check("gemm", product(dtype, *sizes, kinds, 0, 1.0, integers=True))
    for packed in (False, True):
        check("linear", layer(dtype, *sizes, 1, packed, integers=True))


DIGEST = """
import hashlib
import numpy as np
from infiniop import ops
digest = hashlib.sha256()
rng = np.random.default_rng(1)
for m, k, n in ((600, 70, 40), (1100, 65, 100), (40, 300, 700), (70, 300, 700), (17, 20001, 50), (5, 33, 3000)):
    for dtype in (np.float32, np.float16):
        a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
        digest.update(ops.gemm(a, b).tobytes())
        digest.update(ops.linear(a, np.ascontiguousarray(b.T)).tobytes())
print(digest.hexdigest())
"""


def test_same_bits_from_any_number_of_threads() -> None:
    def digest(threads: int) -> str:
        env = {**os.environ, "INFINIOP_NUM_THREADS": str(threads)}
        done = subprocess.run([sys.executable, "-c", DIGEST], env=env, capture_output=True, text=True, check=True)
        return done.stdout

    assert digest(1) == digest(3) == digest(64)
