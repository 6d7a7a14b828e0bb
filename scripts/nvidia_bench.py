"""Figures of the NVIDIA backend, each with its limit or its peer, measured in the same run.

    python scripts/nvidia_bench.py [--device nvidia] [--small] [--json FILE] [--list] [FIGURE ...]

Ours is timed by the device's events around a captured graph of calls, torch's (where it is installed and sees the
device) likewise; medians. What fits into the second-level cache takes turns with others like it. What fails costs its
own row or figure. `--small` takes tiny shapes: it shows that the script runs, on any device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import infiniop
from infiniop import Tensor, ops
from infiniop.bench import checkpoints, engines
from infiniop.bench.shapes import LLAMA_1B, LLAMA_8B
from infiniop.schema import BF16, DType

REPEATS, CALLS = 15, 20  # measurements, calls in each
FAR = 1 << 29  # bytes that no cache holds

A = TypeVar("A")


@dataclass(frozen=True)
class Row:
    """`share`: of the limit; `ratio`: the peer's time over ours. `us`: None where it failed, as `aim` says."""

    figure: str
    us: float | None
    share: float | None = None
    ratio: float | None = None
    aim: str = ""

    def __str__(self) -> str:
        if self.us is None:
            return f"{self.figure:44} failed: {self.aim}"
        share = "" if self.share is None else f"{self.share:5.0%} of the limit"
        ratio = "" if self.ratio is None else f"{self.ratio:6.2f}x torch"
        return f"{self.figure:44}{self.us:12.1f} us  {share:19}{ratio:14} {self.aim}"


class Bench:
    def __init__(self, device: str, small: bool):
        self.device, self.small = device, small
        self.stream = infiniop.Stream(device)
        self.rng = np.random.default_rng(0)
        self.torch = _torch() if device == "nvidia" else None

    def size(self, full: int, small: int) -> int:
        return small if self.small else full

    def random(self, shape: tuple[int, ...], dtype: DType = BF16) -> Tensor:
        """The numbers repeat: making billions would take longer than measuring."""
        count = int(np.prod(shape))
        period = self.rng.standard_normal(min(1 << 18, max(1, count))).astype(dtype.numpy)
        times = -(-count // period.size)
        there = self.place(period).unsqueeze(0).expand(times, -1).contiguous()
        return there.reshape(-1)[:count].reshape(shape)

    def place(self, array: np.ndarray) -> Tensor:
        return infiniop.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def turns(self, make: Callable[[], A], nbytes: int) -> Iterator[A]:
        """Several things of so many bytes, in turn, so that none is still in a cache when its turn comes again."""
        return itertools.cycle([make() for _ in range(1 if self.small else min(CALLS, -(-FAR // nbytes)))])

    def microseconds(self, call: Callable[[], object]) -> float:
        infiniop.synchronize(self.device)  # what `call` takes was made on another stream
        with self.stream:
            call()
            with infiniop.capture(device=self.device) as graph:
                for _ in range(CALLS):
                    call()
            times = []
            for _ in range(REPEATS):
                start, end = infiniop.Event(self.device), infiniop.Event(self.device)
                start.record()
                graph.launch()
                end.record()
                end.synchronize()
                times.append(start.elapsed_ms(end) * 1e3 / CALLS)
        return statistics.median(times)

    def peer(self, call: Callable[[Any], Callable[[], object]]) -> float | None:
        """Microseconds of torch's call, from a graph where it can be captured."""
        if self.torch is None:
            return None
        torch = self.torch
        run = call(torch)
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    run()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for _ in range(CALLS):
                    run()
            times = []
            for _ in range(REPEATS):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) * 1e3 / CALLS)
        return statistics.median(times)

    def lend(self, *tensors: Tensor) -> list[Any]:
        assert self.torch is not None
        return [self.torch.from_dlpack(t) for t in tensors]

    def row(
        self, figure: str, run: Callable[[], object], aim: str, *, least: float | None = None,
        peer: Callable[[Any], Callable[[], object]] | None = None,
    ) -> Row:  # fmt: skip
        """`least`: microseconds by the limit."""
        try:
            us = self.microseconds(run)
        except Exception as error:
            traceback.print_exc()
            return Row(figure, None, aim=str(error))
        theirs = None
        try:
            theirs = self.peer(peer) if peer else None
        except Exception as error:  # whatever ails torch: ours is measured
            print(f"{figure}: no peer: {error}", file=sys.stderr)
        return Row(figure, us, None if least is None else least / us, theirs and theirs / us, aim)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


@dataclass(frozen=True)
class Limits:
    """Bytes (read and written) and operations per microsecond."""

    copy: float
    product: float

    @staticmethod
    def measure(b: Bench) -> Limits:
        n = b.size(1 << 29, 1 << 16)
        source, target = b.random((n,)), b.random((n,))
        copy = 2 * source.nbytes / b.microseconds(lambda: target.copy_(source))
        k = b.size(8192, 128)
        x, y, out = b.random((k, k)), b.random((k, k)), b.random((k, k))
        return Limits(copy, 2 * k**3 / b.microseconds(lambda: ops.gemm(x, y, out=out)))

    def __str__(self) -> str:
        return f"limits: copy {self.copy / 1e3:.1f} GB/s; bf16 gemm {self.product / 1e6:.1f} TFLOP/s"


def caching(b: Bench, limits: Limits) -> Iterator[Row]:
    d, nkvh, block = 128, 8, 16
    for tokens in (b.size(65536, 64), b.size(4096, 32), 64):
        blocks, nbytes = tokens // block + 8, 8 * tokens * nkvh * d
        slots = b.place(b.rng.permutation(blocks * block)[:tokens])
        least = nbytes / limits.copy
        aim = "aim 5 us" if tokens == 64 else "aim 85 %"

        def tensors(tokens=tokens, blocks=blocks) -> list[Tensor]:
            return [b.random(shape) for shape in 2 * [(blocks, nkvh, block, d)] + 2 * [(tokens, nkvh, d)]]

        turns = b.turns(tensors, nbytes)

        def run(turns=turns, slots=slots) -> None:
            ops.paged_caching(*next(turns), slots)

        yield b.row(f"paged_caching, {tokens} tokens", run, aim, least=least)


def streaming(b: Bench, limits: Limits) -> Iterator[Row]:
    """Operators that read and write once: on whole tensors, then on their quarters in turn, which no cache holds."""
    m, n = b.size(16384, 16), b.size(4096, 128)
    x, y, w, out, residual = b.random((m, n)), b.random((m, n)), b.random((n,)), b.random((m, n)), b.random((m, n))
    positions, sin, cos = b.place(np.arange(m) % 1024), b.random((1024, 64)), b.random((1024, 64))

    def norm(x: Any, w: Any) -> Any:
        return b.torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-6)

    def rotate(x: Any, p: Any, sin: Any, cos: Any) -> Any:
        (low, high), s, c = x.chunk(2, -1), sin[p][:, None], cos[p][:, None]
        return b.torch.cat((low * c - high * s, low * s + high * c), -1)

    def heads(t: Tensor) -> Tensor:
        return t.reshape((t.shape[0], n // 128, 128))

    def turned(t: Tensor) -> Tensor:
        return heads(t).permute(1, 0, 2)

    for rows in (m, m // 4):

        def parts(*tensors: Tensor, rows: int = rows) -> list[list[Tensor]]:
            return [[t[i : i + rows] for t in tensors] for i in range(0, m, rows)]

        def row(
            name: str, moved: float, inputs: list[list[Tensor]], outputs: list[list[Tensor]],
            run: Callable[..., object], peer: Callable[..., Any], rows: int = rows,
        ) -> Row:  # fmt: skip
            """`moved`: tensors that are read or written."""
            turns = itertools.cycle(zip(inputs, outputs, strict=True))

            def compiled(torch: Any) -> Callable[[], object]:
                lent, fast = itertools.cycle([b.lend(*part) for part in inputs]), torch.compile(peer)
                return lambda: fast(*next(lent))

            def call() -> object:
                part, into = next(turns)
                return run(*part, out=into[0] if len(into) == 1 else tuple(into))

            least = moved * rows * n * x.dtype.itemsize / limits.copy
            return b.row(f"{name} {rows}x{n}", call, "aim 85 %, 1.0x", least=least, peer=compiled)

        xs, xys, into = parts(x), parts(x, y), parts(out)
        by_heads = [[heads(part), p, sin, cos] for part, p in parts(x, positions)]
        yield row("rms_norm", 2, [[part, w] for (part,) in xs], into,
                  lambda x, w, out: ops.rms_norm(x, w, epsilon=1e-6, out=out), norm)  # fmt: skip
        yield row("add_rms_norm", 4, [[*part, w] for part in xys], parts(out, residual),
                  lambda x, y, w, out: ops.add_rms_norm(x, y, w, epsilon=1e-6, out=out),
                  lambda x, y, w: (norm(x + y, w), x + y))  # fmt: skip
        yield row("rope", 2, by_heads, [[heads(part)] for (part,) in into],
                  lambda x, p, sin, cos, out: ops.rope(x, p, sin, cos, algo=1, out=out), rotate)  # fmt: skip
        yield row("swiglu", 3, xys, into, ops.swiglu, lambda x, y: x * b.torch.nn.functional.silu(y))
        yield row("rearrange", 2, [[turned(part)] for (part,) in xs],
                  [[part.reshape((n // 128, rows, 128))] for (part,) in into],
                  ops.rearrange, lambda x: x.contiguous())  # fmt: skip
        yield row("rearrange, transposed", 2, [[part.reshape((n, rows)).permute(1, 0)] for (part,) in xs], into,
                  ops.rearrange, lambda x: x.contiguous())  # fmt: skip
        yield row("softmax", 2, xs, into, lambda x, out: ops.softmax(x, axis=-1, out=out),
                  lambda x: b.torch.softmax(x, -1))  # fmt: skip


def decode_attention(b: Bench, limits: Limits) -> Iterator[Row]:
    nh, nkvh, d = 64, 8, 128
    for batch, context in ((b.size(64, 2), b.size(4096, 64)), (b.size(8, 1), b.size(32768, 96))):
        for block in (16, 256):
            blocks = -(-context // block)
            k, v = (b.random((batch * blocks, nkvh, block, d)) for _ in range(2))
            tables = b.place(b.rng.permutation(batch * blocks).reshape(batch, blocks))
            lengths = b.place(np.full(batch, context))
            q, out = b.random((batch, nh, d)), b.random((batch, nh, d))
            least = 4 * batch * context * nkvh * d / limits.copy

            def run(q=q, k=k, v=v, tables=tables, lengths=lengths, out=out) -> None:
                ops.paged_attention(q, k, v, tables, lengths, None, scale=d**-0.5, out=out)

            figure = f"paged_attention {batch} x {context}, blocks of {block}"
            yield b.row(figure, run, "aim 85 %; blocks of 16 within 5 %", least=least)


def prefill_attention(b: Bench, limits: Limits) -> Iterator[Row]:
    n, nh, nkvh, d, block = b.size(8192, 48), 32, 8, 128, 16
    blocks = n // block
    k, v = (b.random((blocks, nkvh, block, d)) for _ in range(2))
    tables, lengths = b.place(np.arange(blocks)[None]), b.place(np.array([n]))
    starts, q, out = b.place(np.array([0, n])), b.random((n, nh, d)), b.random((n, nh, d))

    def peer(torch: Any) -> Callable[[], object]:
        tq, tk, tv = (torch.randn(1, heads, n, d, dtype=torch.bfloat16, device="cuda") for heads in (nh, nkvh, nkvh))
        attend = torch.nn.functional.scaled_dot_product_attention
        flash = torch.nn.attention.SDPBackend.FLASH_ATTENTION

        def call() -> object:
            with torch.nn.attention.sdpa_kernel(flash):
                return attend(tq, tk, tv, is_causal=True, enable_gqa=True)

        return call

    def run() -> None:
        ops.paged_attention_prefill(q, k, v, tables, lengths, starts, None, scale=d**-0.5, out=out)

    least = 2 * n * n * nh * d / limits.product
    yield b.row(f"paged_attention_prefill, {n} tokens", run, "aim 0.8x", least=least, peer=peer)


def products(b: Bench, limits: Limits) -> Iterator[Row]:
    k = b.size(4096, 64)
    for m, n in ((1, k), (16, k), (64, b.size(14336, 128)), (b.size(8192, 96), b.size(14336, 128))):
        x, out = b.random((m, k)), b.random((m, n))
        bytes_, flops = 2 * (m * k + n * k + m * n), 2 * m * n * k
        least = max(bytes_ / limits.copy, flops / limits.product)
        weights = b.turns(lambda n=n: b.random((n, k)), 2 * n * k)

        def peer(torch: Any, x=x, n=n) -> Callable[[], object]:
            (tx,), weights = b.lend(x), b.turns(lambda: b.lend(b.random((n, k)))[0], 2 * n * k)
            return lambda: torch.nn.functional.linear(tx, next(weights))

        for name, run in (
            ("gemm", lambda x=x, ws=weights, out=out: ops.gemm(x, next(ws).permute(1, 0), out=out)),
            ("linear", lambda x=x, ws=weights, out=out: ops.linear(x, next(ws), out=out)),
        ):
            yield b.row(f"{name} {m}x{n}x{k}", run, "aim 0.97x", least=least, peer=peer)
    for m in (1, 8):
        x, w, out = b.random((m, k)), b.random((b.size(14336, 128), k)), b.random((m, b.size(14336, 128)))
        for format, name in ((1, "int8"), (2, "int4")):
            size = int(ops.linear_packed_size(w, format=format, group_size=32).to("cpu").numpy())

            def pack(w=w, format=format, size=size) -> Tensor:
                return ops.linear_pack(w, format=format, group_size=32, out=b.place(np.zeros(size, np.uint8)))

            packed, least = b.turns(pack, size), size / limits.copy

            def run(x=x, packed=packed, out=out) -> None:
                ops.linear(x, next(packed), out=out)

            yield b.row(f"linear {name}, {m} rows", run, "", least=least)


def sampling(b: Bench, limits: Limits) -> Iterator[Row]:
    """Logits were computed just now: they may be in the second-level cache."""
    for rows in (b.size(64, 2), 1):
        vocab = b.size(128 * 1024, 512)
        logits = b.random((rows, vocab))
        values = ((0.8, "f4"), (50, "i4"), (0.9, "f4"), (0.0, "f4"), (1, "i8"), (7, "i8"))
        parameters = [b.place(np.full(rows, value, kind)) for value, kind in values]
        out = ops.sample(logits, *parameters)

        def run(logits=logits, parameters=parameters, out=out) -> None:
            ops.sample(logits, *parameters, out=out)

        def peer(torch: Any, logits=logits, vocab=vocab) -> Callable[[], object]:
            (t,) = b.lend(logits)
            top = torch.arange(vocab, device="cuda") < 50

            def call() -> object:
                values, order = torch.sort(t.float() / 0.8, descending=True)
                p = torch.softmax(values, -1)
                keep = (p.cumsum(-1) - p < 0.9) & top
                return order.gather(-1, torch.multinomial(p * keep, 1))

            return call

        aim = "aim 5x" if rows > 1 else ""
        yield b.row(f"sample {rows}x{vocab}", run, aim, least=logits.nbytes / limits.copy, peer=peer)


def generation(b: Bench, limits: Limits) -> Iterator[Row]:
    """Decode of a Llama at batch 1: the replayed graph by events, a token by the clock, as its user waits for it."""
    model, layers = (LLAMA_1B, 1) if b.small else (LLAMA_8B, None)
    tokens, prompt = b.size(128, 4), list(range(1, 33))
    figure = f"{model.name} Llama, bf16, batch 1"
    with checkpoints.llama("bfloat16", layers, model) as checkpoint:
        from infiniop.lm import AutoLlamaModel

        ours = engines.generation(AutoLlamaModel.from_pretrained(checkpoint.path, device=b.device, dtype="bfloat16"))
        ours(prompt, tokens)
        with _replays(b.device) as replays:
            us = 1e6 / ours(prompt, tokens).decode
        least = checkpoint.weight_bytes / limits.copy
        graph = statistics.median(start.elapsed_ms(end) * 1e3 for start, end in replays)
        yield Row(f"decode, {figure}: graph", graph, least / graph, aim="aim 80 %")
        yield Row(f"decode, {figure}: token", us, least / us)
        if b.torch is not None:
            theirs = _static_cache(b.torch, checkpoint, prompt, tokens)
            yield Row("the same by transformers, static cache", theirs, least / theirs, theirs / us, "aim 1.5x")


@contextmanager
def _replays(device: str) -> Iterator[list[tuple[infiniop.Event, infiniop.Event]]]:
    """Events before and after every launch of a graph."""
    found: list[tuple[infiniop.Event, infiniop.Event]] = []
    launch = infiniop.Graph.launch

    def timed(graph: infiniop.Graph, stream: Any = None) -> None:
        start, end = infiniop.Event(device), infiniop.Event(device)
        start.record(stream)
        launch(graph, stream)
        end.record(stream)
        found.append((start, end))

    infiniop.Graph.launch = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        infiniop.Graph.launch = launch  # type: ignore[method-assign]


def _static_cache(torch: Any, checkpoint: checkpoints.Checkpoint, prompt: list[int], tokens: int) -> float:
    """Microseconds per token of transformers with a static cache, which it compiles for (with graphs)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.bfloat16).to("cuda").eval()
    ids = torch.tensor([prompt], device="cuda")
    times: dict[int, list[float]] = {tokens: [], 2: []}
    for n in 4 * (tokens, 2):  # the first two compile; what more tokens take longer is decode
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        model.generate(ids, min_new_tokens=n, max_new_tokens=n, do_sample=False, cache_implementation="static")
        end.record()
        end.synchronize()
        times[n].append(start.elapsed_time(end) * 1e3)
    most, least = (statistics.median(times[n][1:]) for n in (tokens, 2))
    return (most - least) / (tokens - 2)


FIGURES = {f.__name__: f for f in (
    caching, streaming, decode_attention, prefill_attention, products, sampling, generation
)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"only these: {', '.join(FIGURES)}")
    parser.add_argument("--device", default="nvidia")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what is known there, after every row")
    parser.add_argument("--list", action="store_true", help="name the figures")
    options = parser.parse_args()
    if options.list:
        print(*FIGURES, sep="\n")
        return 0
    if unknown := [f for f in options.figures if f not in FIGURES]:
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    b = Bench(options.device, options.small)
    limits = Limits.measure(b)
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        print(row, flush=True)
        if options.json:
            found = {"limits": asdict(limits), "rows": [asdict(r) for r in rows]}
            options.json.write_text(json.dumps(found), encoding="utf-8")

    print(limits, flush=True)
    for name in options.figures or FIGURES:
        try:
            for row in FIGURES[name](b, limits):
                keep(row)
        except Exception as error:  # what its tensors or its model could not do
            traceback.print_exc()
            keep(Row(name, None, aim=str(error)))
    return int(any(row.us is None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
