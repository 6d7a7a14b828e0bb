"""The benchmarks run, cover the operators, and report what they measured."""

from __future__ import annotations

import json

import pytest

from infiniop.bench import operators, overhead, timing
from infiniop.bench.cases import CASES
from infiniop.bench.shapes import Model, Phase
from infiniop.cli import main
from infiniop.operators import all_operators
from infiniop.schema import F32

SMALL = Model("small", 64, 128, 4, 2, 16, 1, 1000)


def test_every_operator_has_a_case():
    assert set(all_operators()) - set(CASES) == {"linear_packed_size"}, "a size query has nothing to measure"


@pytest.mark.parametrize("phase", [Phase("decode", 1, 32), Phase("prefill", 8, 8)], ids=lambda p: p.name)
@pytest.mark.parametrize("name", CASES)
def test_cases_compute_the_same_amount_as_their_peer(name, phase):
    torch = pytest.importorskip("torch")
    case = CASES[name](SMALL, phase, F32)
    if case is None:
        pytest.skip("no such shape")
    ours, peer = case.run(), case.peer(torch)()
    assert case.bytes > 0
    first = ours[0] if isinstance(ours, tuple) else ours
    theirs = peer[0] if isinstance(peer, tuple) else peer
    if theirs is not None and name not in ("linear_pack", "paged_attention", "paged_attention_prefill"):
        assert first.numel() == theirs.numel()


def test_a_slow_candidate_is_measured_once():
    calls = []
    result = timing.medians({"slow": lambda: calls.append(1), "fast": lambda: None}, seconds=0.0)
    assert set(result) == {"slow", "fast"} and len(calls) == 1


def test_rows_and_summary_on_the_command_line(capsys):
    assert main(["bench", "ops", "--op", "relu", "--dtype", "float32", "--seconds", "0.01", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    points = {(m, p) for m in ("1B", "8B") for p in ("decode", "prefill")}
    assert {(r["model"], r["phase"]) for r in report["rows"]} == points
    assert all(r["us"] > 0 and r["limit"] > 0 for r in report["rows"])


def test_an_unknown_operator_is_one_sentence(capsys):
    assert main(["bench", "ops", "--op", "nothing"]) != 0
    assert "no benchmark for nothing" in capsys.readouterr().err


def test_a_slow_peer_is_left_out_at_larger_shapes(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(operators, "SLOW", 0.0)
    monkeypatch.setattr(operators, "MODELS", (SMALL, SMALL))
    monkeypatch.setattr(operators, "PHASES", (Phase("prefill", 8, 8), Phase("decode", 1, 32)))
    machine = operators.limits.Limits(1, 1.0, 1.0, 1.0, 1.0)
    rows = list(operators.run(machine, ["gemm"], ["float32"], 0.01))
    assert [r.torch_us is None for r in rows] == [False, False, True, True]


def test_summary_caps_ratios_at_four():
    row = operators.Row("op", "float32", "1B", "decode", 1.0, 100.0, 100.0, 1.0, "memory")
    assert operators.summary([row])["float32 geometric mean"] == pytest.approx(4.0)


def test_overhead_shows_every_door_beside_its_peer(capsys, monkeypatch):
    monkeypatch.setattr(
        overhead.timing, "medians", lambda calls, seconds: {name: _timed(call) for name, call in calls.items()}
    )
    assert main(["bench", "overhead", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"infiniop.Tensor, out=", "NumPy, out=", "numpy.add itself, out="} <= set(report["python_ns"])
    kernel, c, replay, *cpp = report["native_ns"].values()
    assert kernel > 0 and c > 0 and replay > 0 and len(cpp) == 4 and all(cpp)


def _timed(call):
    call()
    return 1e-6


def test_a_llama_of_transformers_before_and_after():
    pytest.importorskip("transformers")
    from infiniop.bench import torch_door

    rows = torch_door.llama("float32", prompt=6, tokens=3, layers=1, rounds=1, model=SMALL)
    assert [row.phase for row in rows] == ["prefill", "decode"] and all(row.ratio > 0 for row in rows)
