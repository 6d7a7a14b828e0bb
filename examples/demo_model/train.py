#!/usr/bin/env python3
"""Train the demonstration model: a small Llama on the Python standard library's own text.

    python train.py --minutes 30 --out model      # train, evaluate, write model/
    python train.py --evaluate model              # evaluate a model that is there already

The text is on every machine that has Python, so nothing is downloaded. The result is an ordinary
Hugging Face Llama folder (config.json, model.safetensors, tokenizer.json, ...). Needs torch, numpy,
tokenizers and safetensors; runs on a CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import lzma
import math
import platform
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
PROMPTS = ("def main(", "import os\n", "The following", "class Node:\n", "    def __init__(self")

# --------------------------------------------------------------------------------------- the text

# Folders without text worth learning: other people's packages, tables, deliberately broken syntax.
SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib-dynload",
    "encodings",
    "idle_test",
    "lib2to3",
    "_vendor",
}
# Of the test suite only these letters: it is larger than the library itself and less well worded.
TEST_LETTERS = "acdfistu"
HELD_OUT_ONE_IN = 24
TOPICS = "pydoc_data/topics.py"


@dataclass(frozen=True)
class Document:
    """One file of the text, named by its path relative to the standard library."""

    path: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the file is kept from training; a hash, so the answer is the same everywhere."""
        if self.path == TOPICS:
            return False  # the only prose there is
        digest = hashlib.sha256(self.path.encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def is_wanted(path: Path) -> bool:
    """Whether a path relative to the standard library belongs to the text."""
    if SKIPPED_FOLDERS & set(path.parts) or path.name.startswith("_sysconfigdata"):
        return False  # _sysconfigdata describes one machine's build
    if path.parts[0].startswith("config-"):
        return False
    if path.parts[0] == "test" and len(path.parts) == 2:
        return path.name.startswith("test_") and path.name[len("test_")] in TEST_LETTERS
    return not {"test", "tests"} & set(path.parts)


def topics_text(path: Path) -> str:
    """The language reference that help() prints, as prose instead of as one quoted dictionary."""
    spec = importlib.util.spec_from_file_location("topics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "\n\n".join(module.topics[name].strip() for name in sorted(module.topics)) + "\n"


def load_documents() -> list[Document]:
    """All files of the text in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    documents = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not is_wanted(relative):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        if relative.as_posix() == TOPICS:
            text = topics_text(path)
        if len(text) > 64:
            documents.append(Document(relative.as_posix(), text.replace("\r\n", "\n")))
    return documents


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE: every byte has a token, so any text can be encoded and given back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[Document]) -> Tensor:
    """One stream of ids: <end> file <end> file ... <end>."""
    ids = [END_OF_TEXT_ID]
    for encoding in tokenizer.encode_batch([document.text for document in documents]):
        ids += encoding.ids
        ids.append(END_OF_TEXT_ID)
    return torch.tensor(ids, dtype=torch.int64)


# -------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Config:
    """The shape of the model, under the names that Hugging Face's config.json uses."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def to_json(self) -> dict[str, object]:
        """The config.json of a LlamaForCausalLM."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **self.__dict__,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "rope_scaling": None,
            "tie_word_embeddings": True,
            "bos_token_id": END_OF_TEXT_ID,
            "eos_token_id": END_OF_TEXT_ID,
            "pad_token_id": None,
            "pretraining_tp": 1,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        }

    @staticmethod
    def from_json(values: dict[str, object]) -> Config:
        """The same fields, read back from a config.json."""
        return Config(**{name: values[name] for name in Config.__dataclass_fields__})


def rope_tables(config: Config) -> tuple[Tensor, Tensor]:
    """cos and sin, [position, head_dim], each frequency twice: halves are rotated, not pairs."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.max_position_embeddings), config.rope_theta**-half)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the layout of GPT-NeoX and of Hugging Face's Llama."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention in which several query heads share one key-value head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query = config.num_attention_heads * config.head_dim
        key = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key, bias=False)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        query = rotate(self.heads(self.q_proj(x)), cos, sin)
        key = rotate(self.heads(self.k_proj(x)), cos, sin)
        value = self.heads(self.v_proj(x))
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embedding, blocks and last norm: what Hugging Face keeps under the prefix "model."."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Llama(nn.Module):
    """A LlamaForCausalLM with tied embeddings: the same weight names, the same numbers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        residual_std = 0.02 / math.sqrt(2 * config.num_hidden_layers)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # Projections back into the residual stream add up over the depth: start smaller.
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=residual_std if into_residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, position, vocabulary] for ids [batch, position]."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


# ---------------------------------------------------------------------------------------- on disk


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model as a Hugging Face folder, the weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: w.detach().to(torch.bfloat16).contiguous() for n, w in model.named_parameters()}
    # Written beside and renamed, so that a reader never meets half a file.
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # the library writes it for its owner alone
    partial.replace(folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID}
    write_json(folder / "config.json", model.config.to_json())
    write_json(folder / "generation_config.json", {**ends, "do_sample": True, "temperature": 0.8})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "model_max_length": model.config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        },
    )


def load(folder: Path) -> tuple[Llama, Tokenizer]:
    """Read back what save() wrote; arithmetic is float32, the values are bfloat16's."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Llama(Config.from_json(values))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


# --------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Schedule:
    """How the time is spent. Short windows are cheap, so the long ones come last."""

    peak_lr: float
    batch_tokens: int
    warmup_share: float = 0.02
    last_lr_share: float = 0.02
    short: int = 256
    long_from: float = 0.8

    def lr(self, progress: float) -> float:
        """Linear warm-up, then half a cosine; progress is the share of the time that is gone."""
        warmup = min(1.0, progress / self.warmup_share + 0.01)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return self.peak_lr * warmup * (self.last_lr_share + (1 - self.last_lr_share) * cosine)


def windows(ids: Tensor, length: int, count: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Batches of `count` windows for ever; each pass over the text is cut at another offset."""
    while True:
        starts = np.arange(rng.integers(length), len(ids) - length, length)
        rng.shuffle(starts)
        for at in range(0, len(starts) - count + 1, count):
            yield torch.stack([ids[s : s + length + 1] for s in starts[at : at + count]])


def make_optimizer(model: Llama, lr: float) -> torch.optim.AdamW:
    """AdamW; norm gains are not pulled towards zero."""
    matrices = [w for w in model.parameters() if w.ndim >= 2]
    gains = [w for w in model.parameters() if w.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def step_once(model: Llama, optimizer: torch.optim.AdamW, batch: Tensor) -> float:
    """One optimizer step; the mean loss in nats per token."""
    logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def train(
    model: Llama, tokenizer: Tokenizer, ids: Tensor, schedule: Schedule, args: argparse.Namespace
) -> dict[str, object]:
    """Train until the time is up, with a checkpoint every few minutes; returns the counts."""
    rng = np.random.default_rng(args.seed)
    optimizer = make_optimizer(model, schedule.peak_lr)
    start = saved = printed = time.monotonic()
    budget = args.minutes * 60.0
    length, steps, tokens, smooth = 0, 0, 0, 0.0
    batches: Iterator[Tensor] = iter(())
    while (elapsed := time.monotonic() - start) < budget:
        progress = elapsed / budget
        whole = model.config.max_position_embeddings
        wanted = schedule.short if progress < schedule.long_from else whole
        if wanted != length:
            length = wanted
            batches = windows(ids, length, max(1, schedule.batch_tokens // length), rng)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(progress)
        batch = next(batches)
        loss = step_once(model, optimizer, batch)
        steps += 1
        tokens += batch.shape[0] * length
        smooth = loss if steps == 1 else smooth + (loss - smooth) * max(0.02, 1.0 / steps)
        now = time.monotonic()
        if now - printed > 15.0:
            printed = now
            print(
                f"{elapsed / 60:5.1f} min  step {steps:6d}  {tokens / 1e6:6.2f} M tokens  "
                f"({tokens / len(ids):4.2f} epochs, {tokens / (now - start):5.0f}/s)  "
                f"length {length:4d}  lr {schedule.lr(progress):.1e}  loss {smooth:.3f}",
                flush=True,
            )
        if now - saved > 180.0:
            saved = now
            save(model, tokenizer, args.out)
    return {"steps": steps, "tokens": tokens, "epochs": round(tokens / len(ids), 2)}


# ------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def total_nats(model: Llama, ids: Tensor) -> float:
    """The cost of every token after the first; all but the first window see half a context."""
    whole = model.config.max_position_embeddings
    stride = whole // 2
    nats, done = 0.0, 0  # ids[: done + 1] have been paid for
    while done < len(ids) - 1:
        begin = max(0, done - (whole - stride))
        end = min(begin + whole, len(ids) - 1)
        logits = model(ids[None, begin:end])[0, done - begin :]
        nats += F.cross_entropy(logits, ids[done + 1 : end + 1], reduction="sum").item()
        done = end
    return nats


def evaluate(model: Llama, tokenizer: Tokenizer, documents: list[Document]) -> dict[str, object]:
    """Held-out bits per byte of the model, ends of files included, and of xz -9."""
    raw = "".join(document.text for document in documents).encode()
    ids = encode(tokenizer, documents)
    bits = total_nats(model.eval(), ids) / math.log(2)
    result = {
        "held_out_files": len(documents),
        "held_out_bytes": len(raw),
        "held_out_tokens": len(ids) - 1,
        "held_out_bits_per_byte": round(bits / len(raw), 4),
        "xz9_bits_per_byte": round(8 * len(lzma.compress(raw, preset=9)) / len(raw), 4),
    }
    print(json.dumps(result, indent=2), flush=True)
    return result


@torch.no_grad()
def generate(model: Llama, tokenizer: Tokenizer, prompt: str, count: int, temperature: float) -> str:
    """Continue a prompt; temperature 0 takes the likeliest token. No cache: the model is small."""
    ids = [END_OF_TEXT_ID, *tokenizer.encode(prompt).ids]
    for _ in range(count):
        window = torch.tensor([ids[-model.config.max_position_embeddings :]])
        logits = model(window)[0, -1]
        if temperature > 0:
            chosen = int(torch.multinomial(F.softmax(logits / temperature, dim=-1), 1))
        else:
            chosen = int(logits.argmax())
        if chosen == END_OF_TEXT_ID:
            break
        ids.append(chosen)
    return tokenizer.decode(ids)


def print_samples(model: Llama, tokenizer: Tokenizer, count: int = 96) -> None:
    for prompt in PROMPTS:
        for temperature in (0.0, 0.8):
            print(f"----- {prompt!r}, temperature {temperature}")
            print(generate(model, tokenizer, prompt, count, temperature), flush=True)


# ------------------------------------------------------------------------------------ command line


def run_training(args: argparse.Namespace) -> None:
    documents = load_documents()
    training = [document for document in documents if not document.held_out]
    held_out = [document for document in documents if document.held_out]
    config = Config()
    tokenizer = train_tokenizer([document.text for document in training], config.vocab_size)
    ids = encode(tokenizer, training)
    training_bytes = sum(len(document.text.encode()) for document in training)
    model = Llama(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(
        f"{len(training)} files, {training_bytes} bytes, {len(ids)} tokens to train on; "
        f"{len(held_out)} files held out; {parameters} parameters",
        flush=True,
    )
    counts = train(model, tokenizer, ids, Schedule(args.lr, args.batch_tokens), args)
    save(model, tokenizer, args.out)
    model, tokenizer = load(args.out)  # judge what is on disk, rounded to bfloat16
    report = {
        "text": "Python standard library sources and help() topics (PSF-2.0)",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "training_files": len(training),
        "training_bytes": training_bytes,
        "training_text_tokens": len(ids),
        "parameters": parameters,
        "minutes": args.minutes,
        "threads": args.threads,
        "seed": args.seed,
        "peak_lr": args.lr,
        "batch_tokens": args.batch_tokens,
        **counts,
        **evaluate(model, tokenizer, held_out),
    }
    write_json(args.out / "training.json", report)
    print_samples(model, tokenizer)


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Train or evaluate the demonstration model.")
    parser.add_argument("--minutes", type=float, default=30.0, help="time to train for")
    parser.add_argument("--out", type=Path, default=here / "model", help="folder to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens in one step")
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="only evaluate this model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    if args.evaluate is None:
        run_training(args)
        return
    model, tokenizer = load(args.evaluate)
    evaluate(model, tokenizer, [document for document in load_documents() if document.held_out])
    print_samples(model, tokenizer)


if __name__ == "__main__":
    main()
