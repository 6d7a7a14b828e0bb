"""`HookRegistry`: callbacks that see the tensors of a forward pass by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniop import Tensor

Hook = Callable[[str, "Tensor", int], None]

# Points outside the layers (layer index -1), and points within layer i, which are called `layer{i}_{point}`.
MODEL_POINTS = ("embed_tokens", "final_norm", "logits")
LAYER_POINTS = (
    "input_norm", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "q_after_rope", "k_after_rope", "attention",
    "o_proj", "post_attention_norm", "gate_proj", "up_proj", "activation", "down_proj",
)  # fmt: skip


class HookRegistry:
    """Callbacks by point name; `"layer0_*"` takes every name that begins so. An exact name comes before a prefix.

    A callback gets `(name, tensor, layer_idx)`. The tensor is the forward pass's own memory, valid until the callback
    returns: copy what is to be kept. `q_norm` and `k_norm` fire in the families that have them (Qwen3).
    """

    def __init__(self) -> None:
        self._exact: dict[str, Hook] = {}
        self._prefixes: dict[str, Hook] = {}

    def register_hook(self, name: str, callback: Hook) -> None:
        """Registers a callback; a second one for the same name replaces the first."""
        if not callable(callback):
            raise TypeError(f"a hook must be callable, got {type(callback).__name__}")
        if name.endswith("*"):
            self._prefixes[name[:-1]] = callback
        else:
            self._exact[name] = callback

    def clear(self) -> None:
        self._exact.clear()
        self._prefixes.clear()

    def has_hooks(self) -> bool:
        return bool(self._exact or self._prefixes)

    def call_hook(self, name: str, tensor: Tensor, layer_idx: int = -1) -> None:
        """Calls the callback of this name, else that of the longest prefix. Its exceptions reach the caller."""
        callback = self._exact.get(name)
        if callback is None:
            matching = [prefix for prefix in self._prefixes if name.startswith(prefix)]
            callback = self._prefixes[max(matching, key=len)] if matching else None
        if callback is not None:
            callback(name, tensor, layer_idx)
