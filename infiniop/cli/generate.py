"""`infiniop generate`: text from a checkpoint, streamed, with its figures at the end."""

from __future__ import annotations

import json
import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._load import load_model
from ._options import Device, Dtype, Model, Pp, Quantize, Seed, Temperature, Tp
from ._plugins import all_backends

if TYPE_CHECKING:
    from infiniop.lm.generation import GenerationOutput, GenerationStatistics


class CacheKind(StrEnum):
    static = "static"
    paged = "paged"


def register(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    model: Model,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="Text to continue (repeatable: a batch).")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most this many new tokens.")] = 128,
    temperature: Temperature = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Only the k most likely tokens (0: all).")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Only the most likely tokens that make up this probability.")
    ] = None,
    seed: Seed = None,
    cache: Annotated[CacheKind, typer.Option(help="Form of the KV cache.")] = CacheKind.static,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block of the paged cache.")] = 16,
    dtype: Dtype = None,
    quantize: Quantize = None,
    tp: Tp = 1,
    pp: Pp = 1,
    device: Device = "cpu",
    backend: Annotated[str | None, typer.Option(help="Only this backend (several: by comma, in order).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print text as it comes.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is loaded.")] = False,
) -> None:
    """Continue a text and print TTFT, ITL and tokens/s."""
    if backend is not None:
        os.environ["INFINIOP_BACKENDS"] = backend  # read when the libraries load, which is below
    known = [row.name for row in all_backends()]  # before anything is printed
    for name in filter(None, (backend or "").split(",")):
        if name not in known:
            raise typer.BadParameter(f"there is no backend named {name!r}: expected some of {', '.join(known)}")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    live = stream and not as_json and len(prompt) == 1
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    output = _run(
        model, prompt, max_new_tokens, options, (cache, block_size), (device, dtype, quantize), (tp, pp), live
    )
    if as_json:
        typer.echo(json.dumps(_as_json(prompt, output), ensure_ascii=False))
        return
    if not live:
        for text, continuation in zip(prompt, output.text or [], strict=True):
            typer.echo(text + continuation)
    typer.echo(_figures(output.statistics))


def _run(
    model: Path,
    prompts: list[str],
    max_new_tokens: int,
    options: dict[str, Any],
    cache: tuple[CacheKind, int],
    placement: tuple[str, str | None, str | None],
    ranks: tuple[int, int],
    live: bool,
) -> GenerationOutput:
    from infiniop.lm import load_tokenizer
    from infiniop.lm.text import encode

    tokenizer = load_tokenizer(model)
    loaded = load_model(model, *placement, *ranks)
    ids = [encode(tokenizer, text) for text in prompts]
    config = _cache_config(*cache, [len(row) + max_new_tokens for row in ids])
    stream = loaded.stream_generate(ids, max_new_tokens, tokenizer, cache_config=config, **options)
    if live:
        typer.echo(prompts[0], nl=False)
    for event in stream:
        if live:
            typer.echo(event.text, nl=False)
    if live:
        typer.echo()
    return stream.output()


def _cache_config(kind: CacheKind, block_size: int, lengths: list[int]):
    from infiniop.lm import PagedKVCacheConfig, StaticKVCacheConfig

    if kind is CacheKind.static:
        return StaticKVCacheConfig(len(lengths), max(lengths))
    return PagedKVCacheConfig(num_blocks=sum(-(-length // block_size) for length in lengths), block_size=block_size)


def _as_json(prompts: list[str], output: GenerationOutput) -> dict[str, Any]:
    rows = zip(prompts, output.text or [], output.token_ids, output.finish_reasons, strict=True)
    names = ("prompt", "text", "token_ids", "finish_reason")
    return {
        "sequences": [dict(zip(names, row, strict=True)) for row in rows],
        "statistics": output.statistics.as_dict(),
    }


def _figures(statistics: GenerationStatistics) -> str:
    s = statistics
    decode = ""
    if s.itl_ms is not None and s.decode_tokens_per_second is not None:
        decode = f"ITL {s.itl_ms:.2f} ms · decode {s.decode_tokens_per_second:.1f} tokens/s · "
    return (
        f"\n{s.prompt_tokens} prompt and {s.generated_tokens} new tokens in {s.total_seconds:.2f} s\n"
        f"TTFT {s.ttft_ms:.1f} ms · {decode}prefill {s.prefill_tokens_per_second:.1f} tokens/s · "
        f"overall {s.tokens_per_second:.1f} tokens/s"
    )
