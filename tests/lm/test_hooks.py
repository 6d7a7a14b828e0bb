"""HookRegistry: names, order of precedence, every point of the forward pass, exceptions."""

from __future__ import annotations

import traceback

import numpy as np
import pytest

from infiniop.lm import AutoLlamaModel, HookRegistry, infini_to_numpy
from infiniop.lm.hooks import LAYER_POINTS, MODEL_POINTS

torch = pytest.importorskip("torch")


@pytest.fixture(params=["llama-gqa", "qwen3"])
def pair(checkpoint, request):
    return checkpoint(request.param)


def capture(model, rows, name="*"):
    registry, seen = HookRegistry(), {}
    registry.register_hook(
        name, lambda point, tensor, layer: seen.setdefault(point, (infini_to_numpy(tensor).copy(), layer))
    )
    model.set_hook_registry(registry)
    model(rows)
    model.set_hook_registry(None)
    return seen


def test_every_documented_point_is_called(pair, prompts):
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    seen = capture(model, prompts(5))
    norms = {"q_norm", "k_norm"} if model.config.family == "qwen3" else set()
    points = set(LAYER_POINTS) - {"q_norm", "k_norm"} | norms
    assert set(seen) == {f"layer{i}_{point}" for i in range(3) for point in points} | set(MODEL_POINTS)
    assert all(layer == (int(name[5]) if name.startswith("layer") else -1) for name, (_, layer) in seen.items())


def test_points_see_what_transformers_computes(pair, prompts):
    (row,) = prompts(6)
    expected = {}
    layer = pair.peer.model.layers[1]
    modules = {
        "q_proj": layer.self_attn.q_proj, "v_proj": layer.self_attn.v_proj, "o_proj": layer.self_attn.o_proj,
        "input_norm": layer.input_layernorm, "post_attention_norm": layer.post_attention_layernorm,
        "gate_proj": layer.mlp.gate_proj, "down_proj": layer.mlp.down_proj,
    }  # fmt: skip

    def keep(name):
        return lambda module, inputs, out: expected.update({name: out[0].numpy()})

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    pair.logits([row])
    for handle in handles:
        handle.remove()
    seen = capture(AutoLlamaModel.from_pretrained(pair.path, dtype="float32"), [row], "layer1_*")
    for name, value in expected.items():
        np.testing.assert_allclose(seen[f"layer1_{name}"][0], value, atol=2e-4 * np.abs(value).max())
    q = seen["layer1_q_proj"][0].reshape(6, 8, -1)
    assert not np.allclose(seen["layer1_q_after_rope"][0], q, atol=1e-3)


def test_an_exact_name_comes_before_a_prefix():
    registry, calls = HookRegistry(), []
    for name in ("layer0_*", "layer0_q_proj", "*", "layer0_q*"):
        registry.register_hook(name, lambda point, tensor, layer, name=name: calls.append(name))
    for point in ("layer0_q_proj", "layer0_q_norm", "layer0_o_proj", "logits"):
        registry.call_hook(point, None)
    assert calls == ["layer0_q_proj", "layer0_q*", "layer0_*", "*"]


def test_clear_and_has_hooks():
    registry = HookRegistry()
    assert not registry.has_hooks()
    registry.register_hook("logits", lambda *a: pytest.fail("called"))
    assert registry.has_hooks()
    registry.clear()
    assert not registry.has_hooks()
    registry.call_hook("logits", None)
    with pytest.raises(TypeError, match="callable"):
        registry.register_hook("logits", 3)


def test_exceptions_reach_the_caller_with_their_traceback(checkpoint, prompts):
    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path)

    def broken_hook(name, tensor, layer):
        raise ZeroDivisionError(name)

    registry = HookRegistry()
    registry.register_hook("layer2_up_proj", broken_hook)
    model.set_hook_registry(registry)
    with pytest.raises(ZeroDivisionError, match="layer2_up_proj") as caught:
        model.generate(prompts(5), 3)
    assert "broken_hook" in "".join(traceback.format_tb(caught.tb))
    registry.clear()
    assert len(model.generate(prompts(5), 3).token_ids[0]) == 3
