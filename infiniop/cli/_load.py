"""The model that a command works with."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniop.lm import LlamaForCausalLM


def load_model(path: Path, device: str, dtype: str | None, quantize: str | None, tp: int, pp: int) -> LlamaForCausalLM:
    from infiniop.lm import AutoLlamaModel, DistConfig

    model = AutoLlamaModel.from_pretrained(path, device, dtype, quantize, DistConfig(tp_size=tp, pp_size=pp))
    gc.freeze()  # what loading made stays: collections need not go through it, for milliseconds between two tokens
    return model
