"""The commands: what they print, and one sentence instead of a traceback."""

from __future__ import annotations

import importlib
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "ops", "--dtype", "nope"], "no benchmark for nope; there are float32"),
        (["bench", "ops", "--seconds", "-1"], "--seconds"),
        (["bench", "llm", "--layers", "0"], "--layers"),
        (["chat", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_wrong_values_are_refused_before_anything_runs(capsys, arguments, words) -> None:
    code, out, err = run(capsys, *arguments)
    assert code and not out and err.startswith("infiniop: ") and words in err and err.count("\n") == 1


def test_missing_packages_are_named_with_their_extra(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(cli, "build", lambda: lambda *_, **__: importlib.import_module("jinja2"))
    code, _, err = run(capsys, "chat", "x")
    assert code == 1 and err.endswith(": pip install 'infiniop[lm]'\n")


def test_without_stdout() -> None:
    """As under a supervisor that closes it."""
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m infiniop backends >&-"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_narrow_terminals_cut_nothing_off(monkeypatch) -> None:
    from infiniop.cli.backends import _console

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    assert _console().width == 80


def test_version(capsys) -> None:
    import infiniop

    assert run(capsys, "--version") == (0, f"{infiniop.__version__}\n", "")
