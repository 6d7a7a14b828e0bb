"""`infiniop serve`: OpenAI's API over HTTP; `infiniop chat`: a conversation in the terminal."""

from __future__ import annotations

import logging
import os
import socket
from typing import Annotated

import typer

from ._load import load_model
from ._options import Device, Dtype, Model, Pp, Quantize, Seed, Temperature, Tp

_LOG_LEVELS = ("debug", "info", "warning", "error")
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that none is closed as it is used again


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("chat")(chat)


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on (0: any free one).")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default: the folder's name.")] = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Device = "cpu",
    tp: Tp = 1,
    pp: Pp = 1,
    kv_memory: Annotated[int | None, typer.Option(min=1, help="MiB for keys and values.")] = None,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block of the cache.")] = 16,
    max_running: Annotated[int, typer.Option(min=1, help="Sequences in one step.")] = 64,
    max_step_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens in one step; longer prompts come in pieces.")
    ] = 512,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are answered 429.")] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="KiB of a request's body.")] = 8192,
    api_key: Annotated[
        str | None, typer.Option(envvar="INFINIOP_API_KEY", help="Key that clients must send; default: none.")
    ] = None,
) -> None:
    """Serve a model: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics, and a chat page at /."""
    try:
        import uvicorn

        from infiniop.lm.server import Limits, create_app
    except ImportError as error:
        raise typer.BadParameter(f"{error}: serving needs pip install 'infiniop[serve]'") from None
    from infiniop.lm import PagedKVCacheConfig, ServingEngine, load_tokenizer
    from infiniop.lm.serving import default_cache

    _check_address(host, port)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = load_tokenizer(model)
    loaded = load_model(model, device, dtype, quantize, tp, pp)
    cache = default_cache(loaded, block_size) if kv_memory is None else PagedKVCacheConfig(kv_memory << 20, block_size)
    engine = ServingEngine(
        loaded, tokenizer, cache, max_running=max_running, max_step_tokens=max_step_tokens, max_waiting=max_waiting
    )
    app = create_app(engine, name or model.resolve().name, model, Limits(max_body << 10, api_key=api_key))
    level = os.environ.get("INFINIOP_LOG_LEVEL", "").lower()
    uvicorn.run(
        app, host=host, port=port, log_level=level if level in _LOG_LEVELS else "info",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )  # fmt: skip


def _check_address(host: str, port: int) -> None:
    """Before a model is loaded for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None


def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="A system message before the first turn.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most this many tokens per answer.")] = 512,
    temperature: Temperature = None,
    seed: Seed = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Device = "cpu",
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends the conversation."""
    from infiniop.lm.conversation import Conversation

    conversation = Conversation(model, device, dtype, quantize, system)
    while True:
        try:
            text = typer.prompt(">", prompt_suffix=" ", default="", show_default=False)
        except typer.Abort:
            break
        if not text:
            break
        for piece in conversation.ask(text, max_new_tokens, temperature=temperature, seed=seed):
            typer.echo(piece, nl=False)
        typer.echo()
