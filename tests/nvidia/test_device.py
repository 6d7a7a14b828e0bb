"""On a real NVIDIA device: samples, torch's current stream, array interfaces without torch, pycuda."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import infiniop
from infiniop import errors, ops, runtime
from infiniop._library import ffi, lib
from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.device import Device
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


def torch_with_cuda() -> Any:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:  # a folder of that name is no torch
        pytest.skip("needs torch")
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a torch with CUDA")
    return torch


def test_torch_tensors_run_on_torchs_current_stream() -> None:
    torch = torch_with_cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        a = torch.randn(1 << 20, device="cuda")
        for _ in range(20):  # the sum must wait for these
            a = a * 1.0
        c = ops.add(a, a)
        assert torch.equal(c, a + a)


def test_torch_captures_our_calls() -> None:
    """A graph of torch's: new outputs, and an operator that needs a workspace."""
    torch = torch_with_cuda()
    a, b = (torch.randn(256, 256, device="cuda") for _ in range(2))
    ops.gemm(a, b)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        c = ops.gemm(ops.add(a, a), b)
    a.copy_(torch.randn(256, 256, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.allclose(c.double(), 2 * a.double() @ b.double(), rtol=1e-4, atol=1e-4)


def test_torch_takes_our_tensors() -> None:
    torch = torch_with_cuda()
    ours = ops.add(*(infiniop.asarray(np.arange(1 << 16, dtype=np.float32), device="nvidia") for _ in range(2)))
    theirs = torch.from_dlpack(ours)
    assert theirs.is_cuda and theirs.data_ptr() == ours.data_ptr
    assert theirs.sum().item() == 2 * sum(range(1 << 16))
    theirs += 1
    torch.cuda.synchronize()
    assert ours.to("cpu").numpy()[0] == 1


def test_cupy_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        a = cupy.arange(1 << 16, dtype=cupy.float32)
        c = cupy.empty_like(a)
        ops.add(a, a, out=c, stream=stream.ptr)
        assert (c == 2 * a).all()
    assert (cupy.asarray(ops.add(a, a)) == 2 * a).all()


def test_collectives_of_one_rank() -> None:
    """NCCL is found, and a sum over one rank is what it was given."""
    comms, code = ffi.new("infinicclComm_t[1]"), Device("nvidia").code
    status = lib.infinicclCommInitAll(code, comms, 1, ffi.new("int[]", [0]))
    if status == lib.INFINI_STATUS_DEVICE_NOT_INITIALIZED:
        pytest.skip("needs NCCL")
    errors.check(status)
    x, y = infiniop.asarray(np.arange(9, dtype=np.float32), device="nvidia"), infiniop.zeros(9, device="nvidia")
    pointers = [ffi.cast("void *", t.data_ptr) for t in (x, y)]
    errors.check(lib.infinicclAllReduce(*pointers, 9, lib.INFINI_DTYPE_F32, lib.INFINICCL_SUM, comms[0], ffi.NULL))
    assert np.array_equal(y.to("cpu").numpy(), np.arange(9))
    errors.check(lib.infinicclCommDestroy(comms[0]))


def test_cublaslt_is_found() -> None:
    """Without it products are our own kernels', which are right and slower; the log has a line."""
    program = "import infiniop, numpy as np; a = infiniop.zeros((64, 64), device='nvidia'); infiniop.ops.gemm(a, a)"
    environment = {**os.environ, "INFINIOP_LOG_LEVEL": "info"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "without cuBLASLt" not in done.stderr, done.stderr


def test_cuda_arrays_without_torch() -> None:
    """Anything with __cuda_array_interface__ comes in as it lies."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    there = infiniop.asarray(array, device="nvidia")

    class Lent:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": (3, 4), "typestr": "<f4", "data": (there.data_ptr, False), "version": 3, "strides": None,
        }  # fmt: skip

    assert np.array_equal(ops.add(Lent(), Lent()).to("cpu").numpy(), array + array)


@pytest.mark.parametrize("primary", [True, False])
def test_pycuda_arrays_in_pycudas_context_and_stream(primary: bool) -> None:
    driver = pytest.importorskip("pycuda.driver")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    driver.init()
    context = driver.Device(0).retain_primary_context() if primary else driver.Device(0).make_context()
    if primary:
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
