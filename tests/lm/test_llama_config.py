"""`LlamaConfig`: Hugging Face's names and defaults, reading, validation."""

from __future__ import annotations

import json

import pytest

from infiniop.lm import LlamaConfig, load_config, supported_models
from infiniop.lm.models import model_class

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_defaults_are_those_of_transformers(family):
    peer = getattr(transformers, f"{family}Config")()
    ours = model_class(family.lower()).config_class()
    names = [
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
        "initializer_range", "pad_token_id",
    ]  # fmt: skip
    assert {n: getattr(ours, n) for n in names} == {n: getattr(peer, n) for n in names}
    for name in ("bos_token_id", "eos_token_id"):
        theirs = getattr(peer, name)
        assert getattr(ours, name) == ([] if theirs is None else [theirs])
    assert ours.rope_theta == peer.rope_parameters["rope_theta"]
    assert ours.attention_window == (peer.sliding_window if family == "Mistral" else None)


def test_token_ids_take_an_int_or_a_list():
    config = LlamaConfig(bos_token_id=5, eos_token_id=[6, 7])
    assert config.bos_token_id == [5] and config.eos_token_id == [6, 7]
    config.bos_token_id = 9
    assert config.bos_token_id == [9]
    for name in ("bos_token_id", "eos_token_id"):
        for wrong in ("1", 1.5, [1, "2"], True):
            with pytest.raises(TypeError, match=f"^{name} must be int or list of ints$"):
                LlamaConfig(**{name: wrong})


def test_derived_sizes():
    config = LlamaConfig(hidden_size=512, num_attention_heads=8, num_key_value_heads=2)
    assert (config.head_dim, config.kv_dim()) == (64, 128)
    config = LlamaConfig(hidden_size=512, num_attention_heads=8, num_key_value_heads=2, head_dim=128)
    assert config.kv_dim() == 256
    config.validate()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size .100. must be divisible by num_attention_heads"),
        (
            {"num_attention_heads": 32, "num_key_value_heads": 5},
            "num_attention_heads .32. must be divisible by num_key_value",
        ),
        ({"vocab_size": 0}, "vocab_size must be a positive integer"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers must be a positive integer"),
        ({"head_dim": 63}, "head_dim .63. must be even"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be positive"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object or null"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": 1.0, "long_factor": 1.0}},
            "short_factor must be a list",
        ),
    ],
)
def test_validate_names_the_constraint(fields, words):
    with pytest.raises(ValueError, match=words):
        LlamaConfig(**fields).validate()


def test_windows_are_transformers(tmp_path):
    """A window counts where transformers looks at it, and nowhere else."""
    size = {"num_hidden_layers": 3, "sliding_window": 24}
    assert LlamaConfig.from_dict(size).attention_window is None  # no field of Llama's
    assert model_class("mistral").config_class.from_dict(size).attention_window == 24
    full, sliding = "full_attention", "sliding_attention"
    for given in (
        {}, {"max_window_layers": 0}, {"max_window_layers": 2}, {"max_window_layers": 3}, {"layer_types": [full] * 3},
        {"layer_types": [sliding] * 3}, {"layer_types": [full, sliding, full], "max_window_layers": 0},
        {"layer_types": [sliding] * 3, "use_sliding_window": False},
        {"layer_types": [sliding] * 3, "sliding_window": None},
    ):  # fmt: skip
        fields = {**size, "use_sliding_window": True, **given}
        for family in ("Qwen2", "Qwen3"):
            peer = getattr(transformers, f"{family}Config")(**fields)
            ours = model_class(family.lower()).config_class.from_dict(fields)
            ours.validate()
            windows = {peer.sliding_window if kind == sliding else None for kind in peer.layer_types}
            assert ours.attention_window == (windows.pop() if len(windows) == 1 else None)
            assert ours.longest_context == (24 if windows else None)


@pytest.mark.parametrize(
    ("family", "fields", "words"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window must be a positive"),
        ("qwen2", {"sliding_window": -1, "use_sliding_window": True, "max_window_layers": 0}, "sliding_window must be"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["linear_attention"] * 32}, "layer_types"),
        ("qwen3", {"layer_types": "full_attention"}, "layer_types"),
    ],
)
def test_families_validate_their_own_fields(family, fields, words):
    with pytest.raises(ValueError, match=words):
        model_class(family).config_class.from_dict(fields).validate()


def test_null_key_value_heads_are_as_many_as_heads():
    fields = {"num_attention_heads": 16, "num_key_value_heads": None}
    for family in supported_models():
        assert model_class(family).config_class.from_dict(fields).num_key_value_heads == 16


def test_from_pretrained_reads_what_transformers_writes(tmp_path):
    peer = transformers.Qwen3Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    peer.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    assert type(config).__name__ == "Qwen3Config" and config.model_type == "qwen3"
    assert (config.hidden_size, config.head_dim, config.attention_window) == (64, 128, None)
    with pytest.raises(ValueError, match="'qwen3'"):
        LlamaConfig.from_pretrained(tmp_path)


def test_bad_files(tmp_path):
    file = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_config(tmp_path)
    file.write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        load_config(tmp_path)
    file.write_text("{}")
    with pytest.raises(ValueError, match="no model_type"):
        load_config(tmp_path)
    file.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="unknown model_type 'bert': supported are llama, mistral, qwen2, qwen3"):
        load_config(tmp_path)


def test_a_family_is_one_new_file(tmp_path, monkeypatch):
    """A file in the models folder is enough: here a second folder on the package's path."""
    from infiniop.lm import models

    (tmp_path / "twin.py").write_text(
        "from dataclasses import dataclass\n"
        "from infiniop.lm.config import LlamaConfig\n"
        "from infiniop.lm.models import register_model\n"
        "from infiniop.lm.models.llama import LlamaForCausalLM\n"
        "@dataclass\n"
        "class TwinConfig(LlamaConfig):\n"
        "    family = 'twin'\n"
        "@register_model\n"
        "class TwinForCausalLM(LlamaForCausalLM):\n"
        "    config_class = TwinConfig\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    monkeypatch.setattr(models, "_FAMILIES", dict(models._FAMILIES))
    models._import_families.cache_clear()
    assert "twin" in supported_models()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "twin"}))
    assert type(load_config(tmp_path)).__name__ == "TwinConfig"
    models._import_families.cache_clear()
