"""The kit's command line: options, expected failures, reports, repros, and a kernel that takes the process down."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from infiniop.conformance import xfails

HERE = Path(__file__).parent


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def kit(tmp_path: Path):
    """Runs the kit from an empty folder."""

    def run(*words: str, backend: str = "toy") -> subprocess.CompletedProcess[str]:
        loaded = ("-p", "toy_backend", "-p", "infiniop.conformance.entry", "-p", "no:cacheprovider")
        given = ("--pyargs", "infiniop.conformance", "--backend", backend)
        return command("pytest", *loaded, *given, *words, cwd=tmp_path)

    return run


def repros(text: str) -> list[str]:
    return [line.removeprefix("repro: ") for line in text.splitlines() if line.startswith("repro: ")]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--backend", "nobody"], "there is no backend named nobody: expected one of cpu, "),
        (["--op", "nothing"], "there is no operator named nothing: expected one of add,"),
        (["--op", "gemm"], "backend toy has no kernel for gemm"),
        (["--op", "add", "--case", "sample nothing"], "no case of add is named 'sample nothing'"),
        (["--op", "add", "--case", "drawn c=F32:1:1"], "a is missing"),
        (["--op", "add", "--case", "drawn c=F99:1:1 a=- b=-"], "c: expected DTYPE:SHAPE:STRIDES"),
        (["--op", "add", "--case", "far a"], "no case of add is named 'far a' without --large"),
        (["--xfails", "missing.txt"], "missing.txt: cannot be read"),
        (["--report", "here.html"], "expected a file in a folder that exists, ending in .md or .json"),
    ],
)
def test_a_command_line_that_means_nothing_is_one_sentence(kit, words: list[str], sentence: str) -> None:
    done = kit(*words)
    assert done.returncode == 4 and "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert sentence in line


def test_no_backend(tmp_path: Path) -> None:
    done = command("pytest", "-p", "infiniop.conformance.entry", "--pyargs", "infiniop.conformance", cwd=tmp_path)
    assert done.returncode == 4 and "--backend NAME is missing" in done.stderr


def test_a_right_operator_passes(kit, tmp_path: Path) -> None:
    done = kit("--op", "add", "--draws", "20", "--report", "r.md", "--report", "r.json", "--junitxml", "r.xml", "-q")
    assert done.returncode == 0, done.stdout
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("add ")]
    assert int(row[1]) > 150 and int(row[2]) > 30  # passed, declined: float16
    assert "not claimed: add_rms_norm" in done.stdout and "claimed, but not run: relu, sigmoid, sub" in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["backend"] == "toy" and found["draws"] == 20 and not found["failures"]
    groups = found["operators"]["add"]["groups"]
    assert groups["drawn"] == {"passed": 1} and groups["reuse threads"] == {"passed": 1}
    assert groups["sample"]["declined"] > 30 and groups["error"]["passed"] == 17
    assert found["operators"]["gemm"] == {"claimed": False, "groups": {}}
    table = (tmp_path / "r.md").read_text()
    assert "| operator | drawn |" in table and "\n| add | 1 |" in table and "Not claimed: add_rms_norm" in table
    assert "no cases of: far, many" in done.stdout and "\nNo cases of: far, many" in table
    assert found["not covered"]["no cases of"][:2] == ["far", "many"]
    junit = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert {case.get("classname") for case in junit.iter("testcase")} == {"infiniop.conformance.add"}
    said = {p.get("name"): p.get("value") for p in junit.iter("property")}
    assert said["claimed, but not run"] == "relu, sigmoid, sub" and said["not claimed"].startswith("add_rms_norm, ")


@pytest.mark.parametrize("case", ["sample F32-65", "drawn", "sizes shape"])
def test_the_repro_reproduces(kit, tmp_path: Path, case: str) -> None:
    done = kit("--op", "sub", "--case", case, "--seed", "3", "--report", "r.json", "--report", "r.md")
    assert done.returncode == 1
    (failure,) = json.loads((tmp_path / "r.json").read_text())["failures"]
    assert "elements differ, the first at" in failure["wrong"] and failure["repro"] in repros(done.stdout)
    assert f"  {failure['repro']}\n  ```\n" in (tmp_path / "r.md").read_text()
    words = shlex.split(failure["repro"])
    assert words[0] == "pytest" and "-p toy_backend" in failure["repro"]
    again = command(*words, "--report", "again.json", cwd=tmp_path)
    assert again.returncode == 1
    (same,) = json.loads((tmp_path / "again.json").read_text())["failures"]
    assert same["wrong"] == failure["wrong"] and same["repro"] == failure["repro"]


def test_a_drawn_failure_is_made_small(kit) -> None:
    done = kit("--op", "sub", "--case", "drawn")
    (line,) = set(repros(done.stdout))
    case = shlex.split(line)[-1]
    assert case.startswith("drawn c=") and "seed:0" in case and len(case) < 120, case


def test_expected_failures(kit, tmp_path: Path) -> None:
    file = tmp_path / "xfails.txt"

    def run(text: str, *words: str) -> subprocess.CompletedProcess[str]:
        file.write_text(text)
        return kit("--xfails", str(file), "-q", "-rA", *words)

    only = ("--op", "sub", "--case", "sample F32-6*")
    fails = "sub  sample F32-6*  # forgets the last one\n"
    assert run(f"# a comment\n\n{fails}", *only).returncode == 0
    passes = run("sub  sample F32-1\n" + fails, "--op", "sub", "--case", "sample F32-1", "--case", "sample F32-63")
    assert passes.returncode == 1 and "[XPASS(strict)]" in passes.stdout and "xfails.txt:1" in passes.stdout
    declined = run("sub  sample F16-65\n", "--op", "sub", "--case", "sample F16-65")
    assert declined.returncode == 1 and "xfails.txt:1: the backend declines this case" in declined.stdout
    for text, sentence in (
        ("sub sample F32-0\n", "xfails.txt:1: no case is named sub sample F32-0: remove the line"),
        ("\nsub\n", "xfails.txt:2: expected an operator and a case, got 'sub'"),
        ("nothing sample F32-1\n", "xfails.txt:1: there is no operator nothing"),
    ):
        done = run(text, "--op", "sub")
        assert done.returncode == 4 and sentence in done.stderr and "Traceback" not in done.stderr
    assert run("add sample nothing\n" + fails, *only).returncode == 0  # add is not run
    assert run("sub far *\n" + fails, *only).returncode == 0  # nor is it with the option that brings this case


def test_a_kernel_that_raises(kit) -> None:
    done = kit("--op", "sigmoid", "--case", "sample F32-8", "--case", "error*", "--case", "state*", "-q")
    assert "INTERNAL_ERROR: sigmoid: MemoryError: no sigmoid today" in done.stdout and done.returncode == 1


def test_a_kernel_that_takes_the_process_down(kit) -> None:
    done = kit("--op", "relu", "--case", "sample F32-1*", "-q")
    assert done.returncode < 0
    assert "The process died in this call:" in done.stderr
    (line,) = repros(done.stderr)
    assert "--op relu --case 'sample F32-17'" in line


def test_two_workers(kit) -> None:
    done = kit("--op", "sub", "--case", "sample F32-*", "--case", "error", "-n", "2", "-q")
    assert done.returncode == 1
    alone = kit("--op", "sub", "--case", "sample F32-*", "--case", "error", "-q")
    rows = [next(line for line in d.stdout.splitlines() if line.startswith("sub ")) for d in (done, alone)]
    assert rows[0].split() == rows[1].split()


def test_other_sessions_do_not_meet_the_options(tmp_path: Path) -> None:
    options = "for name in ('--backend', '--op', '--seed'):\n        parser.addoption(name)\n"
    (tmp_path / "conftest.py").write_text(f"def pytest_addoption(parser):\n    {options}")
    test = "def test_own(pytestconfig):\n    assert pytestconfig.option.backend == 'x'\n"
    (tmp_path / "test_own.py").write_text(test)
    done = command("pytest", "-p", "infiniop.conformance.entry", "--backend", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_is_meant_by_its_name_its_kind_or_a_pattern() -> None:
    from infiniop.conformance.cases import Case

    case = Case("add", "sample F32-[1]", list)
    assert all(case.answers_to(p) for p in ("sample F32-[1]", "sample", "sample F32-*", "s*"))
    assert not any(case.answers_to(p) for p in ("F32-[1]", "sample F32", "error"))
    assert xfails.Entry("", "a*", "sample", "").means(case)


def test_every_case_counts_to_a_group_that_the_report_knows() -> None:
    from infiniop.conformance.cases import Options, cases, groups
    from infiniop.conformance.subject import subject
    from infiniop.operators import all_operators

    operators = [all_operators()[name] for name in ("relu", "linear", "linear_packed_size")]
    found = {case.column for o in operators for case in cases(o, subject("cpu"), Options(large=True))}
    assert found == set(groups()) and len(groups()) == len(found)


def test_the_repro_of_a_large_case_says_so() -> None:
    from infiniop.conformance.cases import Options
    from infiniop.conformance.session import Session

    session = Session.of("cpu", ["relu"], ["far x"], None, Options(large=True))
    assert shlex.split(session.repro("relu", "far x"))[-3:] == ["--case", "far x", "--large"]
