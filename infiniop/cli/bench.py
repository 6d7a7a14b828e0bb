"""`infiniop bench`: ops, llm, busy, overhead and torch, each as ratios against a peer and a limit of the same run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ._plugins import all_backends

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def register(app: typer.Typer) -> None:
    bench = typer.Typer(help="Measure: ratios against a peer and a limit of the same run.", no_args_is_help=True)
    bench.command("ops")(bench_ops)
    bench.command("llm")(bench_llm)
    bench.command("busy")(bench_busy)
    bench.command("overhead")(bench_overhead)
    bench.command("torch")(bench_torch)
    bench.command("serving")(bench_serving)
    bench.callback()(load_plugins)
    app.add_typer(bench, name="bench")


def load_plugins() -> None:
    """Before anything is printed."""
    all_backends()


def bench_ops(
    op: Annotated[list[str] | None, typer.Option(help="Only this operator (repeatable).")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only this dtype (repeatable).")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time spent on each row.")] = 0.4,
    as_json: Json = False,
) -> None:
    """Every operator at decode and prefill shapes of a 1B and an 8B Llama: time, ratio to torch, share of the limit."""
    from infiniop.bench import limits, operators

    unknown = sorted(set(op or []) - set(operators.CASES))
    if unknown:
        raise typer.BadParameter(
            f"no benchmark for {', '.join(unknown)}; there are {', '.join(sorted(operators.CASES))}"
        )
    for one in dtype or []:
        if one not in operators.DTYPES:
            raise typer.BadParameter(f"no benchmark for {one}; there are {', '.join(operators.DTYPES)}")
    machine = limits.measure()
    if not as_json:
        typer.echo(machine.describe())
        typer.echo("time of ours; torch / ours (above 1: we are faster); least time by the limit / ours")
    rows = []
    for row in operators.run(machine, op, dtype or operators.DTYPES, seconds):
        rows.append(row)
        if not as_json:
            ratio = f"{row.ratio:6.2f}x torch" if row.ratio else "no torch"
            typer.echo(
                f"{row.op:26} {row.dtype:9} {row.model} {row.phase:8} {row.us:10.1f} us  {ratio}  "
                f"{row.limit:4.0%} of {row.bound}"
            )
    if as_json:
        typer.echo(json.dumps(operators.as_json(rows)))
    else:
        for name, value in operators.summary(rows).items():
            typer.echo(f"{name}: {value:.2f}")


def bench_llm(
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 24,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Fewer layers than the shape has, for a quick look.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often the engines take turns.")] = 3,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure the installed peers as well.")] = True,
    context: Annotated[int | None, typer.Option(min=1, help="Also decode after this many tokens.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="int8 or int4, with what quantize takes (int4-o4: all of it); llama.cpp has Q8_0 or Q4_0."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prefill and decode of a 1.24 B-parameter Llama shape with random weights, against transformers, llama.cpp and the
    limits."""
    from infiniop.bench import llm

    result = llm.run(dtype, prompt, tokens, layers, rounds, peers, context, weights=weights)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo(result.limits.describe())
    typer.echo(f"{result.threads} threads each; OMP_WAIT_POLICY {result.omp_wait_policy or 'not set'}; tokens/s")
    for row in result.rows:
        ours = "" if row is result.ours else f"  ours {result.ours.prefill / row.prefill:.2f}x"
        of = "" if row.product_share is None else f"  {row.product_share:4.0%} of torch's bf16 product"
        typer.echo(f"prefill {prompt:5} {row.engine:13}{row.prefill:9.1f}{of}{ours}")
    for row in result.rows:
        ours = "" if row is result.ours else f"  ours {result.ours.decode / row.decode:.2f}x"
        typer.echo(f"decode        {row.engine:13}{row.decode:9.2f}  {row.read_share:4.0%} of read bandwidth{ours}")
    for c in result.contexts:
        after = f"after {c.tokens} tokens, {c.cache} cache"
        typer.echo(f"decode        ours, {after}: {c.decode:.2f}  {c.read_share:.0%} of read bandwidth")
    typer.echo(f"Python's share of a decode step: {result.python_share:.2%}")
    s = result.start
    typer.echo(
        f"start: load {s.loading:.2f} s, first token {s.first_token:.2f} s later; import before it {s.importing:.2f} s"
    )
    for name in result.absent:
        typer.echo(f"{name}: not installed")


def bench_busy(
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 32,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Fewer layers than the shape has, for a quick look.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often the situations and engines take turns.")] = 3,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure the installed peers as well.")] = True,
    as_json: Json = False,
) -> None:
    """Decode while another process keeps one CPU busy, pinned to it or wandering, against the quiet machine and our
    speed with one thread."""
    from infiniop.bench import busy

    result = busy.run(dtype, tokens, layers, rounds, peers)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo(f"{result.threads} threads each; OMP_WAIT_POLICY {result.omp_wait_policy or 'not set'}; decode")
    for row in result.rows:
        typer.echo(
            f"{row.situation:10} {row.engine:15}{row.decode:8.2f} tokens/s  {row.of_quiet:4.0%} of quiet  "
            f"{row.of_one_thread:5.2f}x our one thread  worst step {row.worst:5.2f}x the median"
        )
    for name in result.absent:
        typer.echo(f"{name}: not installed")


def bench_torch(
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 16,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the 1B shape's 16.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="How often the two take turns.")] = 3,
    as_json: Json = False,
) -> None:
    """What a call through torch's dispatcher costs; a transformers Llama before and after infiniop.torch.accelerate."""
    from infiniop.bench import torch_door

    calls = torch_door.calls()
    rows = torch_door.llama(dtype, prompt, tokens, layers, rounds)
    if as_json:
        typer.echo(json.dumps({"ns": calls, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}))
        return
    for name, nanoseconds in calls.items():
        typer.echo(f"{name:30}{nanoseconds:8.0f} ns")
    for row in rows:
        typer.echo(
            f"{row.phase:8} {dtype}: transformers {row.transformers:8.2f} tokens/s, accelerated {row.ours:8.2f}, "
            f"{row.ratio:.2f}x"
        )
    if not rows:
        typer.echo("transformers: not installed")


def bench_serving(
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    layers: Annotated[int, typer.Option(min=1, help="Layers of the 1.24 B shape.")] = 2,
    requests: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 32,
    as_json: Json = False,
) -> None:
    """Many requests at once against one after the other and transformers; what the paged cache costs and saves."""
    from infiniop.bench import serving

    r = serving.run(dtype, layers, requests)
    if as_json:
        typer.echo(json.dumps(asdict(r)))
        return
    lines = [
        f"{requests} requests of mixed lengths, {layers} layers, {dtype}: {r.together:.1f} tokens/s together, "
        f"{r.one_by_one:.1f} one by one ({r.together / r.one_by_one:.2f} x), {_figure(r.peer, '.1f')} {r.peer_kind}",
        f"slots wasted at lengths 256 to 2048, block size 16: {r.wasted:.2%}; preemptions: {r.preemptions}",
        f"first token of 1003 tokens: {r.ttft_cold_ms:.0f} ms; of which 1000 are known: {r.ttft_prefix_ms:.1f} ms "
        f"({r.ttft_prefix_ms / r.ttft_cold_ms:.1%})",
        f"decode steps of 8 sequences: {r.paged_steps:.2f} /s paged, {r.static_steps:.2f} /s static "
        f"({r.static_steps / r.paged_steps - 1:+.1%} cost)",
        f"64 blocks of 16 tokens take {r.pool_bytes} bytes; a sequence of 64 tokens uses {r.used_bytes} "
        f"({1 - r.used_bytes / r.pool_bytes:.2%} unused)",
    ]
    typer.echo("\n".join(lines))


def _figure(value: float | None, form: str) -> str:
    return "no" if value is None else format(value, form)


def bench_overhead(as_json: Json = False) -> None:
    """What a call costs beyond its kernel: from C and C++, from Python through each door, descriptor creation."""
    from rich.console import Console
    from rich.table import Table

    from infiniop.bench import overhead

    doors, native = overhead.run(), overhead.native()
    if as_json:
        typer.echo(json.dumps({"python_ns": doors, "native_ns": native}))
        return
    table = Table("call", "ns")
    for name, nanoseconds in (native or {}).items():
        table.add_row(name, f"{nanoseconds:.1f}")
    for name, nanoseconds in doors.items():
        table.add_row(f"Python: {name}", f"{nanoseconds:.0f}")
    Console().print(table)
