"""int8 and int4 weights: any extents, groups and strides; results do not depend on threads or on neighbouring rows."""

from __future__ import annotations

import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from infiniop import ops
from infiniop.conformance import runner
from infiniop.conformance.call import run
from infiniop.conformance.memory import Arguments
from infiniop.conformance.subject import subject
from infiniop.operators import linear, linear_pack
from infiniop.schema import F16, F32, FLOATS, I8, U8, Sample
from infiniop.schema.samples import Call, uniform


@st.composite
def weights(draw: st.DrawFn) -> linear_pack.Weight:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([0, 1, 2, 5, 8, 12, 32, 40, 64, 128, 136, 200]))
    n, k = draw(st.integers(1, 70)), draw(st.integers(1, 300)) if size == 0 else size * draw(st.integers(1, 4))
    format, gap = draw(st.sampled_from([1, 2])), draw(st.integers(0, 3))
    if draw(st.booleans()):
        floats = uniform(rng, (n, k), draw(st.sampled_from(FLOATS)), strides=(k + gap, 1))
        return linear_pack.Weight(floats, format=format, group_size=size)
    kind, scales = draw(st.sampled_from([I8, U8])), draw(st.sampled_from(FLOATS))
    zeros = draw(st.sampled_from([None, I8, U8]))
    return linear_pack.integers(rng, n, k, size, format, kind, scales, zeros, gap)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    weight=weights(), m=st.integers(1, 40), dtype=st.sampled_from(FLOATS), bits=st.sampled_from([8, 16]),
    bias=st.booleans(), gap=st.integers(0, 3), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_weight(weight, m, dtype, bits, bias, gap, seed) -> None:
    rng = np.random.default_rng(seed)
    n, k = weight.weight.shape

    def prepare(call: Call):
        return {"weight": linear_pack.packed_by(call, weight)}

    tensors = {
        "y": uniform(rng, (m, n), dtype, strides=(n + gap, 1)),
        "x": uniform(rng, (m, k), dtype, strides=(k + gap, 1)),
        "weight": linear_pack.packed_by_reference(weight),
        "bias": uniform(rng, (n,), dtype) if bias else None,
    }
    sample = Sample("drawn", tensors, {"activation_bits": bits}, prepare=prepare)
    assert runner.run_sample(linear.linear, sample, "cpu") == []


def _packed(n: int, k: int, format: int) -> np.ndarray:
    weight = linear_pack.integers(np.random.default_rng(4), n, k, 32, format, U8, F16, U8).tensors
    size = int(ops.linear_packed_size(**weight, format=format, group_size=32))
    return np.asarray(ops.linear_pack(**weight, format=format, group_size=32, out=np.zeros(size, np.uint8)))


def test_a_row_gives_the_same_in_any_batch() -> None:
    """Of many rows, and of a weight's panels, parts are multiplied in turns."""
    x = uniform(np.random.default_rng(5), (530, 1024), F32)
    for format in (1, 2):
        packed = _packed(75, 1024, format)
        for bits in (16, 8):
            want = ops.linear(x, packed, out=np.zeros((530, 75), np.float32), activation_bits=bits)
            for rows in (slice(0, 1), slice(7, 12), slice(500, 530)):
                out = np.zeros((rows.stop - rows.start, 75), np.float32)
                np.testing.assert_array_equal(ops.linear(x[rows], packed, out=out, activation_bits=bits), want[rows])


_PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_quantised_linear import F32, _packed, np, ops, uniform
x, digest = uniform(np.random.default_rng(5), (40, 1024), F32), hashlib.sha256()
for format in (1, 2):
    packed = _packed(700, 1024, format)
    for rows in (1, 3, 40):
        digest.update(ops.linear(x[:rows], packed, out=np.zeros((rows, 700), np.float32)).tobytes())
    digest.update(packed.tobytes())
print(digest.hexdigest())
"""


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    found = set()
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "INFINIOP_NUM_THREADS": threads}
        command = [sys.executable, "-c", _PROGRAM, os.path.dirname(__file__)]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_size_needs_descriptions_only(backend: str) -> None:
    """As a C program may ask for it: no pointers but that of the answer."""
    rng, operator = np.random.default_rng(5), linear_pack.linear_packed_size
    for weight in (
        linear_pack.integers(rng, 6, 64, 32, 2, U8, F32, U8),
        linear_pack.Weight(uniform(rng, (6, 64), F16)),
    ):
        sizes = []
        for null in (set(), {"weight", "scales", "zeros"}):
            tensors = {"size": np.zeros((), np.int64), **weight.tensors}
            arguments = Arguments(operator, tensors)
            assert run(operator, subject(backend), arguments, weight.attrs, {"run": frozenset(null)}) == []
            sizes.append(int(arguments.blocks["size"].array))
        assert sizes[0] == sizes[1] >= weight.least_bytes
