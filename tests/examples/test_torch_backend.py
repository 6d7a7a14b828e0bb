"""examples/backends/torch: every operator, the runtime over torch, a model, the package as others install it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

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

    plugins.register(infiniop_torch)
    return infiniop_torch


@pytest.mark.parametrize("name", all_operators())
def test_samples(package: ModuleType, name: str, request: pytest.FixtureRequest) -> None:
    operator, failures, count = all_operators()[name], [], 0
    for sample in operator.samples(np.random.default_rng(1)):
        is_large = "large" in sample.tags or runner.elements(sample) > LARGEST
        if not is_large or (request.config.getoption("--full") and runner.elements(sample) < 1 << 27):
            count += 1
            failures += [f"{sample.name}: {f}" for f in runner.run_sample(operator, sample, "torch")]
    assert count, "no samples"
    assert not failures, "\n" + "\n".join(failures)


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
    made = package.TorchRuntime("cpu", fake_module())
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
def test_samples_on_a_device(runtime, name: str) -> None:
    operator, failures = all_operators()[name], []
    for sample in itertools.islice(operator.samples(np.random.default_rng(1)), 0, None, 11):
        if "large" not in sample.tags and runner.elements(sample) < LARGEST:
            failures += [f"{sample.name}: {f}" for f in runner.run_sample(operator, sample, "pretend")]
    assert not failures, "\n" + "\n".join(failures)


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
sys.path.append(sys.argv[2])
if sys.argv[3]:
    from test_torch_backend import fake_module
    import infiniop_torch as package
    package.TorchBackend("pretend", package.TorchRuntime("cpu", fake_module()), device="pretend").register()
model = AutoLlamaModel.from_pretrained(sys.argv[1], dtype="float32", device=sys.argv[3] or "cpu")
rows = [[5, 9, 300, 12, 7, 8], [100, 20, 3]]
greedy = model.generate(rows, 12, temperature=0).token_ids
print(json.dumps([greedy, model.generate(rows, 12, temperature=0.8, top_k=40, top_p=0.9, seed=3).token_ids]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The interpreter of an environment into which the package's wheel was installed, beside this one's packages."""
    folder = tmp_path_factory.mktemp("torch-backend")
    source = folder / "source"
    subprocess.run(["cp", "-r", PACKAGE, source], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (folder / "venv" / "lib").glob("*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "beside.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    return python


def run(python: Path, *arguments: object, **environment: str) -> str:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([python, *arguments], env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_generates_the_tokens_of_the_cpu_backend(installed: Path) -> None:
    def tokens(device: str = "", **environment: str) -> list:
        return json.loads(run(installed, "-c", GENERATE, MODEL, Path(__file__).parent, device, **environment))

    expected = tokens()
    assert tokens(INFINIOP_BACKENDS="torch") == expected
    assert tokens("pretend") == expected


def test_the_wheel_is_found_and_passes_the_kit(installed: Path, request: pytest.FixtureRequest) -> None:
    rows = json.loads(run(installed, "-m", "infiniop", "backends", "--json"))
    (row,) = [row for row in rows if row["name"] == "torch"]
    assert not row["error"] and row["kernels"] == len(all_operators())
    kit = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "infiniop.conformance", "--backend", "torch"]
    some = [] if request.config.getoption("--full") else ["--op", "add", "--op", "kv_caching"]
    run(installed, *kit, *some)
