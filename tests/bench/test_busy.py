"""The benchmark beside another process: its rows, and that its processes come and go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from infiniop.bench import busy, checkpoints, engines
from infiniop.bench.shapes import Model
from infiniop.cli import main

SMALL = Model("small", 128, 256, 4, 2, 32, 2, 1000)


def test_rows_are_by_the_quiet_machine_and_by_one_thread():
    steps = {
        ("quiet", "ours"): [[0.1, 0.1, 0.1]],
        ("quiet", busy.ONE_THREAD): [[0.2, 0.2, 0.2]],
        ("pinned", "ours"): [[0.1, 0.1, 0.4], [0.2, 0.2, 0.2], [0.2, 0.2, 0.2]],
    }
    pinned = busy._rows(steps)[-1]
    assert (pinned.situation, pinned.engine) == ("pinned", "ours")
    assert pinned.decode == pytest.approx(5) and pinned.of_quiet == pytest.approx(0.5)
    assert pinned.of_one_thread == pytest.approx(1) and pinned.worst == pytest.approx(4)


def test_every_situation_has_every_engine(monkeypatch):
    monkeypatch.setattr(busy, "PEERS", ())
    before = dict(os.environ)
    result = busy.run("float32", tokens=4, rounds=2, model=SMALL)
    assert [(r.situation, r.engine) for r in result.rows] == [
        (s, e) for s in busy.SITUATIONS for e in ("ours", busy.ONE_THREAD)
    ]
    assert all(r.decode > 0 and r.worst >= 1 for r in result.rows) and result.threads == engines.thread_count()
    assert dict(os.environ) == before


def test_an_engine_that_is_not_installed_is_none(monkeypatch):
    with checkpoints.llama("float32", model=SMALL) as checkpoint:
        monkeypatch.syspath_prepend(_without("transformers", checkpoint.path))
        with busy._engine("transformers", checkpoint) as engine:
            assert engine is None


def _without(module: str, folder: Path) -> str:
    """A folder in which importing the module fails."""
    (folder / "absent").mkdir()
    (folder / "absent" / f"{module}.py").write_text("raise ImportError")
    return str(folder / "absent")


def test_report_on_the_command_line(monkeypatch, capsys):
    row = busy.Row("pinned", "ours", 12.5, 0.6, 1.2, 1.5)
    monkeypatch.setattr(busy, "run", lambda *_: busy.Result([row], ["llama.cpp"], 2, None))
    assert main(["bench", "busy"]) == 0
    text = capsys.readouterr().out
    assert "12.50 tokens/s" in text and "60% of quiet" in text and "llama.cpp: not installed" in text
    assert main(["bench", "busy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["engine"] == "ours"
