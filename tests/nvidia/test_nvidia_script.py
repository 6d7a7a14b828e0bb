"""scripts/nvidia.py: what becomes of its processes, and wheels for a machine without network. scripts/nvidia_bench.py:
what fails costs its own row or figure."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"{name}_script", Path(__file__).parents[2] / "scripts" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Any:
    return load("nvidia")


def python(script: Any, name: str, program: str, seconds: int = 60) -> Any:
    return script.Piece(name, [sys.executable, "-c", program], seconds, {"WORD": "heard"})


def test_pieces_fail_alone(script: Any, tmp_path: Path) -> None:
    runner = script.Runner(tmp_path, 5, 2, {})
    runner.together(
        [
            python(script, "good", "import os; print(os.environ['WORD']); print('3 passed in 1s')"),
            python(script, "bad", "import sys; print('what is wrong'); sys.exit(3)"),
            python(script, "endless", "import time; print('began', flush=True); time.sleep(60)", 1),
        ]
    )
    summary, log = ((tmp_path / name).read_text() for name in ("summary.txt", "log.txt"))
    lines = {line.split()[0]: line for line in summary.splitlines()}
    assert "passed" in lines["good"] and lines["good"].endswith("3 passed in 1s")
    assert "failed (3)" in lines["bad"] and "ran out of time" in lines["endless"]
    assert sorted(runner.failed) == ["bad", "endless"]
    assert "what is wrong" in log and "began" in log and "heard" not in log


def test_after_its_minutes_nothing_begins(script: Any, tmp_path: Path) -> None:
    runner = script.Runner(tmp_path, 0, 1, {})
    runner.run(python(script, "late", f"open({str(tmp_path / 'began')!r}, 'w')"))
    assert runner.failed == ["late"] and not (tmp_path / "began").exists()
    assert "not reached" in (tmp_path / "summary.txt").read_text()


def test_only_missing_wheels_are_installed(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("infiniop-0.1.0-cp311-abi3-linux_x86_64", "numpy-9-py3-none-any", "nobody_has_this-1-py3-none-any"):
        (tmp_path / f"{name}.whl").touch()
    commands: list[list[str]] = []
    monkeypatch.setattr(script.subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(script.shutil, "rmtree", lambda *_, **__: None)
    script.install(tmp_path)
    (command,) = commands
    assert "--no-index" in command
    assert [Path(word).name.split("-")[0] for word in command if word.endswith(".whl")] == [
        "infiniop", "nobody_has_this",
    ]  # fmt: skip


def test_figures_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    bench, file = load("nvidia_bench"), tmp_path / "figures.json"

    def no_row(b: Any, limits: Any) -> Any:
        yield b.row("before", lambda: None, "")
        raise RuntimeError("no memory")

    def one_row(b: Any, limits: Any) -> Any:
        yield b.row("wrong", lambda: bench.ops.gemm(1, 2), "")
        yield b.row("right", lambda: None, "")

    monkeypatch.setattr(bench, "FIGURES", {f.__name__: f for f in (one_row, no_row)})
    monkeypatch.setattr(bench.sys, "argv", ["", "--device", "cpu", "--small", "--json", str(file)])
    assert bench.main() == 1
    rows = {row["figure"]: row for row in json.loads(file.read_text())["rows"]}
    assert [name for name, row in rows.items() if row["us"] is None] == ["wrong", "no_row"]
    assert rows["no_row"]["aim"] == "no memory" and rows["right"]["us"] is not None
    assert "failed: no memory" in capsys.readouterr().out
