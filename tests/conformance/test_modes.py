"""`--perf`, `--support` and `--large` on the CPU backend."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infiniop.conformance.cases import Options
from infiniop.conformance.far import FAR, spread_samples, takes_many
from infiniop.conformance.session import Session
from infiniop.operators import all_operators


def kit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "infiniop.conformance"]
    return subprocess.run([*command, "--backend", "cpu", *arguments], capture_output=True, text=True)


def test_support_counts_calls_by_dtype(tmp_path: Path) -> None:
    reports = [tmp_path / "support.md", tmp_path / "support.json"]
    done = kit("--support", "--op", "relu", "--op", "rms_norm", *(w for path in reports for w in ("--report", path)))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^relu +BF16 +(\d+) of \1", done.stdout, re.M), done.stdout
    assert re.search(r"^rms_norm +F16 W=F32 +(\d+) of \1", done.stdout, re.M), done.stdout
    assert "| relu | BF16 | " in reports[0].read_text()
    assert {"relu", "rms_norm"} == {row["operator"] for row in json.loads(reports[1].read_text())}


def test_perf_gives_a_row_per_phase() -> None:
    done = kit("--perf", "--op", "rms_norm")
    assert done.returncode == 0, done.stdout
    rows = re.findall(r"^rms_norm +(\w+) +(decode|prefill) +[\d.]+ +[\d.]+ .* \d+ %", done.stdout, re.M)
    assert set(rows) == {(d, p) for d in ("F32", "F16", "BF16") for p in ("decode", "prefill")}, done.stdout


def test_large_cases_come_when_asked_for() -> None:
    plain, large = (Session.of("cpu", ["relu"], [], None, Options(large=asked)) for asked in (False, True))
    (relu,) = plain.operators
    extra = {c.name for c in large.cases(relu)} - {c.name for c in plain.cases(relu)}
    assert extra == {"far x", "far y", "many elements"}


def test_every_operator_with_strides_is_spread_out() -> None:
    spread = {name for name, operator in all_operators().items() if any(spread_samples(operator, 1))}
    assert len(spread) > 25, spread
    assert {name for name, operator in all_operators().items() if takes_many(operator)} >= {"add", "silu", "rearrange"}


@pytest.mark.parametrize("name", ["paged_caching", "rms_norm"])
def test_elements_far_apart(name: str) -> None:
    operator = all_operators()[name]
    reach = [max(s * (n - 1) for s, n in zip(strides, sample.tensors[t].shape, strict=True))
             for t, sample, strides in spread_samples(operator, 1)]  # fmt: skip
    assert reach and min(reach) >= FAR
    done = kit("--large", "--op", name, "--case", "far *")
    assert done.returncode == 0, done.stdout


@pytest.mark.full
@pytest.mark.parametrize("name", list(all_operators()))
def test_large_cases(name: str) -> None:
    done = kit("--large", "--op", name, "--case", "far *", "--case", "many *")
    assert done.returncode in (0, 4), done.stdout  # 4: there is no such case
