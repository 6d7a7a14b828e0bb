"""Llama: attention with grouped heads and rotary embedding, SwiGLU, RMS norms before each. Other families vary its
parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..auto import AutoLlamaModel
from ..config import LlamaConfig
from ..layers import Embedding, Joined, Linear, Module, ModuleList, RMSNorm
from ..runner import CausalLM, Step
from . import register_model

if TYPE_CHECKING:
    from infiniop import Tensor

    from ..groups import CommunicationGroup
    from ..ranks import Place

__all__ = [
    "AutoLlamaModel",
    "LlamaAttention",
    "LlamaConfig",
    "LlamaDecoderLayer",
    "LlamaForCausalLM",
    "LlamaMLP",
    "LlamaModel",
]


class LlamaAttention(Module):
    """Multi-head, grouped-query or multi-query attention over the cache."""

    def __init__(self, config: LlamaConfig, layer_idx: int):
        self.layer_idx = layer_idx
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.scale = self.head_dim**-0.5
        hidden, bias = config.hidden_size, config.has_qkv_bias
        self.q_proj = Linear(hidden, self.heads * self.head_dim, bias, split="column")
        self.k_proj = Linear(hidden, config.kv_dim(), bias, split="column")
        self.v_proj = Linear(hidden, config.kv_dim(), bias, split="column")
        self.o_proj = Linear(self.heads * self.head_dim, hidden, config.attention_bias, split="row")
        self.joined = Joined(self.q_proj, self.k_proj, self.v_proj)

    def spread(self, tp: CommunicationGroup) -> None:
        self.heads //= tp.size
        self.kv_heads //= tp.size

    def join(self) -> None:
        self.joined.join()

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        f, layer = step.f, self.layer_idx
        q, k, v, rotated = self._project(x, step)
        self.normalise(q, k, step)
        for part in rotated:
            f.rope(part, step.batch)
        if step.hooks is not None:
            step.hook("q_after_rope", q, layer)
            step.hook("k_after_rope", k, layer)
        cache = step.cache.pool.layer(layer)
        f.cache_tokens(cache, k, v, step.batch)
        heads = f.attention(
            q, cache, step.batch, self.scale, step.scratch("attention", (step.ntok, self.heads, self.head_dim))
        )
        flat = step.scratch("attention", (step.ntok, self.heads * self.head_dim))
        out = self.o_proj(f, flat, step.scratch("block_out", (step.ntok, self.o_proj.out_features)))
        if step.hooks is not None:
            step.hook("attention", heads, layer)
            step.hook("o_proj", out, layer)
        return out

    def _project(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Queries, keys and values, each `[ntok, heads, head_dim]`, and what is to be rotated of them."""
        keys, all_heads = self.heads + self.kv_heads, self.heads + 2 * self.kv_heads
        if self.joined.weight is not None and step.hooks is None:
            self.joined(step.f, x, step.scratch("qkv", (step.ntok, all_heads * self.head_dim)))
            qkv = step.scratch("qkv", (step.ntok, all_heads, self.head_dim))
            return qkv[:, : self.heads], qkv[:, self.heads : keys], qkv[:, keys:], [qkv[:, :keys]]
        q = self._project_alone(self.q_proj, "q", self.heads, x, step)
        k = self._project_alone(self.k_proj, "k", self.kv_heads, x, step)
        v = self._project_alone(self.v_proj, "v", self.kv_heads, x, step)
        return q, k, v, [q, k]

    def _project_alone(self, projection: Linear, name: str, heads: int, x: Tensor, step: Step) -> Tensor:
        out = projection(step.f, x, step.scratch(name, (step.ntok, projection.out_features)))
        if step.hooks is not None:
            step.hook(f"{name}_proj", out, self.layer_idx)
        return step.scratch(name, (step.ntok, heads, self.head_dim))

    def normalise(self, q: Tensor, k: Tensor, step: Step) -> None:
        """What a family does to queries and keys before their rotation, in place. Llama: nothing."""


class LlamaMLP(Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, config: LlamaConfig, layer_idx: int):
        self.layer_idx = layer_idx
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(hidden, inner, bias, split="column")
        self.up_proj = Linear(hidden, inner, bias, split="column")
        self.down_proj = Linear(inner, hidden, bias, split="row")
        self.joined = Joined(self.gate_proj, self.up_proj)

    def join(self) -> None:
        self.joined.join()

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        f, layer, size = step.f, self.layer_idx, self.gate_proj.out_features
        joined = self.joined.weight is not None and step.hooks is None
        gate, up = f.gate_and_up(step.ntok, size, step.dtype, joined)
        if joined:
            self.joined(f, x, step.scratch("gate_up", (step.ntok, 2 * size)))
        else:
            self.gate_proj(f, x, gate)
            self.up_proj(f, x, up)
        if step.hooks is not None:
            step.hook("gate_proj", gate, layer)
            step.hook("up_proj", up, layer)
        inner = f.swiglu(gate, up)
        out = self.down_proj(f, inner, step.scratch("block_out", (step.ntok, self.down_proj.out_features)))
        if step.hooks is not None:
            step.hook("activation", inner, layer)
            step.hook("down_proj", out, layer)
        return out


class LlamaDecoderLayer(Module):
    attention_class: ClassVar[type[LlamaAttention]] = LlamaAttention

    def __init__(self, config: LlamaConfig, layer_idx: int):
        self.layer_idx = layer_idx
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = self.attention_class(config, layer_idx)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config, layer_idx)

    def __call__(self, x: Tensor | None, residual: Tensor, step: Step) -> Tensor:
        """`x` is what the layer before has not yet added to `residual` (None in the first layer); returns the same."""
        f, normed = step.f, step.scratch("normed", residual.shape)
        if x is None:
            self.input_layernorm(f, residual, normed)
        else:
            self.input_layernorm.after_add(f, x, residual, normed)
        if step.hooks is not None:
            step.hook("input_norm", normed, self.layer_idx)
        x = self.self_attn(normed, step)
        self.post_attention_layernorm.after_add(f, x, residual, normed)
        if step.hooks is not None:
            step.hook("post_attention_norm", normed, self.layer_idx)
        return self.mlp(normed, step)


class LlamaModel(Module):
    layer_class: ClassVar[type[LlamaDecoderLayer]] = LlamaDecoderLayer

    def __init__(self, config: LlamaConfig):
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = ModuleList(self.layer_class(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_size = config.hidden_size

    def parts(self, place: Place) -> list[Module]:
        """The modules that a rank computes with."""
        layers = [self.layers[i] for i in place.layers(len(self.layers))]
        return [*[self.embed_tokens] * place.is_first, *layers, *[self.norm] * place.is_last]

    def __call__(self, step: Step) -> Tensor | None:
        """The normalised hidden states, `[ntok, hidden]`, where the last stage runs; other stages pass theirs on."""
        shape = (step.ntok, self.hidden_size)
        residual = step.scratch("residual", shape)
        x: Any = None
        if step.place.is_first:
            self.embed_tokens(step.f, step.batch.input_ids, residual)
            if step.hooks is not None:
                step.hook("embed_tokens", residual)
        else:
            x = step.receive(step.scratch("block_out", shape), residual)
        for i in step.place.layers(len(self.layers)):
            x = self.layers[i](x, residual, step)
        if not step.place.is_last:
            step.pass_on(x, residual)
            return None
        hidden = self.norm.after_add(step.f, x, residual, step.scratch("normed", residual.shape))
        if step.hooks is not None:
            step.hook("final_norm", hidden)
        return hidden


@register_model
class LlamaForCausalLM(CausalLM):
    config_class: ClassVar[type[LlamaConfig]] = LlamaConfig
    model_class: ClassVar[type[LlamaModel]] = LlamaModel

    def build(self, config: LlamaConfig) -> None:
        self.model = self.model_class(config)
        if config.tie_word_embeddings:
            self.lm_head = None
        else:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def parts(self, place: Place) -> list[Module]:
        output = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return [*self.model.parts(place), *[output] * place.has_output]

    def hidden_states(self, step: Step) -> Tensor | None:
        return self.model(step)

    def output_weight(self) -> Tensor:
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight.value
