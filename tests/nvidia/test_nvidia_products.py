"""Products of the NVIDIA backend: through a stand-in for cuBLASLt, packed weights that the fast kernels cannot take,
and buffers that are no packed weight."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import infiniop
from infiniop import ops
from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.operators._packed import INT4, INT8
from infiniop.operators.linear import _arguments, _packed_sample
from infiniop.operators.linear_pack import Weight, integers
from infiniop.schema import BF16, F16, F32, FLOATS, I8, U8, DType

_WITH_CUBLASLT = """
import sys
import numpy as np
from infiniop import registry
from infiniop.conformance import runner
from infiniop.operators import all_operators
registry.load_backend(sys.argv[1])
for name in ("gemm", "linear"):
    operator = all_operators()[name]
    samples = operator.samples(np.random.default_rng(1))
    chosen = [s for s in samples if "large" not in s.tags and runner.elements(s) < 1 << 15]
    for sample in chosen[:: max(1, len(chosen) // 120)]:
        for failure in runner.run_sample(operator, sample, "emulator"):
            print(name, sample.name, failure)
"""


@pytest.mark.parametrize("least", [1, 16], ids=["any memory", "aligned memory only"])
def test_samples_through_cublaslt(emulator_library: Path, least: int) -> None:
    """Transposes, leading dimensions, batches, biases and alignments as cuBLASLt wants them; what it has no algorithm
    for is our own kernels'."""
    plugin = emulator_library
    environment = {
        **os.environ,
        "INFINIOP_CUBLASLT": str(plugin.with_name("libinfiniop_nvidia_emulated_cublaslt.so")),
        "INFINIOP_EMULATOR_CUBLASLT_ALIGNMENT": str(least),
    }
    command = [sys.executable, "-c", _WITH_CUBLASLT, str(plugin)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


@pytest.mark.full
def test_more_rows_than_a_grid_has(nvidia: str) -> None:
    """Blocks along y number 65,535 at most, of 32 rows each."""
    m = 65535 * 32 + 5
    a = np.arange(m, dtype=np.float32).reshape(m, 1) % 97
    out = ops.gemm(infiniop.asarray(a, device=nvidia), infiniop.asarray(np.array([[2, 3]], np.float32), device=nvidia))
    assert (out.to("cpu").numpy() == a * [2, 3]).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("format", [INT8, INT4])
@pytest.mark.parametrize("m", [3, 20])
def test_zeros_far_away(nvidia: str, dtype: DType, format: int, m: int) -> None:
    """Differences from zero that bf16 cannot hold."""
    rng = np.random.default_rng(m)
    weight = integers(rng, 40, 96, 32, format, U8, F16, I8)
    zeros = weight.zeros
    assert zeros is not None
    zeros[...] = rng.integers(-128, 0, zeros.shape) if format == INT8 else rng.integers(0, 128, zeros.shape)
    sample = _packed_sample("far", _arguments(rng, dtype, m, 40, 96), weight)
    failed = list(runner.run_sample(all_operators()["linear"], sample, nvidia))
    assert not failed, failed


@pytest.mark.parametrize("format", [INT8, INT4])
@pytest.mark.parametrize("m", [1, 9, 130])
def test_several_blocks_of_a_packed_weight(nvidia: str, format: int, m: int) -> None:
    rng = np.random.default_rng(m)
    weight = Weight(rng.uniform(-1, 1, (150, 320)).astype(np.float32), format=format, group_size=160)
    sample = _packed_sample("blocks", _arguments(rng, BF16, m, 150, 320), weight)
    failed = list(runner.run_sample(all_operators()["linear"], sample, nvidia))
    assert not failed, failed


@pytest.mark.parametrize("dtype", [BF16, F32], ids=lambda d: d.name)
@pytest.mark.parametrize("m", [2, 20])
def test_what_is_no_packed_weight_leaves_y(nvidia: str, dtype: DType, m: int) -> None:
    """On a device the header is data: the kernel reads it, and writes nothing."""
    x = infiniop.from_numpy(np.ones((m, 32), dtype.numpy)).to(nvidia)
    weight = infiniop.from_numpy(np.ones((16, 32), dtype.numpy)).to(nvidia)
    size = int(ops.linear_packed_size(weight).to("cpu").numpy())
    good = ops.linear_pack(weight, out=infiniop.empty((size,), dtype=infiniop.uint8, device=nvidia))
    for at in (0, 8, 12, 16, 24, 44):  # magic, version, format, n, k, layout
        packed = good.to("cpu").numpy().copy()
        packed[at] += 3
        y = infiniop.from_numpy(np.full((m, 16), 7, dtype.numpy)).to(nvidia)
        ops.linear(x, infiniop.from_numpy(packed).to(nvidia), None, out=y)
        assert (y.to("cpu").numpy() == 7).all(), at
    y = infiniop.from_numpy(np.full((m, 16), 7, dtype.numpy)).to(nvidia)
    ops.linear(x, good, None, out=y)
    assert (y.to("cpu").numpy() == 32).all()


def test_a_weight_that_cannot_be_packed_is_not(nvidia: str) -> None:
    weight = np.ones((16, 32), np.float32)
    weight[3, 5] = np.inf
    on_device = infiniop.from_numpy(weight).to(nvidia)
    size = int(ops.linear_packed_size(on_device, format=INT8).to("cpu").numpy())
    packed = infiniop.from_numpy(np.full(size, 9, np.uint8)).to(nvidia)
    ops.linear_pack(on_device, format=INT8, out=packed)
    assert (packed.to("cpu").numpy() == 9).all()
