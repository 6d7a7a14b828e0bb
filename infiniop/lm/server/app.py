"""`create_app`: the routes. Errors are JSON in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import asyncio
import hmac
import importlib.resources
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..chat import ChatTemplate, ChatTemplateError
from ..scheduler import QueueFullError
from ..serving import ServingEngine
from ..text import Tokenizer, encode
from .answers import Answer, ChatAnswer, CompletionAnswer
from .metrics import Metrics
from .protocol import ChatRequest, CompletionRequest
from .worker import EngineFailure, Ticket, Worker

_REST_UNREAD = {"Connection": "close"}
_HEADERS = {429: {"Retry-After": "1"}, 408: _REST_UNREAD, 413: _REST_UNREAD}
_POLL_SECONDS = 0.25  # how often an unanswered request looks whether its client is still there


@dataclass(frozen=True)
class Limits:
    """What a server takes: bytes of a body, seconds until it is there, prompts in one request, and who may ask (None:
    everyone)."""

    body_bytes: int = 8 << 20
    body_seconds: float = 30.0  # a server that is to end waits as long for what has begun to come
    prompts: int = 64
    api_key: str | None = None


class _Refused(Exception):
    """An error as the client sees it. `code` is OpenAI's word for it, where it has one."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None,
    ):  # fmt: skip
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code


@contextmanager
def _refusing() -> Iterator[None]:
    """What a request cannot have, and what the engine has to say, as the client sees it."""
    try:
        yield
    except QueueFullError as error:
        raise _Refused(429, str(error), "rate_limit_error", code="rate_limit_exceeded") from None
    except EngineFailure as error:
        raise _Refused(503, str(error), "server_error") from None
    except ValueError as error:
        raise _Refused(400, str(error)) from None


def create_app(engine: ServingEngine, name: str, path: str | PathLike[str], limits: Limits | None = None) -> FastAPI:
    """The server of one model: `name` is what clients call it, `path` its folder, for the chat template."""
    service = _Service(engine, name, path, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await service.worker.stop()

    app = FastAPI(title="infiniop", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Gate, limit=service.limits.body_bytes, metrics=service.metrics)
    app.exception_handler(_Refused)(lambda _, e: _error(e.status, e.message, e.kind, e.param, e.code))
    app.exception_handler(HTTPException)(lambda r, e: _error(e.status_code, f"{r.method} {r.url.path}: {e.detail}"))
    app.exception_handler(Exception)(lambda _, e: _error(500, f"{type(e).__name__}: {e}", "server_error"))
    guarded = [Depends(service.check_key)]
    app.get("/", response_class=HTMLResponse)(_page)
    app.api_route("/health", methods=["GET", "HEAD"])(service.health)
    app.get("/metrics")(service.show_metrics)
    app.get("/v1/models", dependencies=guarded)(service.models)
    app.get("/v1/models/{model:path}", dependencies=guarded)(service.model)
    app.post("/v1/completions", dependencies=guarded)(service.completions)
    app.post("/v1/chat/completions", dependencies=guarded)(service.chat)
    return app


def _page() -> str:
    return importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def _error(
    status: int, message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> JSONResponse:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, _HEADERS.get(status))


_Body = TypeVar("_Body", bound=BaseModel)


async def _read(kind: type[_Body], request: Request, seconds: float) -> _Body:
    """The request in a body. Only what is declared as JSON: a page elsewhere cannot send that without asking first."""
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != "application/json":
        raise _Refused(400, f"the body must come with Content-Type: application/json, got {sent or 'none'}")
    try:
        async with asyncio.timeout(seconds):
            content = await request.body()
    except TimeoutError:
        raise _Refused(408, f"the body has not come within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise _Refused(499, "the client has left") from None
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        raise _Refused(400, f"the body is not JSON: {problem['ctx']['error']}")
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        raise _Refused(400, f"{place}: no such field is served here", param=place)
    raise _Refused(400, f"{place or 'the body'}: {problem['msg']}", param=place or None)


class _Gate:
    """Around every request: refuses a body that is too long, whether it says so or not, and counts the answers."""

    def __init__(self, app: Callable[..., Awaitable[None]], limit: int, metrics: Metrics):
        self._app, self._limit, self._metrics = app, limit, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        seen = 0

        async def limited() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise HTTPException(413, self._too_long())
            return message

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["path"].startswith("/v1/"):
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            return await _error(413, self._too_long())(scope, receive, counted)
        return await self._app(scope, limited, counted)

    def _too_long(self) -> str:
        return f"the body is longer than {self._limit} bytes"


class _Service:
    """The handlers and what they share."""

    def __init__(self, engine: ServingEngine, name: str, path: str | PathLike[str], limits: Limits):
        assert engine.tokenizer is not None
        self.engine, self.name, self.limits = engine, name, limits
        self.tokenizer: Tokenizer = engine.tokenizer
        self.metrics = Metrics()
        self.worker = Worker(engine, self.metrics)
        self._path = path
        self._template: ChatTemplate | None = None
        self._created = int(time.time())

    # ------------------------------------------------------------------ around every request

    async def check_key(self, request: Request) -> None:
        expected = self.limits.api_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if expected is not None and not hmac.compare_digest(given.encode(), expected.encode()):
            raise _Refused(
                401, "a valid API key is needed: Authorization: Bearer KEY", "authentication_error",
                code="invalid_api_key",
            )  # fmt: skip

    # ------------------------------------------------------------------ what is asked

    async def health(self) -> Response:
        if not self.worker.healthy:
            return _error(503, "the engine does not run", "server_error")
        return JSONResponse({"status": "ok"})

    async def show_metrics(self) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card()]}

    async def model(self, model: str) -> dict[str, Any]:
        self._check_model(model)
        return self._card()

    def _card(self) -> dict[str, Any]:
        longest = self.engine.model.config.max_position_embeddings
        return {
            "id": self.name, "object": "model", "created": self._created, "owned_by": "infiniop",
            "max_model_len": longest,
        }  # fmt: skip

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.name:
            raise _Refused(
                404, f"there is no model {model!r}, this server has {self.name!r}", "not_found_error", "model",
                "model_not_found",
            )  # fmt: skip

    async def completions(self, request: Request) -> Response:
        body = await _read(CompletionRequest, request, self.limits.body_seconds)
        self._check_model(body.model)
        prompts = await asyncio.to_thread(self._prompts, body.prompt)
        with _refusing():
            params = body.params(self._defaults(), body.max_tokens, body.logprobs)
        answer = CompletionAnswer(self._identity("cmpl"), self.tokenizer, prompts, params)
        return await self._serve(answer, body, request)

    async def chat(self, request: Request) -> Response:
        body = await _read(ChatRequest, request, self.limits.body_seconds)
        self._check_model(body.model)
        if body.top_logprobs is not None and not body.logprobs:
            raise _Refused(400, "top_logprobs: needs logprobs to be true", param="top_logprobs")
        prompt = await asyncio.to_thread(self._chat_prompt, [message.plain() for message in body.messages])
        most = body.max_completion_tokens or body.max_tokens or self.engine.room(len(prompt))
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        with _refusing():
            params = body.params(self._defaults(), most, logprobs)
        answer = ChatAnswer(self._identity("chatcmpl"), self.tokenizer, [prompt], params)
        return await self._serve(answer, body, request)

    def _identity(self, kind: str) -> dict[str, Any]:
        return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.name}

    def _defaults(self) -> dict[str, Any]:
        return self.engine.model.generation_defaults

    def _prompts(self, given: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
        rows: list[Any] = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        if len(rows) > self.limits.prompts:
            raise _Refused(
                400, f"prompt: at most {self.limits.prompts} prompts in one request, got {len(rows)}", param="prompt"
            )
        return [encode(self.tokenizer, row) if isinstance(row, str) else row for row in rows]

    def _chat_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            if self._template is None:
                self._template = ChatTemplate(self._path)
            text = self._template.render(messages)
        except ChatTemplateError as error:
            raise _Refused(400, f"messages: {error}", param="messages") from None
        return encode(self.tokenizer, text, special=False)

    # ------------------------------------------------------------------ how it is answered

    async def _serve(self, answer: Answer, body: CompletionRequest | ChatRequest, request: Request) -> Response:
        for prompt in answer.prompts:
            self._check_length(len(prompt), answer.params.max_new_tokens)
        ticket = Ticket(self.worker)
        try:
            await self._submit(ticket, answer)
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                return _Stream(ticket, answer.stream(ticket.events(), usage))
            return await self._whole(ticket, answer, request)
        except BaseException:
            ticket.close()
            raise

    def _check_length(self, prompt: int, new: int) -> None:
        """A model goes on beyond the context that it was trained for, but what it says there is worth nothing."""
        config = self.engine.model.config
        longest = config.max_position_embeddings
        if prompt + new > longest and config.rope_parameters["rope_type"] != "dynamic":
            raise _Refused(
                400, f"the model's context is {longest} tokens: the prompt has {prompt}, {new} new ones are asked for",
                code="context_length_exceeded",
            )  # fmt: skip

    async def _submit(self, ticket: Ticket, answer: Answer) -> None:
        with _refusing():
            for number, prompt in enumerate(answer.prompts):
                await ticket.submit(answer.request_id(number), prompt, answer.params)

    async def _whole(self, ticket: Ticket, answer: Answer, request: Request) -> Response:
        """The whole answer, unless the client leaves before."""
        work = asyncio.ensure_future(answer.whole(ticket.events()))
        try:
            while not (await asyncio.wait({work}, timeout=_POLL_SECONDS))[0]:
                if await request.is_disconnected():
                    raise _Refused(499, "the client has left")
            with _refusing():
                return JSONResponse(work.result())
        finally:
            work.cancel()


class _Stream(StreamingResponse):
    """Server-sent events; a client that leaves gives its blocks back."""

    def __init__(self, ticket: Ticket, lines: AsyncIterator[str]):
        super().__init__(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._ticket = ticket

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.close()
