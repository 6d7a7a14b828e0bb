"""Quantised weights: AWQ and GPTQ checkpoints made here, and quantisation at load, against dequantised weights."""

from __future__ import annotations

import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from infiniop.lm import AutoLlamaModel, CheckpointError, InferEngine, LlamaConfig
from infiniop.lm.arrays import infini_to_numpy
from infiniop.lm.checkpoint import Checkpoint
from infiniop.lm.packing import Quantization
from infiniop.lm.quantized import QuantizedCheckpoint, QuantizedWeight

QUANTISED = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")
BOUND = 5e-4  # of the largest logit, f32: linear rounds activations to int16; the worst seen is 2.3e-4


def words(nibbles: np.ndarray, bits: int, order=tuple(range(8))) -> np.ndarray:
    """`[rows, columns]` of int32 from `[rows, columns * 32 / bits]` integers; `order[i]`: whose bits come i-th."""
    per = 32 // bits
    grouped = nibbles.reshape(len(nibbles), -1, per).astype(np.uint64)
    packed = sum(grouped[..., order[i]] << np.uint64(bits * i) for i in range(per))
    return np.ascontiguousarray(packed.astype(np.uint32)).view(np.int32)


def awq_tensors(q, zeros, scales):
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {"qweight": words(q.T, 4, order), "qzeros": words(zeros.T, 4, order), "scales": scales.T.copy()}


def gptq_tensors(q, zeros, scales, bits=4, offset=1, g_idx=None):
    stored = (zeros.astype(np.int64) - offset) % 2**bits
    found = {"qweight": words(q, bits).T.copy(), "qzeros": words(stored.T, bits), "scales": scales.T.copy()}
    groups = np.arange(q.shape[1]) // (q.shape[1] // scales.shape[1])
    return found | {"g_idx": (groups if g_idx is None else g_idx).astype(np.int32)}


FORMATS = {
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}, awq_tensors),
    "gptq": ({"quant_method": "gptq", "bits": 4, "sym": False}, gptq_tensors),
    "gptq-v2": (
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
        lambda *q: gptq_tensors(*q, offset=0),
    ),
    "gptq-8": ({"quant_method": "gptq", "bits": 8}, lambda *q: gptq_tensors(*q, bits=8)),
}


def random_weight(rng, n, k, groups, bits):
    """Integers, zero points, f16 scales, whose product looks like a layer's weight."""
    q = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
    zeros = rng.integers(2 ** (bits - 1) - 2, 2 ** (bits - 1) + 3, (n, groups)).astype(np.uint8)
    scales = (rng.uniform(0.5, 1.5, (n, groups)) * 0.3 / 2**bits).astype(np.float16)
    return q, zeros, scales


@pytest.fixture
def quantised(checkpoint, tmp_path):
    """`quantised(format, architecture, group_size)`: a folder in that format, and one with the same weights
    dequantised in f32."""

    def make(name, architecture="llama-mha", group_size=32, act_order=False):
        config, tensors_of = FORMATS[name]
        source = checkpoint(architecture).path
        rng = np.random.default_rng(1)
        files = Checkpoint(source)
        packed, plain = {}, {}
        for tensor in files:
            value = files.array(tensor)
            if not QUANTISED.fullmatch(tensor):
                packed[tensor] = plain[tensor] = value.astype(np.float32)
                continue
            n, k = value.shape
            size = k if group_size == -1 else group_size
            q, zeros, scales = random_weight(rng, n, k, k // size, config["bits"])
            g_idx = rng.permutation(np.arange(k) // size) if act_order else None
            more = {"g_idx": g_idx} if act_order else {}
            weight = QuantizedWeight(config["bits"], q, scales, zeros, g_idx)
            plain[tensor] = weight.dequantized()
            parts = gptq_tensors(q, zeros, scales, **more) if act_order else tensors_of(q, zeros, scales)
            packed |= {tensor.replace("weight", part): array for part, array in parts.items()}
        folders = tmp_path / "quantised", tmp_path / "plain"
        for folder, values in zip(folders, (packed, plain), strict=True):
            shutil.copytree(source, folder)
            save_file(values, folder / "model.safetensors")
        edit(folders[0], {**config, "group_size": group_size, "desc_act": act_order})
        return folders

    return make


def edit(folder, quantization_config):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": quantization_config}))


def logits(model, rows) -> np.ndarray:
    return np.concatenate([np.atleast_2d(infini_to_numpy(model([row]))[0]).astype(np.float64) for row in rows])


def assert_close(found, expected, bound):
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    assert worst <= bound, f"{worst:.2g} of the largest logit"


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("group_size", [32, -1])
def test_logits_are_those_of_the_dequantised_weights(quantised, prompts, name, group_size):
    folder, plain = quantised(name, group_size=group_size)
    rows = prompts(1, 5, 40)
    found = AutoLlamaModel.from_pretrained(folder, dtype="float32")
    expected = AutoLlamaModel.from_pretrained(plain, dtype="float32")
    assert_close(logits(found, rows), logits(expected, rows), BOUND)
    assert (
        found.generate(rows, 12, stop_on_eos=False).token_ids
        == expected.generate(rows, 12, stop_on_eos=False).token_ids
    )


def test_integers_stay_packed(quantised):
    folder, _ = quantised("awq")
    state = AutoLlamaModel.from_pretrained(folder, dtype="float32").state_dict()
    weight = state["model.layers.0.mlp.down_proj.weight"]
    n, k = 96, 224
    assert weight.ndim == 1 and weight.nbytes < n * k * 1.5  # a byte per weight would be two of bf16's
    assert state["model.layers.0.mlp.down_proj.bias"].shape == (96,)


def test_act_order_is_dequantised_with_a_warning(quantised, prompts, caplog):
    folder, plain = quantised("gptq", act_order=True)
    model = AutoLlamaModel.from_pretrained(folder, dtype="float32")
    assert "act order" in caplog.text
    expected = AutoLlamaModel.from_pretrained(plain, dtype="float32")
    assert_close(logits(model, prompts(9)), logits(expected, prompts(9)), 1e-6)


def test_half_types_run_quantised_checkpoints(quantised, prompts):
    folder, plain = quantised("awq")
    expected = logits(AutoLlamaModel.from_pretrained(plain, dtype="float32"), prompts(1, 30))
    for dtype in ("float16", "bfloat16"):
        own = logits(AutoLlamaModel.from_pretrained(plain, dtype=dtype), prompts(1, 30))
        found = logits(AutoLlamaModel.from_pretrained(folder, dtype=dtype), prompts(1, 30))
        rms = [np.sqrt(np.mean((x - expected) ** 2)) for x in (found, own)]
        assert rms[0] <= 1.25 * rms[1], f"{dtype}: {rms}"  # no worse than the dtype itself


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.sampled_from(list(FORMATS)), st.integers(0, 2**32 - 1)
)
def test_unpacking_inverts_packing(tmp_path_factory, n, size, groups, name, seed):
    config, tensors_of = FORMATS[name]
    n, k = 8 * n, 8 * size * groups
    q, zeros, scales = random_weight(np.random.default_rng(seed), n, k, groups, config["bits"])
    zeros = np.random.default_rng(seed).integers(0, 2 ** config["bits"], zeros.shape).astype(np.uint8)
    folder = tmp_path_factory.mktemp("packed")
    save_file(
        {f"x.{part}": array for part, array in tensors_of(q, zeros, scales).items()}, folder / "model.safetensors"
    )
    checkpoint = QuantizedCheckpoint(Checkpoint(folder), config)
    assert list(checkpoint) == ["x.weight"] and checkpoint.shape("x.weight") == (n, k)
    found = checkpoint.array("x.weight")
    np.testing.assert_array_equal(found.integers, q)
    np.testing.assert_array_equal(found.zeros, zeros)
    np.testing.assert_array_equal(found.scales, scales)
    assert found.group_size == k // groups and found.column_groups is None


def drop(part):
    return lambda tensors, name: tensors.pop(f"{name}.{part}")


def replace(part, change):
    def edit_part(tensors, name):
        tensors[f"{name}.{part}"] = np.ascontiguousarray(change(tensors[f"{name}.{part}"]))

    return edit_part


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("scales"), "without .*scales"),
        (drop("qzeros"), "without .*qzeros"),
        (replace("scales", lambda a: a[:, 1:]), "does not divide"),
        (replace("scales", lambda a: np.concatenate([a, a])), "qzeros has shape"),
        (replace("scales", lambda a: a.reshape(-1)), "two axes"),
        (replace("qweight", lambda a: a.astype(np.int64)), "must be int32"),
        (replace("qweight", lambda a: a[8:]), "shape|divide"),
        (replace("g_idx", lambda a: a[1:]), "g_idx must have"),
        (replace("g_idx", lambda a: a - 1), "groups from 0"),
        (replace("g_idx", lambda a: a + 1), "groups from 0"),
    ],
)
def test_damaged_layers_are_refused(quantised, damage, message):
    folder, _ = quantised("gptq")
    files = Checkpoint(folder)
    tensors = {name: files.array(name).copy() for name in files}
    del files
    damage(tensors, "model.layers.1.self_attn.o_proj")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        AutoLlamaModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "awq", "bits": 4, "version": "gemv"},
        {"quant_method": "gptq", "bits": 3}, {"quant_method": "awq", "bits": 8}, {}, "awq",
    ],
)  # fmt: skip
def test_other_methods_are_named(quantised, config):
    folder, _ = quantised("gptq")
    edit(folder, config)
    with pytest.raises(CheckpointError, match=r"supported are awq|must be an object"):
        AutoLlamaModel.from_pretrained(folder)


# ------------------------------------------------------------------------------------------- quantising at load


def as_packed(weight: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    """A float weight as `linear_pack` says that it quantises it, in f32."""
    groups = weight.astype(np.float32).reshape(len(weight), -1, group_size)
    high, low = groups.max(-1), groups.min(-1)
    if bits == 8:
        scales = np.maximum(high, -low) / np.float32(127)
    else:
        scales = np.where(-low >= high, low, high) / np.float32(-8)
    scales = scales.astype(ml_dtypes.bfloat16).astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(scales == 0, 0, np.rint(groups / scales))
    limits = (-127, 127) if bits == 8 else (-8, 7)
    return (np.clip(q, *limits) * scales).reshape(weight.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("quantize", "bits", "group", "output"),
    [("int8", 8, 32, 8), ("int4", 4, 32, 8), ("int4-o4", 4, 32, 4), ("int8-g16-o4", 8, 16, 4)],
)
@pytest.mark.parametrize("architecture", ["llama-gqa", "llama-mqa-tied", "qwen2"])
def test_quantised_at_load(checkpoint, prompts, tmp_path, quantize, bits, group, output, architecture):
    """The logits are those of the weights that `linear_pack` documents; the tied output is int8 unless told."""
    source, rows = checkpoint(architecture).path, prompts(1, 17)
    model = AutoLlamaModel.from_pretrained(source, dtype="float32", quantize=quantize)
    files = Checkpoint(source)
    tensors = {name: files.array(name) for name in files}
    if "lm_head.weight" not in tensors:
        tensors["lm_head.weight"] = as_packed(tensors["model.embed_tokens.weight"], output, group)
    elif not model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = as_packed(tensors["lm_head.weight"], bits, group)
    for name in tensors:
        if QUANTISED.fullmatch(name):
            tensors[name] = as_packed(tensors[name], bits, group)
    plain = shutil.copytree(source, tmp_path / "plain")
    save_file(tensors, plain / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    expected = AutoLlamaModel.from_pretrained(plain, dtype="float32")
    assert_close(logits(model, rows), logits(expected, rows), BOUND)
    assert model.state_dict()["model.layers.0.self_attn.q_proj.weight"].ndim == 1
    assert model.state_dict()["model.embed_tokens.weight"].ndim == 2


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_activations_of_8_bits(checkpoint, prompts, quantize):
    """256 times as coarse as the rounding whose bound is `BOUND`."""
    source, rows = checkpoint("llama-gqa").path, prompts(1, 17)
    exact = logits(AutoLlamaModel.from_pretrained(source, dtype="float32", quantize=quantize), rows)
    rounded = logits(AutoLlamaModel.from_pretrained(source, dtype="float32", quantize=f"{quantize}-a8"), rows)
    off = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(exact, rounded, strict=True))
    assert BOUND < off < 256 * BOUND


def test_parameters_given_one_by_one_are_quantised(checkpoint, prompts):
    pair = checkpoint("llama-mqa-tied")
    engine = InferEngine(LlamaConfig.from_pretrained(pair.path), dtype="float32", quantize="int8")
    files = Checkpoint(pair.path)
    engine.load_params({name: files.array(name) for name in files})
    (row,) = prompts(9)
    whole = AutoLlamaModel.from_pretrained(pair.path, dtype="float32", quantize="int8")
    step = InferEngine.Input([row], return_logits=True)
    first = infini_to_numpy(engine.forward(step).logits)
    np.testing.assert_array_equal(first[0], infini_to_numpy(whole([row]))[0, -1])
    engine.load_param("model.embed_tokens.weight", 2 * files.array("model.embed_tokens.weight"))
    second = infini_to_numpy(engine.forward(InferEngine.Input([row], return_logits=True)).logits)
    assert not np.allclose(first, second)  # the tied output follows


def test_unknown_formats_and_devices_are_refused(checkpoint):
    path = checkpoint("llama-gqa").path
    for unknown in ("int3", "int4-g4", "int4-g0128", "int4-a8-o4", "int4-a16", ""):
        with pytest.raises(ValueError, match=r"quantize must be int8 or int4, .* \(as in int4-g128-o4-a8\).* got '"):
            AutoLlamaModel.from_pretrained(path, quantize=unknown)


def test_what_a_quantisation_asks_for():
    assert Quantization.parse("int8") == Quantization("int8", 32, "int8", 16)
    assert Quantization.parse("int4-a8") == Quantization("int4", 32, "int8", 8)
    assert Quantization.parse("int4-g128-o4-a8") == Quantization("int4", 128, "int4", 8)


def test_bfloat16_scales_are_taken(tmp_path):
    q, zeros, scales = random_weight(np.random.default_rng(0), 16, 64, 2, 4)
    tensors = awq_tensors(q, zeros, scales.astype(ml_dtypes.bfloat16))
    save_file({f"x.{part}": array for part, array in tensors.items()}, tmp_path / "model.safetensors")
    found = QuantizedCheckpoint(Checkpoint(tmp_path), FORMATS["awq"][0]).array("x.weight")
    assert found.scales.dtype == ml_dtypes.bfloat16
