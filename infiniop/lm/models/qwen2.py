"""Qwen2: Llama with biases on q, k and v."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..config import LlamaConfig
from . import register_model
from .llama import LlamaForCausalLM

_FULL, _SLIDING = "full_attention", "sliding_attention"


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
    layer_types: list[str] | None = None  # None: the window in all layers from max_window_layers on

    @property
    def attention_window(self) -> int | None:
        """A window is kept only where every layer has it: all layers share one block table."""
        return self.sliding_window if self._windows() == {True} else None

    @property
    def longest_context(self) -> int | None:
        return self.sliding_window if len(self._windows()) == 2 else None

    def _windows(self) -> set[bool]:
        """Of all layers: whether they keep to the window."""
        if not self.use_sliding_window or self.sliding_window is None:
            return {False}
        if self.layer_types is not None:
            return {kind == _SLIDING for kind in self.layer_types}
        return {layer >= self.max_window_layers for layer in range(self.num_hidden_layers)}

    def _problems(self) -> Iterator[str]:
        types = self.layer_types
        known = isinstance(types, list) and {*map(str, types)} <= {_SLIDING, _FULL}
        if types is not None and not (known and len(types) == self.num_hidden_layers):
            yield f"layer_types must be null or name {_FULL} or {_SLIDING} for each of num_hidden_layers, got {types!r}"
        yield from super()._problems()


@register_model
class Qwen2ForCausalLM(LlamaForCausalLM):
    config_class = Qwen2Config
