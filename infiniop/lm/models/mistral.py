"""Mistral: Llama whose tokens see the last `sliding_window` tokens only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..config import LlamaConfig
from . import register_model
from .llama import LlamaForCausalLM


@dataclass
class MistralConfig(LlamaConfig):
    family: ClassVar[str] = "mistral"

    intermediate_size: int = 14336
    num_key_value_heads: int = 8
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096

    @property
    def attention_window(self) -> int | None:
        return self.sliding_window


@register_model
class MistralForCausalLM(LlamaForCausalLM):
    config_class = MistralConfig
