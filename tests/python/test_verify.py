"""Shadow mode from Python: what is wrong is found and kept, what is right is not blamed, in every way of calling."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infiniop
from infiniop import cli, errors, ops, verify
from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.tensor import extent


@pytest.fixture
def folder(tmp_path: Path):
    """Where calls are kept; nothing is verified afterwards."""
    yield tmp_path / "kept"
    verify.disable()


_numbers = itertools.count()


def wrong_backend(op: str, kernel) -> str:
    name = f"wrong{next(_numbers)}"
    infiniop.PythonBackend(name, explicit_only=True, kernels={op: kernel}).register()
    return name


def right_relu(y, x) -> None:
    np.maximum(x, 0, out=y)


def last_element_wrong(y, x) -> None:
    right_relu(y, x)
    if y.size:
        y[(-1,) * y.ndim] += 1


def first_element_unwritten(y, x) -> None:
    keep = y.flat[0].copy()
    right_relu(y, x)
    y.flat[0] = keep


def input_changed(y, x) -> None:
    right_relu(y, x)
    address = x.__array_interface__["data"][0]
    ops.add(ops_view(address), np.ones(1, np.float32), out=ops_view(address))


def ops_view(address: int) -> infiniop.Tensor:
    class Memory:
        __array_interface__ = {"shape": (1,), "typestr": "<f4", "data": (address, False), "version": 3}  # noqa: RUF012

    return infiniop.asarray(np.asarray(Memory()))


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (last_element_wrong, "y: 1 of 6 elements differ, the first at [5]: expected 3, got 4"),
        (first_element_unwritten, "y: 1 of 6 elements differ, the first at [0]: expected 0, got nan"),
        (input_changed, "x: an input was changed: 1 of 6 elements differ, the first at [0]"),
    ],
)
def test_a_wrong_kernel_is_named_and_its_call_kept(folder: Path, kernel, text: str) -> None:
    name = wrong_backend("relu", kernel)
    verify.enable("reference", folder=folder)
    x, y = np.arange(-2, 4, dtype=np.float32), np.zeros(6, np.float32)
    with pytest.raises(errors.InternalError) as caught:
        ops.relu(x, out=y, backend=name)
    assert f"relu of backend '{name}' is wrong: {text}" in str(caught.value)
    (kept,) = folder.glob("relu-*")
    assert text in (verify.replay(kept) or "")
    assert verify.replay(kept, backend="cpu") is None


def test_a_call_may_go_on(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = wrong_backend("silu", lambda output, input: output.fill(9))
    verify.enable("reference,cpu", folder=folder, keep_going=True)
    before = verify.counts()
    for _ in range(3):
        assert ops.silu(np.zeros(4, np.float32), backend=name).tolist() == [9] * 4
    assert ops.silu(np.zeros(4, np.float32)).tolist() == [0] * 4
    after = verify.counts()
    assert (after.differing - before.differing, after.verified - before.verified) == (3, 1)
    told = capfd.readouterr().err
    assert told.count(f"silu of backend '{name}' is wrong: output: 4 of 4 elements differ") == 1
    (kept,) = folder.glob("silu-*")
    assert f"infiniop replay {kept}" in told
    assert cli.main(["replay", str(kept), "--against", "cpu"]) == 1
    assert "is wrong" in capfd.readouterr().out
    assert cli.main(["replay", str(kept), "--backend", "cpu", "--against", "reference"]) == 0
    assert cli.main(["replay", str(folder)]) == 2


def test_off_is_off(folder: Path) -> None:
    name = wrong_backend("relu", last_element_wrong)
    verify.enable("reference", folder=folder)
    verify.disable()
    before = verify.counts()
    assert ops.relu(np.zeros(2, np.float32), backend=name).tolist() == [0, 1]
    with infiniop.descriptor("relu", y=np.zeros(2, np.float32), x=np.zeros(2, np.float32), backend=name) as d:
        verify.enable("reference", folder=folder)
        d.calculate()
    assert verify.counts() == before, "a descriptor from before is not verified"


def test_backends_must_be_loaded(folder: Path) -> None:
    with pytest.raises(errors.BadParamError, match="backends that are loaded, got nobody"):
        verify.enable("nobody")


def test_what_cannot_be_compared_is_counted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = wrong_backend("relu", right_relu)  # has nothing but relu
    verify.enable(name, folder=folder)
    before = verify.counts().unverified
    ops.add(np.ones(2, np.float32), np.ones(2, np.float32))
    assert verify.counts().unverified == before + 1


def small_samples():
    for name, operator in all_operators().items():
        fitting = (
            s
            for s in operator.samples(np.random.default_rng(3))
            if all(a is None or np.ptp(extent(a.shape, a.strides)) < 5000 for a in s.tensors.values())
        )
        yield pytest.param(operator, list(itertools.islice(fitting, 12)), id=name)


@pytest.mark.parametrize(("operator", "samples"), list(small_samples()))
def test_nothing_that_is_right_is_blamed(folder: Path, operator, samples) -> None:
    """Aliased, strided, empty and packed ones included, as the operator's own samples are."""
    verify.enable("reference", folder=folder)
    before = verify.counts()
    for sample in samples:
        assert runner.run_sample(operator, sample, "cpu") == []
    after = verify.counts()
    assert after.differing == before.differing and after.unverified == before.unverified
    assert after.verified > before.verified


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_layout_and_any_element(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Views of one memory, steps of either sign: a single wrong element is found where it is."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    steps = tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1, -3]))) for _ in shape)
    room = np.zeros([n * 3 for n in shape] + [2], np.float32)
    cut = tuple(slice(0, n) for n in shape)
    y, x = room[..., 0][steps][cut], room[..., 1][steps][cut]  # interleaved
    x[...] = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    at = tuple(data.draw(st.integers(0, n - 1)) for n in y.shape)
    wrong = data.draw(st.booleans())

    def kernel(y, x) -> None:
        right_relu(y, x)
        y[at] += wrong

    name = wrong_backend("relu", kernel)
    verify.enable("reference", folder=tmp_path_factory.mktemp("kept"))
    try:
        if wrong:
            with pytest.raises(errors.InternalError) as caught:
                ops.relu(x, out=y, backend=name)
            assert f"1 of {y.size} elements differ, the first at {list(at)}: " in str(caught.value)
        else:
            ops.relu(x, out=y, backend=name)
            assert np.array_equal(x, y)
    finally:
        verify.disable()


_DEVICE = """
import sys, numpy as np, infiniop
from infiniop import ops, verify
from infiniop._library import ffi
from infiniop.python_runtime import PythonRuntime
def view(t):
    raw = ffi.buffer(ffi.cast("char *", t.data_ptr), max(t.nbytes, 1))
    return np.frombuffer(raw, np.float32, count=t.nbytes // 4).reshape(t.shape)
def relu(y, x):
    view(y)[...] = np.maximum(view(x), 0) + WRONG
infiniop.PythonBackend("beads", device="abacus", kernels={"relu": relu}, runtime=PythonRuntime(2)).register()
x = infiniop.asarray(np.arange(-3, 3, dtype=np.float32), device="abacus:1")
with infiniop.Stream("abacus:1") as stream:
    y = ops.relu(x, out=infiniop.zeros((6,), device="abacus:1"))
    with infiniop.capture(stream) as graph:
        ops.relu(x, out=y)
    graph.launch(stream)
    stream.synchronize()
print(y.tolist(), verify.counts())
"""


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_device_with_memory_of_its_own_is_verified_through_the_host(tmp_path: Path, wrong: int) -> None:
    env = {**os.environ, "INFINIOP_VERIFY": "reference, cpu", "INFINIOP_VERIFY_DIR": str(tmp_path)}
    script = f"WRONG = {wrong}\n{_DEVICE}"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    if wrong:
        assert done.returncode == 1 and "relu of backend 'beads' is wrong: y: 6 of 6 elements differ" in done.stderr
        kept = json.loads((tmp_path / "relu-1" / "call.json").read_text())
        assert (kept["device"], kept["device_id"], kept["backend"], kept["against"]) == (
            "abacus",
            1,
            "beads",
            "reference",
        )
    else:
        assert done.returncode == 0, done.stderr
        assert "Counts(verified=2, differing=0, unverified=0)" in done.stdout, "each replay of a graph, too"
        assert "infiniop verify: 2 calls agree, 0 differ, 0 not verified" in done.stderr
