"""The shapes that operators are measured at: the layers of two Llama models, in decode and in prefill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """Sizes of a Llama layer."""

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocab: int


LLAMA_1B = Model("1B", 2048, 8192, 32, 8, 64, 16, 128256)
LLAMA_8B = Model("8B", 4096, 14336, 32, 8, 128, 32, 128256)
MODELS = (LLAMA_1B, LLAMA_8B)


@dataclass(frozen=True)
class Phase:
    """`tokens` in one call, attending to `context` tokens."""

    name: str
    tokens: int
    context: int


PHASES = (Phase("decode", 1, 1024), Phase("prefill", 512, 512))
