"""A device that lacks fused operators: what stands in for each gives the same logits; what is missing is named
first."""

from __future__ import annotations

import numpy as np
import pytest

from infiniop.lm import AutoLlamaModel, MissingOperatorsError, infini_to_numpy, runner
from infiniop.lm.arrays import available_operators
from infiniop.lm.operators import ALL_OPERATORS, OPTIONAL_OPERATORS, REQUIRED_OPERATORS, check_operators

LACKING = {
    "linear": {"linear"},
    "add_rms_norm": {"add_rms_norm"},
    "swiglu": {"swiglu"},
    "silu": {"swiglu", "silu"},
    "select": {"select_last_token_hidden"},
    "paged_attention": {"paged_attention"},
    "sample": {"sample"},
    "all-optional": {
        "linear",
        "add_rms_norm",
        "swiglu",
        "silu",
        "select_last_token_hidden",
        "paged_attention",
        "sample",
    },
}


def without(monkeypatch, names):
    monkeypatch.setattr(runner, "available_operators", lambda *given: available_operators(*given) - names)


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("architecture", ["llama-mha", "qwen2"])
def test_composed_operators_give_the_same(checkpoint, prompts, monkeypatch, architecture, lacking):
    pair, rows = checkpoint(architecture), prompts(9, 4, 17)
    fused = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    expected = infini_to_numpy(fused(rows)).copy()
    without(monkeypatch, LACKING[lacking])
    model = AutoLlamaModel.from_pretrained(pair.path, dtype="float32")
    found = infini_to_numpy(model(rows))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    options = {"temperature": 0.8, "top_k": 40, "seed": 5}
    assert model.generate(rows, 6, **options).token_ids == fused.generate(rows, 6, **options).token_ids


def test_missing_operators_are_all_named_before_anything_is_loaded(tmp_path, checkpoint, monkeypatch):
    without(monkeypatch, {"rope", "linear", "gemm", "paged_caching"})
    with pytest.raises(MissingOperatorsError) as caught:
        AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path)
    assert caught.value.missing == ["rope", "linear or gemm+rearrange", "paged_caching"]
    for name in ("cpu", "rope", "linear or gemm+rearrange", "paged_caching", "infiniop ops"):
        assert name in str(caught.value)


def test_the_required_list_is_minimal_and_complete():
    check_operators("cpu", ALL_OPERATORS)
    check_operators("cpu", ALL_OPERATORS - set(OPTIONAL_OPERATORS))
    for alternatives in REQUIRED_OPERATORS:
        needed = {name for alternative in alternatives for name in alternative.split("+")}
        with pytest.raises(MissingOperatorsError, match="lacks operators"):
            check_operators("cpu", ALL_OPERATORS - needed)
