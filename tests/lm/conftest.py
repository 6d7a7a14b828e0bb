"""Small random checkpoints of every architecture, made here with transformers, which is also what results are
compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

try:
    import torch
    import transformers
except ImportError:  # what needs a checkpoint is skipped, the rest runs
    torch = transformers = None  # type: ignore[assignment]

SMALL = {
    "vocab_size": 640,
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}
QUARTERS = [1.0 + i / 4 for i in range(6)]

# name → (transformers configuration class, changed fields)
ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "llama-gqa": ("Llama", {}),
    "llama-mha": ("Llama", {"num_key_value_heads": 8, "attention_bias": True, "mlp_bias": True}),
    "llama-mqa-tied": ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 24}),
    "qwen2": ("Qwen2", {"rope_theta": 1e6}),
    "qwen3": ("Qwen3", {"head_dim": 32, "rope_theta": 1e6}),
    "mistral": ("Mistral", {"sliding_window": None}),
}
ROPE_TYPES: dict[str, dict] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-mscale": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.2, "mscale_all_dim":
        0.8, "beta_fast": 16, "beta_slow": 2, "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 48, "short_factor": [1.0] * 6,
        "long_factor": QUARTERS,
    },
}  # fmt: skip


@dataclass
class Pair:
    """A checkpoint folder, and transformers' model of it."""

    path: Path
    peer: transformers.PreTrainedModel
    _known: dict[tuple[tuple[int, ...], int], list[int]] = field(default_factory=dict)

    def logits(self, rows: list[list[int]]) -> list[np.ndarray]:
        """transformers' logits `[seq, vocab]` of each row by itself, f32."""
        with torch.no_grad():
            return [self.fresh()(torch.tensor([row])).logits[0].float().numpy() for row in rows]

    def greedy(self, row: list[int], count: int) -> list[int]:
        """transformers' greedy continuation of one row; each asked for once per session."""
        key = (tuple(row), count)
        if key not in self._known:
            self._known[key] = self._greedy(row, count)
        return self._known[key]

    def _greedy(self, row: list[int], count: int) -> list[int]:
        model, tokens, past = self.fresh(), torch.tensor([row]), None
        found = []
        with torch.no_grad():
            for _ in range(count):
                out = model(tokens, past_key_values=past, use_cache=True)
                past, tokens = out.past_key_values, out.logits[:, -1:].argmax(-1)
                found.append(int(tokens))
        return found

    def in_dtype(self, dtype: str) -> Pair:
        """The same with transformers' model in another dtype."""
        return Pair(self.path, copy.deepcopy(self.peer).to(getattr(torch, dtype)))

    def fresh(self) -> transformers.PreTrainedModel:
        """The model; where its rotary embedding remembers lengths, one that has seen none."""
        kind = self.peer.config.rope_parameters["rope_type"]
        return copy.deepcopy(self.peer) if kind in ("dynamic", "longrope") else self.peer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """`checkpoint(architecture, **changed)`: a `Pair` with random weights, made once per session."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.0")
    torch.set_num_threads(1)

    @cache
    def make(architecture: str, rope: str | None = None, **changed) -> Pair:
        family, fields = ARCHITECTURES[architecture]
        values = {**SMALL, **fields, **changed}
        if rope is not None:
            values["rope_parameters"] = {"rope_theta": 10000.0, **ROPE_TYPES[rope]}
        config = getattr(transformers, f"{family}Config")(**values)
        torch.manual_seed(7)
        peer = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        with torch.no_grad():  # biases and norms as transformers makes them would hide a mistake
            for name, parameter in peer.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        path = tmp_path_factory.mktemp(architecture)
        peer.save_pretrained(path)
        return Pair(path, peer)

    return make


@pytest.fixture
def prompts():
    """`prompts(*lengths)`: random token rows of these lengths."""

    def make(*lengths: int, seed: int = 0) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [rng.integers(0, SMALL["vocab_size"], n).tolist() for n in lengths]

    return make
