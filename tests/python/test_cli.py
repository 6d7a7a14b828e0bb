"""The commands: what they print, and one sentence instead of a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infiniop import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "backends")
    assert code == 0 and "cpu" in out and "reference" in out
    code, out, _ = run(capsys, "backends", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["cpu"]["priority"] == 100 and rows["reference"]["explicit_only"] is True


def test_ops(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ops", "--json")
    rows = {row["operator"]: row for row in json.loads(out)}
    assert code == 0 and "reference" in rows["paged_caching"]["backends"] and "BF16" in rows["paged_caching"]["dtypes"]
    code, out, _ = run(capsys, "ops", "rope")
    assert code == 0 and "| `algo` | `infiniopRoPEAlgo_t` | create |" in out and "Schema version 1." in out
    assert out.index("`y` | out") < out.index("`x` | in") and "errors.md" not in out
    code, _, err = run(capsys, "ops", "fly")
    assert code == 2 and "there is no operator named fly: expected one of add, " in err
    code, out, _ = run(capsys, "ops")
    assert code == 0 and "paged_caching" in out


def test_root_is_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "root")
    root = Path(out.strip())
    assert code == 0 and (root / "lib" / "libinfiniop.so").exists() and (root / "include" / "infiniop.h").exists()


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    findings = {f["name"]: f for f in json.loads(out)}
    assert code == 0 and findings["native libraries"]["ok"] and findings["backend cpu"]["ok"]
    assert run(capsys, "doctor")[0] == 0


def test_doctor_without_libraries(tmp_path: Path) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "infiniop", "doctor"], capture_output=True, text=True,
        env={**os.environ, "INFINIOP_ROOT": str(tmp_path), "INFINIOP_FFI": "abi"},
    )  # fmt: skip
    assert done.returncode == 1 and "MISSING" in done.stdout and "make build" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_wrong_command_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["fly"], ["backends", "--loud"]):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and err.startswith("infiniop: ") and err.count("\n") == 1


def test_a_failure_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("the\nsky fell")

    monkeypatch.setattr("infiniop.registry.backends", fail)
    code, _, err = run(capsys, "backends")
    assert code == 1 and err == "infiniop: the sky fell\n"
    monkeypatch.setenv("INFINIOP_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.main(["backends"])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["backends", "--help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0 and "Usage" in out
