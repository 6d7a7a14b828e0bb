"""Weights that meet the same input lie together on devices of their own: here the CPU counts as one."""

from __future__ import annotations

import numpy as np
import pytest

from infiniop.lm import AutoLlamaModel, HookRegistry, infini_to_numpy, layers

ARCHITECTURES = ["llama-gqa", "llama-mha", "qwen2", "qwen3"]


@pytest.fixture
def anywhere(monkeypatch):
    monkeypatch.setattr(layers, "worth_joining", lambda weight: weight.ndim == 2)


def logits(model, rows):
    return infini_to_numpy(model(rows)).copy()


def launches(model, rows):
    """Names of the products and rotations of a forward pass."""
    seen, f = [], model._f
    linear, rope = f.linear, f.rope
    f.linear = lambda *given: seen.append("linear") or linear(*given)
    f.rope = lambda *given: seen.append("rope") or rope(*given)
    model(rows)
    f.linear, f.rope = linear, rope
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_logits_by_fewer_launches(checkpoint, prompts, monkeypatch, architecture):
    pair, rows = checkpoint(architecture), prompts(9, 4, 17)
    apart = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    expected, many = logits(apart, rows), launches(apart, rows)
    monkeypatch.setattr(layers, "worth_joining", lambda weight: weight.ndim == 2)
    joined = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    assert np.abs(logits(joined, rows) - expected).max() <= 1e-5 * np.abs(expected).max()
    few, depth = launches(joined, rows), joined.config.num_hidden_layers
    assert (many.count("linear"), many.count("rope")) == (7 * depth + 1, 2 * depth)
    assert (few.count("linear"), few.count("rope")) == (4 * depth + 1, depth)
    options = {"temperature": 0.8, "top_k": 40, "seed": 5}
    assert joined.generate(rows, 6, **options).token_ids == apart.generate(rows, 6, **options).token_ids


@pytest.mark.parametrize("changed", [["q_proj"], ["v_proj", "k_proj"], ["k_proj", "k_proj", "q_proj"]])
def test_a_weight_given_later_counts(checkpoint, prompts, monkeypatch, changed):
    pair, rows = checkpoint("llama-mha"), prompts(6, 3)
    apart, joined = (AutoLlamaModel.from_pretrained(pair.path, dtype="float32") for _ in range(2))
    before = logits(apart, rows)
    with monkeypatch.context() as patch:
        patch.setattr(layers, "worth_joining", lambda weight: weight.ndim == 2)
        logits(joined, rows)
        for i, name in enumerate(changed):
            for kind in ("weight", "bias"):
                full = f"model.layers.1.self_attn.{name}.{kind}"
                value = infini_to_numpy(apart.state_dict()[full]) * (0.5 + i)
                for model in (apart, joined):
                    model.load_param(full, value)
            found = logits(joined, rows)
    expected = logits(apart, rows)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (expected != before).any()


def test_hooks_see_each_layer_alone(checkpoint, prompts, anywhere):
    pair, rows = checkpoint("qwen2"), prompts(5, 2)
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    logits(model, rows)
    state = {name: infini_to_numpy(tensor) for name, tensor in model.state_dict().items()}
    seen: dict[str, np.ndarray] = {}
    hooks = HookRegistry()
    hooks.register_hook("layer0_*", lambda name, tensor, _: seen.setdefault(name, infini_to_numpy(tensor).copy()))
    model.set_hook_registry(hooks)
    logits(model, rows)
    normed = seen["layer0_input_norm"]
    for name in ("q_proj", "k_proj", "v_proj"):
        weight, bias = (state[f"model.layers.0.self_attn.{name}.{kind}"] for kind in ("weight", "bias"))
        np.testing.assert_allclose(seen[f"layer0_{name}"], normed @ weight.T + bias, atol=1e-4)
    assert {"layer0_gate_proj", "layer0_up_proj", "layer0_q_after_rope"} <= set(seen)


def test_packed_weights_stay_apart(checkpoint, prompts, anywhere):
    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32", quantize="int8")
    logits(model, prompts(4))
    assert all(getattr(module, "joined", None) is None or module.joined.weight is None for module in model.modules())
