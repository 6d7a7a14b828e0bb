"""Reading safetensors: shards, zero copies, and every kind of damage."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from infiniop.lm import AutoLlamaModel, CheckpointError
from infiniop.lm.arrays import infini_to_numpy
from infiniop.lm.checkpoint import Checkpoint, SafetensorsFile

torch = pytest.importorskip("torch")


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of a small Llama's folder, to be damaged."""
    return shutil.copytree(checkpoint("llama-gqa").path, tmp_path / "model")


def edit_json(path, **changed):
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **changed}))


def rewrite(folder, change):
    """Applies `change` to the dictionary of all tensors in model.safetensors."""
    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {name: file.array(name).copy() for name in file.names}
    change(tensors)
    del file
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_])
def test_arrays_are_those_that_were_saved(tmp_path, dtype):
    saved = {
        "a": np.arange(12).reshape(3, 4).astype(dtype),
        "scalar": np.array(1).astype(dtype),
        "none": np.zeros((0, 4), dtype),
    }
    save_file(saved, tmp_path / "x.safetensors", metadata={"format": "np"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert set(file.names) == set(saved)
    for name, expected in saved.items():
        found = file.array(name)
        assert found.dtype == expected.dtype and found.shape == expected.shape == file.shape(name)
        np.testing.assert_array_equal(found, expected)


def test_weights_are_views_of_the_file(checkpoint):
    pair = checkpoint("llama-gqa")
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    mapped = Checkpoint(pair.path)
    for name, tensor in model.state_dict().items():
        base = infini_to_numpy(tensor)
        assert not base.flags.owndata
        np.testing.assert_array_equal(base, mapped.array(name))
    owners = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(pair.path) in line]
    spans = [tuple(int(part, 16) for part in line.split()[0].split("-")) for line in owners]
    pointer = model.state_dict()["model.norm.weight"].data_ptr
    assert any(low <= pointer < high for low, high in spans)


def test_writing_to_a_weight_leaves_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    model = AutoLlamaModel.from_pretrained(folder, dtype="float32")
    infini_to_numpy(model.state_dict()["model.norm.weight"])[:] = 0
    assert (folder / "model.safetensors").read_bytes() == before


def test_shards(checkpoint, tmp_path, prompts):
    pair = checkpoint("qwen2")
    pair.peer.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    whole, sharded = (AutoLlamaModel.from_pretrained(path, dtype="float32") for path in (pair.path, tmp_path))
    rows = prompts(9)
    np.testing.assert_array_equal(infini_to_numpy(sharded(rows)), infini_to_numpy(whole(rows)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "torch.float16", torch.bfloat16, np.float32])
def test_dtype_is_honoured_and_logged(checkpoint, caplog, dtype):
    with caplog.at_level(logging.INFO, "infiniop.lm"):
        model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, device="cpu", dtype=dtype)
    assert {t.dtype for t in model.state_dict().values()} == {model.dtype}
    assert f"device cpu, dtype {model.dtype!r}" in caplog.text and "seconds" in caplog.text


@pytest.mark.parametrize("dtype", ["float64", "int8", np.int32, torch.float64, "nonsense", 7.5])
def test_other_dtypes_are_refused(checkpoint, dtype):
    with pytest.raises(ValueError, match="float32, bfloat16 or float16"):
        AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype=dtype)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, -1])
def test_truncated_files(folder, keep):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or corrupt"):
        AutoLlamaModel.from_pretrained(folder)


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack("<Q", 2**63) + bytes(64), "claims"),
        (struct.pack("<Q", 4) + b"\xff\xfe{}", "not valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "not valid JSON"),
        (header(a=GOOD) + bytes(4), "ends at byte 8 of the data, the file has 4"),
        (header(a={**GOOD, "shape": [3]}) + bytes(8), "does not take 8 bytes"),
        (header(a={**GOOD, "shape": [-2]}) + bytes(8), "malformed"),
        (header(a={**GOOD, "shape": [True, 2]}) + bytes(8), "malformed"),
        (header(a={**GOOD, "data_offsets": [8, 0]}) + bytes(8), "does not take -8 bytes"),
        (header(a={"dtype": "F32"}) + bytes(8), "malformed"),
        (header(a=[1]) + bytes(8), "malformed"),
        (header(a={**GOOD, "shape": [2**70, 0], "data_offsets": [0, 0]}), "malformed"),
        (header(a={**GOOD, "shape": [1] * 70, "data_offsets": [0, 4]}) + bytes(4), "malformed"),
        (header(a={**GOOD, "dtype": []}) + bytes(8), "malformed"),
        (struct.pack("<Q", 5007) + b'{"a":[' + b"9" * 5000 + b"}", "not valid JSON"),
        (header(a={**GOOD, "dtype": "F12"}) + bytes(8), "F12"),
        (header(a=GOOD, b={**GOOD, "data_offsets": [4, 12]}) + bytes(16), "overlaps"),
    ],
)
def test_corrupt_headers(tmp_path, content, words):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        Checkpoint(tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_header_is_an_error_or_a_readable_file(tmp_path, data):
    content = bytearray(header(a=GOOD, b={"dtype": "I64", "shape": [1, 1], "data_offsets": [8, 16]}) + bytes(16))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"{data.draw(st.uuids())}.safetensors"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))
    try:
        file = SafetensorsFile(path)
    except CheckpointError as error:
        assert path.name in str(error)
    else:
        assert all(file.array(name).shape == file.shape(name) for name in file.names)


def test_a_misaligned_tensor_is_read_all_the_same(tmp_path):
    text = json.dumps(
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {**GOOD, "data_offsets": [1, 9]}}
    )
    text += " " * (-len(text) % 8)
    values = np.array([1.5, -2.0], np.float32)
    content = struct.pack("<Q", len(text)) + text.encode() + b"\x07" + values.tobytes()
    (tmp_path / "x.safetensors").write_bytes(content)
    found = SafetensorsFile(tmp_path / "x.safetensors").array("b")
    assert found.flags.aligned
    np.testing.assert_array_equal(found, values)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        AutoLlamaModel.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        AutoLlamaModel.from_pretrained(folder / "nowhere")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "not valid JSON"),
        ("{}", "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "absent.safetensors does not exist"),
        ('{"weight_map": {"a": "model.safetensors"}}', "which does not have it"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "not in the model's own folder"),
    ],
)
def test_bad_indices(folder, index, words):
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=words):
        AutoLlamaModel.from_pretrained(folder)


def test_missing_tensors_are_named(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks tensors .*: model\.layers\.1\.mlp\.up_proj\.weight$"):
        AutoLlamaModel.from_pretrained(folder)


def test_surplus_tensors_are_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(8, np.float32)}))
    with pytest.raises(CheckpointError, match=r"does not ask for: model\.layers\.0\.self_attn\.q_proj\.bias$"):
        AutoLlamaModel.from_pretrained(folder)


def test_integer_weights_are_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": np.zeros(96, np.int8)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is int8; weights must be"):
        AutoLlamaModel.from_pretrained(folder)


def test_redundant_tensors_are_passed_over(folder):
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32)}))
    AutoLlamaModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_hidden_layers": 4}, "lacks tensors that config.json asks for: model.layers.3"),
        ({"num_hidden_layers": 2}, "has tensors that config.json does not ask for: model.layers.2"),
        ({"num_key_value_heads": 4}, r"k_proj.weight has shape \[24, 96\], the configuration asks for \[48, 96\]"),
        ({"vocab_size": 641}, r"embed_tokens.weight has shape \[640, 96\], the configuration asks for \[641, 96\]"),
        ({"attention_bias": True}, "lacks tensors"),
        ({"tie_word_embeddings": True, "model_type": "qwen3"}, "lacks tensors"),
    ],
)
def test_a_configuration_that_contradicts_the_weights(folder, changed, words):
    edit_json(folder / "config.json", **changed)
    with pytest.raises(CheckpointError, match=words):
        AutoLlamaModel.from_pretrained(folder)


def test_an_unknown_model_type_names_the_supported_ones(folder):
    edit_json(folder / "config.json", model_type="gpt2")
    with pytest.raises(ValueError, match="unknown model_type 'gpt2': supported are llama, mistral, qwen2, qwen3"):
        AutoLlamaModel.from_pretrained(folder)
