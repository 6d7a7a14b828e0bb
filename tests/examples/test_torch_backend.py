"""examples/backends/torch: every operator, the runtime over torch, a model, the package as others install it."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from scratch import Scratch

import infiniop
from infiniop import ops, plugins
from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.schema import Status

torch = pytest.importorskip("torch")

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "examples" / "backends" / "torch"
MODEL = REPOSITORY / "examples" / "demo_model" / "model"
LARGEST = 1 << 22  # elements in one sample; beyond: --full


@pytest.fixture(scope="module")
def package() -> ModuleType:
    sys.path.insert(0, str(PACKAGE))
    import infiniop_torch
    import infiniop_torch.runtime

    plugins.register(infiniop_torch)
    return infiniop_torch


@pytest.mark.parametrize("name", all_operators())
def test_error_samples(package: ModuleType, name: str) -> None:
    operator, failures = all_operators()[name], []
    for sample in operator.error_samples(np.random.default_rng(2)):
        failures += [f"{sample.name}: {f}" for f in runner.run_error_sample(operator, sample, "torch")]
    assert not failures, "\n" + "\n".join(failures)


@pytest.mark.parametrize("name", all_operators())
def test_other_devices_skip_what_the_cpu_refuses(package: ModuleType, name: str, monkeypatch) -> None:
    operator = all_operators()[name]
    if not any("other devices" in sentence for sentence in operator.semantics):
        pytest.skip("refuses no values")
    monkeypatch.setattr("infiniop_torch.values.is_error", lambda device: False)
    skipped = 0
    for sample in operator.error_samples(np.random.default_rng(2)):
        if sample.at == "run" and sample.status == Status.BAD_PARAM:
            tensors = {n: None if a is None else np.array(a) for n, a in sample.tensors.items()}
            with infiniop.descriptor(name, backend="torch", **tensors, **sample.attrs) as descriptor:
                descriptor.calculate()
            skipped += 1
    assert skipped


def test_it_is_complete_and_replaces_nothing(package: ModuleType) -> None:
    row = next(b for b in infiniop.backends() if b.name == "torch")
    assert row.explicit_only and all(row.has(name) for name in all_operators())


# ---- the runtime ------------------------------------------------------------------------------------------------


class FakeStream:
    """A queue, as `torch.cuda.Stream` is one; the work on tensors of the CPU is done at once."""

    current: ClassVar[list[FakeStream]] = []

    def __init__(self, device: int = 0):
        self.device, self.seen = device, []

    def __enter__(self):
        FakeStream.current.append(self)

    def __exit__(self, *_):
        FakeStream.current.pop()

    def synchronize(self) -> None:
        self.seen.append("synchronize")

    def wait_event(self, event: FakeEvent) -> None:
        self.seen.append(event)


class FakeEvent:
    def __init__(self, enable_timing: bool):
        self.stream: FakeStream | None = None

    def record(self, stream: FakeStream) -> None:
        self.stream = stream

    def query(self) -> bool:
        return self.stream is not None

    def synchronize(self) -> None:
        assert self.stream is not None

    def elapsed_time(self, end: FakeEvent) -> float:
        return 0.5


def fake_module() -> SimpleNamespace:
    """What `TorchRuntime` uses of `torch.cuda`."""
    default = FakeStream()
    return SimpleNamespace(
        device_count=lambda: 1, synchronize=lambda device: None, Stream=FakeStream, Event=FakeEvent,
        stream=lambda stream: stream, default_stream=lambda device: default,
        mem_get_info=lambda device: (3 << 30, 7 << 30),
    )  # fmt: skip


@pytest.fixture(scope="module")
def runtime(package: ModuleType):
    """Of a device `pretend`, whose memory is torch's on the CPU."""
    made = package.runtime.TorchRuntime("cpu", fake_module())
    package.TorchBackend("pretend", made, device="pretend").register()
    return made


def test_memory_of_a_device(runtime) -> None:
    host = np.arange(24, dtype=np.float32).reshape(4, 6)
    a = infiniop.asarray(host, device="pretend")
    assert ops.add(a, a).to("cpu").tolist() == (2 * host).tolist()
    part = a[1:3, 1:4]
    assert ops.mul(part, part).to("cpu").tolist() == (host[1:3, 1:4] ** 2).tolist()
    assert ops.relu(a[::-1]).to("cpu").tolist() == host[::-1].tolist()
    assert infiniop.runtime.memory_info("pretend") == (3 << 30, 7 << 30)
    blocks = len(runtime._tensors)
    made = infiniop.asarray(np.zeros(1000, np.uint8), device="pretend")
    assert len(runtime._tensors) == blocks + 1
    del made
    with torch.inference_mode():  # tensors that are made here cannot be changed elsewhere
        made = infiniop.empty(3, device="pretend")
    made.copy_(np.ones(3, np.float32))
    assert made.to("cpu").tolist() == [1, 1, 1]
    del made
    assert len(runtime._tensors) == blocks and sorted(runtime._tensors) == runtime._starts


@pytest.mark.parametrize("name", all_operators())
@pytest.mark.parametrize("backend", ["torch", "pretend"])
def test_samples(runtime, backend: str, name: str, request: pytest.FixtureRequest) -> None:
    """Some; with --full all that fit into a GiB (scripts/example_backends.py, too, runs the kit)."""
    full = request.config.getoption("--full")
    operator, failures, count = all_operators()[name], [], 0
    for sample in itertools.islice(operator.samples(np.random.default_rng(1)), 0, None, 1 if full else 7):
        is_large = "large" in sample.tags or runner.elements(sample) > LARGEST
        if not is_large or (full and max(map(span, sample.tensors.values())) < 1 << 30):
            count += 1
            failures += [f"{sample.name}: {f}" for f in runner.run_sample(operator, sample, backend)]
    assert count, "no samples"
    assert not failures, "\n" + "\n".join(failures)


def span(array: np.ndarray | None) -> int:
    """Bytes from the first to the last element."""
    if array is None or array.size == 0:
        return 0
    return sum((n - 1) * abs(stride) for n, stride in zip(array.shape, array.strides, strict=True)) + array.itemsize


def test_kernels_run_on_their_stream(runtime, package: ModuleType) -> None:
    seen: list[FakeStream] = []
    kernels = {"relu": lambda y, x: seen.append(FakeStream.current[-1])}
    backend = package.TorchBackend("pretend-watched", runtime, device="pretend", explicit_only=True)
    backend.kernels = kernels
    backend.register()
    a = infiniop.asarray(np.zeros(3, np.float32), device="pretend")
    stream = infiniop.Stream("pretend")
    ops.relu(a, backend="pretend-watched")
    ops.relu(a, backend="pretend-watched", stream=stream)
    assert seen[0] is runtime._stream(0, 0) and seen[1] is not seen[0] and seen[1].device == 0
    event = infiniop.Event("pretend").record(stream)
    assert event.done() and event.elapsed_ms(event) == 0.5
    other = infiniop.Stream("pretend")
    other.wait(event)
    other.synchronize()
    event.synchronize()
    native = runtime._stream(0, int(infiniop._library.ffi.cast("uintptr_t", other.handle)))
    assert len(native.seen) == 2 and native.seen[0].stream is seen[1] and native.seen[1] == "synchronize"


def test_a_native_capture_is_refused(runtime, monkeypatch) -> None:
    a = infiniop.asarray(np.zeros(3, np.float32), device="pretend")
    monkeypatch.setattr(runtime.module, "is_current_stream_capturing", lambda: True, raising=False)
    with pytest.raises(infiniop.errors.NotImplementedByBackendError, match="graph"):
        ops.relu(a)


# ---- in programs of its own -------------------------------------------------------------------------------------

GENERATE = """
import json, sys
from infiniop.lm import AutoLlamaModel
path, tests, device = sys.argv[1:]
if device == "pretend":
    sys.path += [tests, f"{tests}/.."]
    from test_torch_backend import fake_module
    import infiniop_torch as package, infiniop_torch.runtime
    package.TorchBackend("pretend", package.runtime.TorchRuntime("cpu", fake_module()), device="pretend").register()
model = AutoLlamaModel.from_pretrained(path, dtype="float32", device=device)
rows = [[5, 9, 300, 12, 7, 8], [100, 20, 3]]
greedy = model.generate(rows, 12, temperature=0).token_ids
print(json.dumps([greedy, model.generate(rows, 12, temperature=0.8, top_k=40, top_p=0.9, seed=3).token_ids]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Scratch:
    """An environment into which the package's wheel was installed, the core untouched."""
    folder = tmp_path_factory.mktemp("torch")
    scratch = Scratch(folder)
    shutil.copytree(PACKAGE, scratch.folder / "source")
    scratch.run("pip install -q --no-deps ./source")
    scratch.env["OMP_NUM_THREADS"] = "1"  # beside other tests, torch's threads would wait for each other
    return scratch


def test_a_model_generates_the_tokens_of_the_cpu_backend(installed: Scratch) -> None:
    program = installed.folder / "generate.py"
    program.write_text(GENERATE)

    def tokens(device: str = "cpu", **environment: str) -> list:
        said = installed.run(f"python {program} {MODEL} {Path(__file__).parent} {device}", **environment)
        return json.loads(said.splitlines()[-1])

    expected = tokens()
    assert tokens(INFINIOP_BACKENDS="torch") == expected
    assert tokens("pretend") == expected


def test_torch_is_imported_when_it_is_needed(installed: Scratch) -> None:
    if not torch.__version__.endswith("+cpu"):
        pytest.skip("an accelerator may be there")
    program = installed.folder / "lazy.py"
    program.write_text("""
import sys, numpy as np, infiniop
assert any(b.name == "torch" and b.has("relu") for b in infiniop.backends())
infiniop.ops.relu(np.ones(2, np.float32))
assert "torch" not in sys.modules
print(infiniop.ops.relu(np.array([-1, 2], np.float32), backend="torch"), "torch" in sys.modules)
""")
    assert installed.run(f"python {program}").splitlines()[-1] == "[0. 2.] True"


def test_the_wheel_is_found(installed: Scratch) -> None:
    (row,) = [row for row in json.loads(installed.run("infiniop backends --json")) if row["name"] == "torch"]
    assert not row["error"] and row["kernels"] == len(all_operators())
    installed.run("pytest -q --pyargs infiniop.conformance --backend torch --op kv_caching")
