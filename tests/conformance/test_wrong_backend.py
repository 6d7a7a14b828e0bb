"""The tester is tested: the kit passes the wrong backend while nothing is wrong with it, and sees each fault."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import faults
import pytest


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.build(tmp_path_factory.mktemp("wrong"))


def kit(plugin: Path, seen: str, *arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "infiniop.conformance"]
    command += ["--backend", faults.backend_of(seen), *arguments]
    env = faults.environment(plugin, seen) | {"WRONG_BACKEND_FAULT": fault}
    return subprocess.run(command, env=env, capture_output=True, text=True)


SOME = [word for kind in ("sample F32*", "error *", "reuse *", "state *") for word in ("--case", kind)]


@pytest.mark.parametrize("cases", [SOME, pytest.param([], marks=pytest.mark.full)], ids=["some", "all"])
@pytest.mark.parametrize("seen", ["anywhere", "on_streams"])
def test_without_a_fault_it_is_right(plugin: Path, seen: str, cases: list[str]) -> None:
    done = kit(plugin, seen, *cases)
    assert done.returncode == 0, done.stdout[-8000:]


def test_a_fault_is_reported_with_its_operator_and_a_repro(plugin: Path) -> None:
    done = kit(plugin, "anywhere", "--op", "add", "--op", "relu", "-x", fault="relu/nan-swallowed")
    assert done.returncode == 1, done.stdout
    repro = re.search(r"repro: .*--op (\w+) --case '?([^'\n]*)", done.stdout)
    assert repro and repro[1] == "relu", done.stdout
    again = kit(plugin, "anywhere", "--op", "relu", "--case", repro[2], fault="relu/nan-swallowed")
    assert again.returncode == 1, again.stdout
    assert kit(plugin, "anywhere", "--op", "relu", "--case", repro[2]).returncode == 0


def test_a_quarter_of_the_faults_is_seen(plugin: Path) -> None:
    require_seen(plugin, faults.placed(faults.known(plugin), every=False)[::4])


@pytest.mark.full
@pytest.mark.parametrize("every", [False, True])
def test_every_fault_is_seen(plugin: Path, every: bool) -> None:
    wanted = faults.placed(faults.known(plugin), every)
    assert len(wanted) > 100
    require_seen(plugin, wanted)


def require_seen(plugin: Path, wanted: list[faults.Fault]) -> None:
    found = faults.findings(plugin, wanted)
    missed = [f"{f.key}: {f.what}" for f in wanted if f.key not in found]
    assert not missed, "\n".join(missed)


def test_faults_have_names_of_their_own(plugin: Path) -> None:
    listed = [f.key for f in faults.known(plugin)]
    assert len(set(listed)) == len(listed)
    assert {f.op for f in faults.known(plugin)} == {"*", *faults.OPERATORS}
