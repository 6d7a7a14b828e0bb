"""On a real NVIDIA device: samples, torch's current stream, array interfaces without torch, pycuda."""

from __future__ import annotations

import numpy as np
import pytest

import infiniop
from infiniop import ops, runtime
from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    if runtime.device_count("nvidia") == 0:
        pytest.skip("needs an NVIDIA device")


@pytest.mark.parametrize("name", list(all_operators()))
def test_some_samples(name: str) -> None:
    operator = all_operators()[name]
    if not subject("nvidia").has(name):
        pytest.skip(f"the NVIDIA backend has no {name}")
    small = [
        s for s in operator.samples(np.random.default_rng(1)) if runner.elements(s) < 1 << 16 and "large" not in s.tags
    ]
    for sample in small[:: max(1, len(small) // 20)]:
        try:
            assert runner.run_sample(operator, sample, "nvidia") == [], sample.name
        except Declined:
            continue


def test_torch_tensors_run_on_torchs_current_stream() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a torch with CUDA")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        a = torch.randn(1 << 20, device="cuda")
        for _ in range(20):  # the sum must wait for these
            a = a * 1.0
        c = ops.add(a, a)
        assert torch.equal(c, a + a)


def test_cuda_arrays_without_torch() -> None:
    """Anything with __cuda_array_interface__ comes in as it lies."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    there = infiniop.asarray(array, device="nvidia")

    class Lent:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": (3, 4), "typestr": "<f4", "data": (there.data_ptr, False), "version": 3, "strides": None,
        }  # fmt: skip

    assert np.array_equal(ops.add(Lent(), Lent()).to("cpu").numpy(), array + array)


def test_pycuda_arrays_in_pycudas_context_and_stream() -> None:
    driver = pytest.importorskip("pycuda.driver")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    try:
        stream = driver.Stream()
        a = gpuarray.to_gpu_async(np.arange(1000, dtype=np.float32), stream=stream)
        c = gpuarray.empty_like(a)
        ops.add(a, a, out=c, stream=stream.handle)
        stream.synchronize()
        assert np.array_equal(c.get(), 2 * np.arange(1000, dtype=np.float32))
    finally:
        context.pop()
