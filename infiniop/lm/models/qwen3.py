"""Qwen3: Llama with an RMS norm on every head's queries and keys, before rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..config import LlamaConfig
from ..layers import RMSNorm
from ..runner import Step
from . import register_model
from .llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM, LlamaModel
from .qwen2 import Qwen2Config

if TYPE_CHECKING:
    from infiniop import Tensor


@dataclass
class Qwen3Config(Qwen2Config):
    family: ClassVar[str] = "qwen3"
    qkv_bias: ClassVar[bool | None] = None

    head_dim: int = 128


class Qwen3Attention(LlamaAttention):
    def __init__(self, config: LlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def normalise(self, q: Tensor, k: Tensor, step: Step) -> None:
        self.q_norm(step.f, q, q)
        self.k_norm(step.f, k, k)
        if step.hooks is not None:
            step.hook("q_norm", q, self.layer_idx)
            step.hook("k_norm", k, self.layer_idx)


class Qwen3DecoderLayer(LlamaDecoderLayer):
    attention_class = Qwen3Attention


class Qwen3Model(LlamaModel):
    layer_class = Qwen3DecoderLayer


@register_model
class Qwen3ForCausalLM(LlamaForCausalLM):
    config_class = Qwen3Config
    model_class = Qwen3Model
