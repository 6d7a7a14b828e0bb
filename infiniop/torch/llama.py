"""transformers' Llama on infiniop's operators.

A module is accelerated by giving it a subclass of its class: parameters, names, hooks and `isinstance` stay as they
are, and what was given can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask
from transformers.models.llama import modeling_llama as hf

from . import functional

ATTENTION = "infiniop"
"""The name under which transformers' models find our attention: `attn_implementation="infiniop"`."""
FEW_ROWS = 32
"""Rows of activations up to which a product is bound by reading the weight."""


# ---- attention ----------------------------------------------------------------------------------------------


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    **rest: Any,
) -> torch.Tensor | None:
    """What a forward pass hands to every layer: lengths, int64 `[batch, 1, 1, 1]`, where attention is causal and
    nothing is padded, else transformers' own mask `[batch, 1, q_length, kv_length]`. There, four axes mean "made
    already"."""
    plain = mask_function is causal_mask_function and isinstance(kv_offset, int) and kv_offset == 0
    if plain and _is_unpadded(attention_mask, q_length, q_offset):
        lengths = torch.full((batch_size, 1, 1, 1), q_length, dtype=torch.int64, device=rest.get("device", "cpu"))
        return lengths + q_offset
    rest["allow_is_causal_skip"] = False
    return sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, **rest)


def _is_unpadded(mask: torch.Tensor | None, q_length: int, q_offset: int | torch.Tensor) -> bool:
    """Whether all tokens so far count. The mask may be longer than a static cache is filled: that part is not looked
    at."""
    if mask is None:
        return True
    if torch.compiler.is_compiling():
        return False  # what the mask holds is not known
    return bool(mask[:, : int(q_offset) + q_length].all())


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """query: `[batch, heads, s, d]`; key, value: `[batch, kv_heads, t, d]`. Returns `[batch, s, heads, d]`."""
    if attention_mask is None or attention_mask.dtype != torch.int64 or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    batch, heads, tokens, size = query.shape
    out = query.new_empty(batch, tokens, heads, size)
    scale = size**-0.5 if scaling is None else scaling
    lengths = attention_mask.view(batch)
    torch.ops.infiniop.flash_attention.out(query, key, value, lengths, scale, True, out=out.transpose(1, 2))
    return out, None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, attention_mask)


# ---- modules ------------------------------------------------------------------------------------------------


class LlamaRMSNorm(hf.LlamaRMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden_states, self.weight, self.variance_epsilon)


class LlamaMLP(hf.LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.swiglu(self.gate_proj(x), self.up_proj(x)))


class LlamaRotaryEmbedding(hf.LlamaRotaryEmbedding):
    """Gives the layers tables instead of cosines for whole heads: (cos, sin `[rows, head_dim / 2]`, rows `[b, s]`)."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        cos, sin = super().forward(x, position_ids)
        half = cos.shape[-1] // 2
        batch, tokens = x.shape[0], x.shape[1]
        rows = torch.arange(cos.shape[0] * tokens, device=x.device).view(-1, tokens).expand(batch, tokens)
        return cos[..., :half].reshape(-1, half).contiguous(), sin[..., :half].reshape(-1, half).contiguous(), rows


class LlamaAttention(hf.LlamaAttention):
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states: `[batch, s, hidden]`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        cos, sin, rows = position_embeddings
        query = torch.ops.infiniop.rope(self.q_proj(hidden_states).view(shape), rows, sin, cos).transpose(1, 2)
        key = torch.ops.infiniop.rope(self.k_proj(hidden_states).view(shape), rows, sin, cos).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = hf.ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, hf.eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights


class LlamaLinear(torch.nn.Linear):
    """Few rows are our product; many are torch's, which has the blocked product of the machine's own library."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() > FEW_ROWS * self.in_features:
            return super().forward(input)
        return functional.linear(input, self.weight, self.bias)


_OURS: dict[type, type] = {
    hf.LlamaRMSNorm: LlamaRMSNorm,
    hf.LlamaMLP: LlamaMLP,
    hf.LlamaRotaryEmbedding: LlamaRotaryEmbedding,
    hf.LlamaAttention: LlamaAttention,
    torch.nn.Linear: LlamaLinear,
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_BEFORE = "_infiniop_before"  # attribute of an accelerated model: its attention implementation before


def accelerate(model: Any) -> Any:
    if not isinstance(model, hf.LlamaPreTrainedModel):
        raise TypeError(f"accelerate: expected a Llama of transformers, got {type(model).__name__}")
    if model.config.hidden_act != "silu":
        raise ValueError(f"accelerate: expected the activation silu, got {model.config.hidden_act}")
    if not hasattr(model, _BEFORE):
        setattr(model, _BEFORE, model.config._attn_implementation)
        _exchange(model, _OURS)
        model.set_attn_implementation(ATTENTION)
    return model


def restore(model: Any) -> Any:
    before = getattr(model, _BEFORE, None)
    if before is not None:
        delattr(model, _BEFORE)
        _exchange(model, _THEIRS)
        model.set_attn_implementation(before)
    return model


def _exchange(model: torch.nn.Module, classes: dict[type, type]) -> None:
    for module in model.modules():
        other = classes.get(type(module))
        if other is not None:
            module.__class__ = other  # type: ignore[assignment]
