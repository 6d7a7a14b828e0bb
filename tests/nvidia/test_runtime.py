"""The NVIDIA backend's runtime on the emulator: memory, streams, events, graphs, limits, checked mode, the engine."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulation import library
from hypothesis import given, settings
from hypothesis import strategies as st

import infiniop
from infiniop import errors, ops, runtime
from infiniop.conformance import call, runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.memory import address_of
from infiniop.operators import all_operators
from infiniop.streams import lane_of

HERE = Path(__file__).parent


def in_a_process(program: str, **environment: str) -> str:
    """What a program prints that starts with the emulator's library in INFINIOP_BACKEND_PATH."""
    variables = {**os.environ, "INFINIOP_BACKEND_PATH": str(library()), **environment}
    command = [sys.executable, "-c", program] if "\n" in program or " " in program else [sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_an_outgrown_workspace_lives_as_long_as_its_stream(nvidia: str) -> None:
    """A graph that another library captured may still use it."""
    stream, lane = infiniop.Stream(nvidia), lane_of(infiniop.Device(nvidia))
    for size in (1000, 10, 100_000):
        lane.workspace(stream.handle, size)
    kept = [weakref.ref(storage) for storage in lane.workspaces[address_of(stream.handle)]]
    assert [getattr(storage(), "nbytes", 0) for storage in kept] == [1 << 10, 1 << 17]
    del stream
    gc.collect()
    assert [storage() for storage in kept] == [None, None]


def test_memory_goes_there_and_back(nvidia: str) -> None:
    array = np.arange(1000, dtype=np.float32).reshape(10, 100)
    there = infiniop.asarray(array, device=nvidia)
    assert str(there.device) == f"{nvidia}:0"
    assert np.array_equal(there.to("cpu").numpy(), array)
    free, total = runtime.memory_info(nvidia)
    assert 0 < free <= total


def test_what_does_not_fit_says_what_was_free(nvidia: str) -> None:
    with pytest.raises(errors.InfiniopError, match=r"at most the \d+ bytes that are free on nvidia 0, got \d+ bytes"):
        infiniop.empty((1 << 40,), device=nvidia)


_KEPT = """
import infiniop
from infiniop._library import ffi, lib
from infiniop.device import Device
from infiniop.errors import check
device, room = Device("emulator"), ffi.new("void **")
check(lib.infinirtSetDevice(device.code, 0))
before = infiniop.runtime.memory_info("emulator")
check(lib.infinirtMallocAsync(room, 9 << 30, ffi.NULL))
check(lib.infinirtFreeAsync(room[0], ffi.NULL))
print(infiniop.runtime.memory_info("emulator") == before)
check(lib.infinirtMalloc(room, 9 << 30))
check(lib.infinirtFree(room[0]))
"""


def test_memory_that_the_pool_keeps_is_free() -> None:
    """It counts as free, and another way of allocating gets it."""
    assert in_a_process(_KEPT) == "True"


def test_streams_and_events(nvidia: str) -> None:
    stream, other = infiniop.Stream(nvidia), infiniop.Stream(nvidia)
    a, b = infiniop.asarray(np.ones(100, np.float32), device=nvidia), infiniop.zeros(100, device=nvidia)
    infiniop.synchronize(nvidia)  # the default stream made them
    start, end = infiniop.Event(nvidia), infiniop.Event(nvidia)
    start.record(stream)
    ops.add(a, a, out=b, stream=stream)
    end.record(stream)
    other.wait(end)
    end.synchronize()
    assert end.done() and start.elapsed_ms(end) >= 0
    assert (b.to("cpu").numpy() == 2).all()


def test_a_graph_replays_with_new_contents(nvidia: str) -> None:
    stream = infiniop.Stream(nvidia)
    x, y = infiniop.zeros((3, 64), device=nvidia), infiniop.zeros((3, 64), device=nvidia)
    with infiniop.capture(stream) as graph:
        ops.add(x, x, out=y)
        ops.mul(y, y, out=y)
    assert not y.to("cpu").numpy().any(), "a capture records"
    for value in (1.0, 3.0):
        x.copy_(np.full((3, 64), value, np.float32))
        graph.launch(stream)
        stream.synchronize()
        assert (y.to("cpu").numpy() == (2 * value) ** 2).all()


@pytest.mark.parametrize("name", list(all_operators()))
def test_every_operator_can_be_captured(nvidia: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator refuses allocations and waits during a capture, as CUDA does."""
    operator = all_operators()[name]
    if not subject(nvidia).has(name):
        pytest.skip(f"the NVIDIA backend has no {name}")
    launch = call.Descriptor.launch

    def captured(self: Any, memory: Any, attrs: Any, null: frozenset[str] = call.NOBODY, _: Any = None) -> None:
        stream = infiniop.Stream(self.subject.device)
        with infiniop.capture(stream) as graph:
            launch(self, memory, attrs, null, stream.handle)
        graph.launch(stream)
        stream.synchronize()

    monkeypatch.setattr(call.Descriptor, "launch", captured)
    small = [
        s for s in operator.samples(np.random.default_rng(3)) if runner.elements(s) < 5000 and not s.tags & {"large"}
    ]
    for sample in small[:: max(1, len(small) // 8)]:
        try:
            assert runner.run_sample(operator, sample, nvidia) == [], sample.name
        except Declined:
            continue


_LIMITED = """
import numpy as np, infiniop
from infiniop import errors, ops, runtime
x = infiniop.zeros((2, 8), device="emulator")
try:
    ops.add(x, x)
    print("ran")
except errors.InfiniopError as error:
    print(error.status.name, error)
"""


def test_an_old_device_is_refused() -> None:
    said = in_a_process(_LIMITED, INFINIOP_EMULATOR_ARCHITECTURE="75")
    assert said.startswith("DEVICE_ARCHITECTURE_NOT_SUPPORTED")
    assert "compute capability 8.0 or newer, got nvidia 0 of 7.5" in said


@pytest.mark.parametrize(("threads", "answer"), [("256", "DEVICE_ARCHITECTURE_NOT_SUPPORTED"), ("512", "ran")])
def test_a_device_of_few_threads(threads: str, answer: str) -> None:
    assert in_a_process(_LIMITED, INFINIOP_EMULATOR_THREADS=threads).startswith(answer)


@pytest.mark.parametrize(
    ("driver", "reason"), [("0", "no device: there is no driver"), ("12080", "no device: the driver is for CUDA 12.8")]
)
def test_without_a_device(driver: str, reason: str) -> None:
    said = in_a_process(
        "import infiniop.registry, infiniop.runtime; print(infiniop.runtime.device_count('emulator'));"
        "print(next(b.version for b in infiniop.registry.backends() if b.name == 'emulator'))",
        INFINIOP_EMULATOR_DEVICES="0", INFINIOP_EMULATOR_DRIVER=driver,
    )  # fmt: skip
    assert said.startswith("0\n") and reason in said


def test_a_driver_that_fails_is_in_nobodys_way() -> None:
    said = in_a_process(
        "import numpy as np\nfrom infiniop import ops, runtime\nfrom infiniop._library import ffi, lib\n"
        "print(runtime.device_count('emulator'), lib.infinirtGetAllDeviceCount(ffi.new('int[64]')))\n"
        "print(ops.add(np.ones(2, np.float32), np.ones(2, np.float32)))",
        INFINIOP_EMULATOR_DEVICES="-1",
    )
    assert said == "0 0\n[2. 2.]"


def test_calls_go_to_the_device_of_their_tensors() -> None:
    """Two devices, the other one current: the kernel's device is made current and the caller's restored."""
    said = in_a_process(
        "import numpy as np, infiniop\nfrom infiniop import ops\n"
        "a = infiniop.asarray(np.ones(8, np.float32), device='emulator:1')\n"
        "b = ops.add(a, a)\nprint(b.device, b.to('cpu').numpy().sum())\n",
        INFINIOP_EMULATOR_DEVICES="2",
    )
    assert said == "emulator:1 16.0"


def test_checked_mode_refuses_what_the_cpu_refuses() -> None:
    found = json.loads(in_a_process(str(HERE / "checked.py"), INFINIOP_CHECKED="1"))
    assert found["wrong"] == []
    assert found["accepting"] == []


shapes = st.integers(1, 40)


@settings(max_examples=25, deadline=None)
@given(
    ntok=st.integers(0, 40), heads=st.integers(1, 5), widths=st.tuples(shapes, shapes), block=st.integers(1, 9),
    gaps=st.tuples(*[st.integers(0, 9)] * 4), dtype=st.sampled_from(["float16", "float32"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_paged_caching_with_any_strides(
    nvidia: str, ntok: int, heads: int, widths: tuple[int, int], block: int, gaps: tuple[int, ...], dtype: str,
    seed: int,
) -> None:  # fmt: skip
    """Units from 2 to 16 bytes, several tokens in a block or several rounds per token: launch plans for all of them."""
    rng = np.random.default_rng(seed)
    nblocks = ntok // block + 2

    def strided(shape: tuple[int, ...], gap: int) -> np.ndarray:
        memory = rng.standard_normal((*shape[:-1], shape[-1] + gap)).astype(dtype)
        return memory[..., : shape[-1]]

    caches = [strided((nblocks, heads, block, w), g) for w, g in zip(widths, gaps[:2], strict=True)]
    sources = [strided((ntok, heads, w), g) for w, g in zip(widths, gaps[2:], strict=True)]
    slots = rng.permutation(nblocks * block)[:ntok].astype(np.int64)
    slots[rng.random(ntok) < 0.2] = -1
    expected = [cache.copy() for cache in caches]
    all_operators()["paged_caching"].reference(*expected, *sources, slots)
    arguments = [infiniop.asarray(a, device=nvidia) for a in (*caches, *sources, slots)]
    ops.paged_caching(*arguments)
    for tensor, want in zip(arguments, expected, strict=False):
        assert np.array_equal(tensor.to("cpu").numpy(), want)
