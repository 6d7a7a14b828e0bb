"""Checkpoints with random weights for benchmarks: Hugging Face folders, and the same shapes as GGUF files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infiniop.schema import DType, dtype

from .shapes import LLAMA_1B, Model

_PERIOD = 1 << 18  # values after which the random numbers repeat: making billions would take longer than measuring


@dataclass(frozen=True)
class Checkpoint:
    """A model folder. `weight_bytes` are read once per decoded token; `flops` is what a token of a prompt costs in
    matrix products, without the output layer, which only the last one passes."""

    path: Path
    model: Model
    layers: int
    dtype: DType
    weight_bytes: int

    @property
    def flops(self) -> int:
        return sum(2 * rows * columns for rows, columns in _matrices(self.model, self.layers).values())

    def prefill_flops(self, tokens: int) -> int:
        """Of a prompt: the products, causal attention, and the logits of the last token."""
        m = self.model
        attention = 2 * tokens * (tokens + 1) * m.heads * m.head_dim * self.layers
        return tokens * self.flops + attention + 2 * m.vocab * m.hidden

    def kv_bytes(self, tokens: int) -> int:
        """Keys and values of a context."""
        m = self.model
        return 2 * self.layers * m.kv_heads * m.head_dim * tokens * self.dtype.itemsize


@contextmanager
def llama(
    kind: str | DType = "bfloat16", layers: int | None = None, model: Model = LLAMA_1B, positions: int = 4096
) -> Iterator[Checkpoint]:
    """A Hugging Face folder of a Llama with random weights and tied embeddings; gone afterwards."""
    from safetensors.numpy import save_file

    kind, layers = dtype(kind), layers or model.layers
    folder = Path(tempfile.mkdtemp(prefix="infiniop-bench-"))
    try:
        period = _random().astype(kind.numpy)
        weights = {name: np.resize(period, shape) for name, shape in _shapes(model, layers).items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(_config(model, layers, kind, positions)), encoding="utf-8")
        size = sum(w.nbytes for w in weights.values())
        del weights
        yield Checkpoint(folder, model, layers, kind, size)
    finally:
        shutil.rmtree(folder)


def write_gguf(checkpoint: Checkpoint, form: str) -> tuple[Path, int]:
    """The same shapes as a GGUF file in the checkpoint's folder, matrices in `form` (F32, F16, BF16, Q8_0, Q4_0), and
    the bytes that decoding a token reads. Needs the package gguf."""
    import gguf

    kind, m = gguf.GGMLQuantizationType[form], checkpoint.model
    path = checkpoint.path / f"model-{form}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(checkpoint.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(m.hidden)
    writer.add_feed_forward_length(m.intermediate)
    writer.add_head_count(m.heads)
    writer.add_head_count_kv(m.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(m.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(m.vocab)
    writer.add_tokenizer_model("no_vocab")
    size = 0
    for name, shape in _shapes(m, checkpoint.layers).items():
        if len(shape) == 1:
            values, stored = np.resize(_random(), shape), gguf.GGMLQuantizationType.F32
        else:
            rows = gguf.quants.quantize(_random().reshape(-1, shape[1]), kind)
            values, stored = np.resize(rows, (shape[0], rows.shape[1])), kind
        writer.add_tensor(_gguf_name(name), values, raw_dtype=stored)
        size += values.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, size


def _random() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.02, _PERIOD).astype(np.float32)


_LAYER: dict[str, tuple[str, Callable[[Model], tuple[int, ...]]]] = {
    "self_attn.q_proj": ("attn_q", lambda m: (m.heads * m.head_dim, m.hidden)),
    "self_attn.k_proj": ("attn_k", lambda m: (m.kv_heads * m.head_dim, m.hidden)),
    "self_attn.v_proj": ("attn_v", lambda m: (m.kv_heads * m.head_dim, m.hidden)),
    "self_attn.o_proj": ("attn_output", lambda m: (m.hidden, m.heads * m.head_dim)),
    "mlp.gate_proj": ("ffn_gate", lambda m: (m.intermediate, m.hidden)),
    "mlp.up_proj": ("ffn_up", lambda m: (m.intermediate, m.hidden)),
    "mlp.down_proj": ("ffn_down", lambda m: (m.hidden, m.intermediate)),
    "input_layernorm": ("attn_norm", lambda m: (m.hidden,)),
    "post_attention_layernorm": ("ffn_norm", lambda m: (m.hidden,)),
}
_OUTSIDE: dict[str, tuple[str, Callable[[Model], tuple[int, ...]]]] = {
    "model.embed_tokens": ("token_embd", lambda m: (m.vocab, m.hidden)),
    "model.norm": ("output_norm", lambda m: (m.hidden,)),
}


def _shapes(m: Model, layers: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.weight": shape(m) for name, (_, shape) in _OUTSIDE.items()}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{name}.weight": shape(m) for name, (_, shape) in _LAYER.items()}
    return shapes


def _matrices(m: Model, layers: int) -> dict[str, tuple[int, int]]:
    shapes = _shapes(m, layers)
    return {n: (s[0], s[1]) for n, s in shapes.items() if n.startswith("model.layers.") and len(s) == 2}


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem][0]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER[inner][0]}.weight"


def _config(m: Model, layers: int, kind: DType, positions: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": m.hidden,
        "intermediate_size": m.intermediate, "num_attention_heads": m.heads, "num_key_value_heads": m.kv_heads,
        "head_dim": m.head_dim, "num_hidden_layers": layers, "vocab_size": m.vocab,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "torch_dtype": repr(kind).removeprefix("infiniop."), "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
