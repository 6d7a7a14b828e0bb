"""The engines that benchmarks run on one checkpoint: ours, and its peers where they are installed."""

from __future__ import annotations

import ctypes
import functools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoints import Checkpoint, write_gguf

if TYPE_CHECKING:
    from infiniop.lm import GenerationMixin

GGUF_FORMS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}


@dataclass(frozen=True)
class Timing:
    """Seconds of a prompt until its first token, and of each decode step after it (batch 1, greedy)."""

    prefill: float
    steps: list[float]

    @property
    def decode(self) -> float:
        """Tokens per second of the median step."""
        return 1 / statistics.median(self.steps)


Engine = Callable[[list[int], int], Timing]  # (token ids of the prompt, tokens to generate)


def thread_count() -> int:
    """Threads of every engine: what `INFINIOP_NUM_THREADS` says, else what the process may use."""
    return int(os.environ.get("INFINIOP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def ours(path: Path, dtype: Any = None) -> Engine:
    """Our engine on a Hugging Face folder."""
    from infiniop.lm import AutoLlamaModel

    return generation(AutoLlamaModel.from_pretrained(path, device="cpu", dtype=dtype))


def generation(model: GenerationMixin) -> Engine:
    """The engine that a loaded model of ours is."""

    def run(ids: list[int], tokens: int) -> Timing:
        times = [time.perf_counter()]
        for _ in model.stream_generate([ids], tokens, stop_on_eos=False):
            times.append(time.perf_counter())
        first, *steps = np.diff(times).tolist()
        return Timing(first, steps)

    return run


def transformers(path: Path, dtype: str) -> Engine | None:
    """Hugging Face's engine on the same folder; None where it is not installed."""
    model = transformers_model(path, dtype)
    return None if model is None else greedy(model)


def transformers_model(path: Path, dtype: str) -> Any:
    """The model of a folder; None where transformers is not installed."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError:
        return None
    torch.set_num_threads(thread_count())
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()


def greedy(model: Any) -> Engine:
    """A model of transformers, with a dynamic cache."""
    import torch

    @torch.inference_mode()
    def run(ids: list[int], tokens: int) -> Timing:
        times = [time.perf_counter()]
        row, past = torch.tensor([ids]), None
        for _ in range(tokens):
            out = model(row, past_key_values=past, use_cache=True, logits_to_keep=1)
            row, past = out.logits[:, -1:].argmax(-1), out.past_key_values
            row.item()
            times.append(time.perf_counter())
        first, *steps = np.diff(times).tolist()
        return Timing(first, steps)

    return run


def llama_cpp(checkpoint: Checkpoint, form: str) -> tuple[Engine, int] | None:
    """llama.cpp on a GGUF of the same shapes, and the bytes of its weights; None without `llama-cpp-python` and
    `gguf`."""
    try:
        import gguf  # noqa: F401
        import llama_cpp as llama
    except ImportError:
        return None
    path, size = write_gguf(checkpoint, form)
    _silence()
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    threads, contexts = thread_count(), {}

    def context(length: int) -> Any:
        if length not in contexts:
            params = llama.llama_context_default_params()
            params.n_ctx = length
            params.n_batch = params.n_ubatch = min(length, 2048)
            params.n_threads = params.n_threads_batch = threads
            contexts[length] = llama.llama_init_from_model(model, params)
        return contexts[length]

    def run(ids: list[int], tokens: int) -> Timing:
        state = context(-(-(len(ids) + tokens) // 256) * 256)
        llama.llama_memory_clear(llama.llama_get_memory(state), True)
        times, row = [time.perf_counter()], ids
        for _ in range(tokens):
            array = (llama.llama_token * len(row))(*row)
            if llama.llama_decode(state, llama.llama_batch_get_one(array, len(row))) != 0:
                raise RuntimeError("llama.cpp could not run the step")
            logits = llama.llama_get_logits_ith(state, -1)
            row = [int(np.ctypeslib.as_array(logits, (checkpoint.model.vocab,)).argmax())]
            times.append(time.perf_counter())
        first, *steps = np.diff(times).tolist()
        return Timing(first, steps)

    return run, size


@functools.cache
def _silence() -> Any:
    """llama.cpp prints a page about every model that it loads; the cache keeps what it calls instead."""
    import llama_cpp as llama

    callback = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    return callback
