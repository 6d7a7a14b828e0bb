"""Rotary frequencies against transformers' own functions, and the tables' behaviour."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
from transformers import LlamaConfig as PeerConfig  # noqa: E402

from infiniop.lm import LlamaConfig  # noqa: E402
from infiniop.lm.rope import frequencies, rope_problem  # noqa: E402

FACTORS = {"short_factor": [1.0 + i / 9 for i in range(32)], "long_factor": [2.0 + i for i in range(32)]}
CASES = [
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.7, "mscale_all_dim":
    1.0}, {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.3, "beta_fast": 20, "beta_slow": 2, "truncate":
    False}, {"rope_type": "longrope", "factor": 32.0, "original_max_position_embeddings": 4096, **FACTORS},
    {"rope_type": "longrope", "original_max_position_embeddings": 4096, **FACTORS},
]  # fmt: skip


@pytest.mark.parametrize("parameters", CASES, ids=lambda p: f"{p['rope_type']}-{p.get('factor')}")
@pytest.mark.parametrize("length", [1, 4097, 200_000])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_frequencies_equal_transformers(parameters, length, key):
    fields = {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 131072}
    peer = PeerConfig(**fields, rope_parameters={"rope_theta": 500000.0, **parameters})
    expected, factor = rope_utils.ROPE_INIT_FUNCTIONS[parameters["rope_type"]](peer, "cpu", seq_len=length)
    values = {**fields, "rope_theta": 500000.0, key: dict(parameters)}
    ours = LlamaConfig.from_dict(values)
    ours.validate()
    found, our_factor = frequencies(ours.rope_parameters, ours.head_dim, length)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6)
    assert our_factor == pytest.approx(factor)


def test_old_type_key_and_default():
    assert LlamaConfig(rope_scaling={"type": "linear", "factor": 2.0}).rope_parameters["rope_type"] == "linear"
    assert LlamaConfig().rope_parameters["rope_type"] == "default"
    found, factor = frequencies(LlamaConfig().rope_parameters, 128)
    assert factor == 1.0
    np.testing.assert_allclose(found[[0, 1, 63]], [1.0, 10000 ** (-2 / 128), 10000 ** (-126 / 128)])


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"rope_type": "spiral"}, "spiral"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": -1.0}, "factor"),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}, "high_freq_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, "short_factor"),
        ({"rope_type": "longrope", "short_factor": ["x"] * 64, "long_factor": [1.0] * 64}, "short_factor"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": "32"}, "beta_fast"),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": -1}, "original_max"),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}, "rope_theta"),
        ({"rope_type": "default", "rope_theta": "10000"}, "rope_theta"),
    ],
)
def test_bad_parameters_are_named(parameters, word):
    config = LlamaConfig(rope_scaling=parameters)
    assert word in rope_problem(config.rope_parameters, config.head_dim)
    with pytest.raises(ValueError, match=word):
        config.validate()
