"""The engine on the NVIDIA backend: a Llama model says what it says on the CPU, decode replayed from graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from infiniop.lm import AutoLlamaModel, PagedKVCacheConfig

MODEL = Path(__file__).parents[2] / "examples" / "demo_model" / "model"


def test_a_model_generates_the_same_tokens(
    nvidia: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    if nvidia == "emulator" and not request.config.getoption("--full"):
        pytest.skip("long on the emulator; needs --full")
    here = AutoLlamaModel.from_pretrained(MODEL, dtype="float32")
    there = AutoLlamaModel.from_pretrained(MODEL, device=nvidia, dtype="float32")
    assert {str(t.device) for t in there.state_dict().values()} == {f"{nvidia}:0"}
    rows = [[5, 17, 300, 9, 12], [44, 2, 1000]]
    paged = PagedKVCacheConfig(num_blocks=16, block_size=4)
    for options in ({"temperature": 0.0}, {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 3}):
        expected = here.generate(rows, 5, **options).token_ids
        assert there.generate(rows, 5, **options).token_ids == expected
        with caplog.at_level("INFO", "infiniop.lm"):
            assert there.generate(rows, 5, cache_config=paged, **options).token_ids == expected
        assert "cannot record" not in caplog.text
