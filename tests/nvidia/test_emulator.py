"""Every operator's samples and error samples on the NVIDIA backend's own sources, run by the emulator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from emulation import ROOT, build, tool

from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators
from infiniop.schema import BF16, F32, DType, Operator, Sample
from infiniop.schema.samples import uniform

QUICK, LARGEST = 1 << 14, 1 << 23  # elements in one sample: of the quick selection, and of all
PER_OPERATOR = 60  # samples of an operator in the quick selection


def samples(operator: Operator, limit: int) -> Iterator[Sample]:
    for sample in operator.samples(np.random.default_rng(1)):
        if "large" not in sample.tags and runner.elements(sample) <= limit:
            yield sample


def failures(operator: Operator, chosen: list[Sample], backend: str) -> list[str]:
    found = []
    for sample in chosen:
        try:
            found += [f"{sample.name}: {f}" for f in runner.run_sample(operator, sample, backend)]
        except Declined:
            continue
    return found


def operator_of(nvidia: str, name: str) -> Operator:
    if not subject(nvidia).has(name):
        pytest.skip(f"the NVIDIA backend has no {name}")
    return all_operators()[name]


@pytest.mark.parametrize("name", list(all_operators()))
def test_some_samples(nvidia: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spread of the small ones; every other run backwards."""
    operator = operator_of(nvidia, name)
    every = list(samples(operator, QUICK))
    chosen = every[:: max(1, len(every) // PER_OPERATOR)]
    wrong = failures(operator, chosen[::2], nvidia)
    monkeypatch.setenv("INFINIOP_EMULATOR_ORDER", "reverse")
    wrong += failures(operator, chosen[1::2], nvidia)
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.full
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("name", list(all_operators()))
def test_all_samples(nvidia: str, name: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = operator_of(nvidia, name)
    monkeypatch.setenv("INFINIOP_EMULATOR_ORDER", order)
    wrong = failures(operator, list(samples(operator, LARGEST)), nvidia)
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("dtype", [BF16, F32], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "softmax", "log_softmax", "causal_softmax"])
def test_rows_longer_than_registers(nvidia: str, name: str, dtype: DType) -> None:
    """Two chunks and a bit of one more; in place, where what is read again may have been overwritten."""
    operator = operator_of(nvidia, name)
    rng, lanes = np.random.default_rng(3), 16 // dtype.itemsize
    shape = (2, 2 * 512 * 4 * lanes + 3 * lanes)
    a, b = (uniform(rng, shape, dtype, -4.0, 4.0) for _ in range(2))
    values = [b, a, a, b] if name == "add_rms_norm" else [a, a]
    if name.endswith("rms_norm"):
        values.append(uniform(rng, shape[1:], dtype, 0.5, 2.0))
    tensors = dict(zip([t.name for t in operator.tensors], values, strict=True))
    assert not failures(operator, [Sample("long", tensors)], nvidia)


@pytest.mark.parametrize("name", list(all_operators()))
def test_error_samples(nvidia: str, name: str) -> None:
    operator = operator_of(nvidia, name)
    wrong = []
    for sample in operator.error_samples(np.random.default_rng(2)):
        wrong += [f"{sample.name}: {f}" for f in runner.run_error_sample(operator, sample, nvidia)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.full
def test_with_address_sanitizer() -> None:
    """Shared memory, stacks and device memory have ends that AddressSanitizer sees."""
    compiler = tool("g++")
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    plugin = build(ROOT / "build" / "emulator-asan", "-DINFINIOP_SANITIZE=ON")
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "INFINIOP_BACKEND_PATH": str(plugin),
    }
    command = [sys.executable, str(Path(__file__).parent / "sanitized.py"), "emulator", "25"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert done.stdout.startswith("clean: ")
