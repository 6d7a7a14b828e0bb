"""Qwen2: Llama with biases on q, k and v."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..config import LlamaConfig
from . import register_model
from .llama import LlamaForCausalLM


@dataclass
class Qwen2Config(LlamaConfig):
    family: ClassVar[str] = "qwen2"
    qkv_bias: ClassVar[bool | None] = True

    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int = 32
    max_position_embeddings: int = 32768
    bos_token_id: Any = None
    eos_token_id: Any = None
    sliding_window: int | None = 4096
    use_sliding_window: bool = False
    max_window_layers: int = 28

    @property
    def attention_window(self) -> int | None:
        """A window is kept only where every layer has it: all layers share one block table."""
        return self.sliding_window if self.use_sliding_window and self.max_window_layers == 0 else None

    @property
    def longest_context(self) -> int | None:
        mixed = self.use_sliding_window and 0 < self.max_window_layers < self.num_hidden_layers
        return self.sliding_window if mixed else None


@register_model
class Qwen2ForCausalLM(LlamaForCausalLM):
    config_class = Qwen2Config
