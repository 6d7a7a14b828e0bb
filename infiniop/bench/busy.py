"""`infiniop bench busy`: decode while another process keeps a CPU busy, against the quiet machine and one thread."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from . import checkpoints, engines
from .checkpoints import Checkpoint
from .shapes import LLAMA_1B, Model

SITUATIONS = ("quiet", "pinned", "wandering")  # the other process: none, kept on one CPU, where the scheduler puts it
PEERS = ("transformers", "llama.cpp")
ONE_THREAD = "ours, 1 thread"
PROMPT = 16


@dataclass(frozen=True)
class Row:
    """One engine in one situation. `of_one_thread`: by our own speed with one thread on the quiet machine."""

    situation: str
    engine: str
    decode: float  # tokens/s, mean
    of_quiet: float
    of_one_thread: float
    worst: float  # the slowest step by the median one


@dataclass(frozen=True)
class Result:
    rows: list[Row]
    absent: list[str]  # peers that are not installed
    threads: int
    omp_wait_policy: str | None


def run(
    dtype: str = "bfloat16",
    tokens: int = 32,
    layers: int | None = None,
    rounds: int = 3,
    peers: bool = True,
    model: Model = LLAMA_1B,
) -> Result:
    """Every engine in a process of its own, in turns, in each situation."""
    steps: dict[tuple[str, str], list[list[float]]] = {}
    absent = []
    with ExitStack() as stack:
        checkpoint = stack.enter_context(checkpoints.llama(dtype, layers, model))
        running = {}
        for name in ("ours", ONE_THREAD, *(PEERS if peers else ())):
            if engine := stack.enter_context(_engine(name, checkpoint)):
                running[name] = engine
            else:
                absent.append(name)
        for _ in range(rounds):
            for situation in SITUATIONS:
                with _busy(situation):
                    for name, engine in running.items():
                        engine.send(tokens)
                        steps.setdefault((situation, name), []).append(engine.recv())
    rows = _rows(steps)
    return Result(rows, absent, engines.thread_count(), os.environ.get("OMP_WAIT_POLICY"))


def _rows(steps: dict[tuple[str, str], list[list[float]]]) -> list[Row]:
    """Speeds are medians of the rounds; the worst step is the worst of all."""
    speed = {key: statistics.median(len(r) / sum(r) for r in runs) for key, runs in steps.items()}
    worst = {key: max(max(r) / statistics.median(r) for r in runs) for key, runs in steps.items()}
    one = speed["quiet", ONE_THREAD]
    return [
        Row(situation, name, v, v / speed["quiet", name], v / one, worst[situation, name])
        for (situation, name), v in speed.items()
    ]


@contextmanager
def _engine(name: str, checkpoint: Checkpoint) -> Iterator[Connection | None]:
    """A process with the engine loaded: send it a number of tokens, and it answers the seconds of each step."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, name, checkpoint), daemon=True)
    process.start()
    there.close()
    try:
        yield here if here.recv() else None
    finally:
        here.close()
        process.join(10)
        process.kill()


def _serve(pipe: Connection, name: str, checkpoint: Checkpoint) -> None:
    if name == ONE_THREAD:
        os.environ["INFINIOP_NUM_THREADS"] = "1"
    engine = _load(name, checkpoint)
    pipe.send(engine is not None)
    if engine is None:
        return
    ids = np.random.default_rng(0).integers(0, checkpoint.model.vocab, PROMPT).tolist()
    engine(ids, 4)
    try:
        while True:
            pipe.send(engine(ids, pipe.recv()).steps)
    except (EOFError, BrokenPipeError):
        return


def _load(name: str, checkpoint: Checkpoint) -> engines.Engine | None:
    dtype = repr(checkpoint.dtype).removeprefix("infiniop.")
    if name == "transformers":
        return engines.transformers(checkpoint.path, dtype)
    if name == "llama.cpp":
        found = engines.llama_cpp(checkpoint, engines.GGUF_FORMS[dtype])
        return found and found[0]
    return engines.ours(checkpoint.path)


@contextmanager
def _busy(situation: str) -> Iterator[None]:
    """Another process that never rests, in the situations that have one."""
    if situation == "quiet":
        yield
        return
    program = "import os\n"
    if situation == "pinned":
        program += f"os.sched_setaffinity(0, [{max(os.sched_getaffinity(0))}])\n"
    hog = subprocess.Popen(
        [sys.executable, "-c", program + "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    try:
        assert hog.stdout is not None
        hog.stdout.readline()  # it has begun
        yield
    finally:
        hog.kill()
        hog.communicate()
