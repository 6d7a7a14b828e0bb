"""`infiniop bench llm`: prefill and decode of a Llama shape with random weights, against transformers and the limit."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infiniop.schema import DType, dtype

from . import limits
from .shapes import LLAMA_1B, Model


@dataclass(frozen=True)
class Result:
    """Tokens per second; `weight_bytes` are read once per decoded token."""

    prefill: float
    decode: float
    peer_prefill: float | None
    peer_decode: float | None
    weight_bytes: int
    limit_decode: float
    limits: limits.Limits


def run(dtype_name: str = "bfloat16", prompt: int = 512, tokens: int = 24, layers: int | None = None) -> Result:
    """Measures both engines in turns on one checkpoint with random weights, made in a temporary folder."""
    kind = dtype(dtype_name)
    machine = limits.measure()
    with _checkpoint(LLAMA_1B, kind, layers or LLAMA_1B.layers) as (folder, weight_bytes):
        engines = {"ours": _ours(folder, kind)}
        if peer := _transformers(folder, dtype_name):
            engines["transformers"] = peer
        ids = np.random.default_rng(0).integers(0, LLAMA_1B.vocab, prompt).tolist()
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for _ in range(3):
            for name, engine in engines.items():
                rounds[name].append(engine(ids, tokens))
    prefill, decode = ({n: statistics.median(r[i] for r in runs) for n, runs in rounds.items()} for i in (0, 1))
    return Result(
        prefill=prefill["ours"],
        decode=decode["ours"],
        peer_prefill=prefill.get("transformers"),
        peer_decode=decode.get("transformers"),
        weight_bytes=weight_bytes,
        limit_decode=machine.read * 1e9 / weight_bytes,
        limits=machine,
    )


Engine = Callable[[list[int], int], tuple[float, float]]


def _ours(folder: Path, kind: DType) -> Engine:
    from infiniop.lm.models import AutoLlamaModel

    model = AutoLlamaModel.from_pretrained(folder, device="cpu", dtype=kind)

    def measure(ids: list[int], tokens: int) -> tuple[float, float]:
        stats = model.generate([ids], max_new_tokens=tokens, stop_on_eos=False).statistics
        return len(ids) / (stats.ttft_ms / 1e3), 1e3 / stats.itl_ms

    return measure


def _transformers(folder: Path, dtype_name: str) -> Engine | None:
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype_name)).eval()

    def measure(ids: list[int], tokens: int) -> tuple[float, float]:
        with torch.inference_mode():
            start = time.perf_counter()
            out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
            prefill = time.perf_counter() - start
            steps = []
            for _ in range(tokens - 1):
                start = time.perf_counter()
                token = out.logits[:, -1:].argmax(-1)
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                steps.append(time.perf_counter() - start)
        return len(ids) / prefill, 1 / statistics.mean(steps)

    return measure


@contextmanager
def _checkpoint(model: Model, kind: DType, layers: int) -> Iterator[tuple[Path, int]]:
    """An HF-format folder with random weights in `kind`, and the bytes that decoding one token reads."""
    from safetensors.numpy import save_file

    folder = Path(tempfile.mkdtemp(prefix="infiniop-bench-"))
    try:
        weights = {name: _weight(shape, kind) for name, shape in _shapes(model, layers).items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(_config(model, layers, kind)), encoding="utf-8")
        yield folder, sum(w.nbytes for w in weights.values())
    finally:
        shutil.rmtree(folder)


def _weight(shape: tuple[int, ...], kind: DType) -> np.ndarray:
    period = np.random.default_rng(1).normal(0, 0.02, 1 << 18).astype(np.float32).astype(kind.numpy)
    return np.resize(period, shape)


def _shapes(m: Model, layers: int) -> dict[str, tuple[int, ...]]:
    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (m.vocab, m.hidden),
        "model.norm.weight": (m.hidden,),
    }
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}self_attn.q_proj.weight": (q, m.hidden), f"{layer}self_attn.k_proj.weight": (kv, m.hidden),
            f"{layer}self_attn.v_proj.weight": (kv, m.hidden), f"{layer}self_attn.o_proj.weight": (m.hidden, q),
            f"{layer}mlp.gate_proj.weight": (m.intermediate, m.hidden),
            f"{layer}mlp.up_proj.weight": (m.intermediate, m.hidden),
            f"{layer}mlp.down_proj.weight": (m.hidden, m.intermediate),
            f"{layer}input_layernorm.weight": (m.hidden,), f"{layer}post_attention_layernorm.weight": (m.hidden,),
        }  # fmt: skip
    return shapes


def _config(m: Model, layers: int, kind: DType) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": m.hidden,
        "intermediate_size": m.intermediate, "num_attention_heads": m.heads, "num_key_value_heads": m.kv_heads,
        "head_dim": m.head_dim, "num_hidden_layers": layers, "vocab_size": m.vocab, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "hidden_act": "silu",
        "torch_dtype": repr(kind).removeprefix("infiniop."), "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
