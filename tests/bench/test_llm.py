"""The model benchmark: its checkpoints, its engines, its report."""

from __future__ import annotations

import functools
import importlib.util
import json

import pytest

from infiniop.bench import checkpoints, engines, limits, llm
from infiniop.bench.shapes import Model
from infiniop.cli import main
from infiniop.lm import AutoLlamaModel

SMALL = Model("small", 128, 256, 4, 2, 32, 2, 1000)


@pytest.fixture
def small(monkeypatch):
    """Memory of a megabyte and products of a moment."""
    monkeypatch.setattr(limits, "_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "_PRODUCT", 64)


def test_a_checkpoint_counts_what_a_token_costs():
    with checkpoints.llama("bfloat16", model=SMALL) as checkpoint:
        model = AutoLlamaModel.from_pretrained(checkpoint.path)
        sizes = {name: t.numel() for name, t in model.state_dict().items()}
        assert checkpoint.weight_bytes == 2 * sum(sizes.values())
        products = sum(n for name, n in sizes.items() if "proj" in name)
        assert checkpoint.flops == 2 * products
        last = 2 * SMALL.vocab * SMALL.hidden
        attention = 2 * 2 * SMALL.heads * SMALL.head_dim * SMALL.layers  # one token sees itself: q·k and p·v
        assert checkpoint.prefill_flops(1) == checkpoint.flops + last + attention
        assert checkpoint.kv_bytes(10) == 10 * 2 * 2 * SMALL.layers * SMALL.kv_heads * SMALL.head_dim
        path = checkpoint.path
    assert not path.exists()


def test_engines_time_every_step():
    with checkpoints.llama("float32", model=SMALL) as checkpoint:
        running = [engines.ours(checkpoint.path)]
        if importlib.util.find_spec("transformers"):
            running.append(engines.transformers(checkpoint.path, "float32"))
        for form in ("F32", "Q8_0", "Q4_0"):
            if peer := engines.llama_cpp(checkpoint, form):
                running.append(peer[0])
        for engine in running:
            timing = engine([1, 2, 3], 5)
            assert timing.prefill > 0 and len(timing.steps) == 4 and min(timing.steps) > 0


def test_a_run_names_the_peers_that_are_absent(small, monkeypatch):
    monkeypatch.setattr(engines, "llama_cpp", lambda *_: None)
    result = llm.run("float32", prompt=8, tokens=4, rounds=1, context=40, model=SMALL)
    assert result.ours.engine == "ours" and "llama.cpp" in result.absent
    assert [(c.tokens, c.cache) for c in result.contexts] == [(40, "static"), (40, "paged")]
    assert 0 < result.python_share < 1 and min(vars(result.start).values()) > 0
    for row in result.rows:
        assert row.decode > 0 and row.read_share == pytest.approx(
            row.decode * row.weight_bytes / (result.limits.read * 1e9)
        )


def test_bytes_are_those_of_the_weights_asked_for(small):
    sizes = [
        llm.run("float32", prompt=4, tokens=3, rounds=1, peers=False, model=SMALL, weights=weights).ours.weight_bytes
        for weights in (None, "int8", "int4", "int4-g128-o4-a8")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_the_command_prints_json(small, monkeypatch, capsys):
    monkeypatch.setattr(llm, "run", functools.partial(llm.run, model=SMALL))
    assert main(["bench", "llm", "--no-peers", "--prompt", "4", "--tokens", "3", "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in report["rows"]] == ["ours"] and report["absent"] == []


@pytest.mark.parametrize("compiler", [True, False])
def test_both_readers_read(small, monkeypatch, compiler):
    limits._reader.cache_clear()
    if not compiler:
        monkeypatch.setattr(limits.shutil, "which", lambda _: None)
    meter = limits.Meter()
    assert meter.read(1) > 0
    limits._reader.cache_clear()
