"""Events as OpenAI's answers: whole, or as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ..requests import CompletionOutput, Event, RequestParams, TokenLogprobs
from ..text import Tokenizer
from .worker import EngineFailure

_REASONS = {"deadline": "length", "cancelled": "stop"}  # OpenAI's clients know no others


class Answer:
    """The answer to one HTTP request: `n` choices for each of its prompts. A subclass gives the form."""

    kind: str
    chunk_kind: str

    def __init__(self, identity: dict[str, Any], tokenizer: Tokenizer, prompts: list[list[int]], params: RequestParams):
        self.identity, self.tokenizer, self.prompts, self.params = identity, tokenizer, prompts, params
        self._outputs = [CompletionOutput(i) for i in range(len(prompts) * params.n)]

    def request_id(self, number: int) -> str:
        """The engine's name for the request of one prompt."""
        return f"{self.identity['id']}/{number}"

    def choice(self, output: CompletionOutput) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, index: int, event: Event) -> dict[str, Any]:
        raise NotImplementedError

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream says of a choice before its first token."""
        return None

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        async for event in events:
            self._outputs[self._index(event)].add(event)
        choices = [
            {"index": o.index, "finish_reason": _reason(o.finish_reason)} | self.choice(o) for o in self._outputs
        ]
        return self.identity | {"object": self.kind, "choices": choices, "usage": self._usage()}

    async def stream(self, events: AsyncIterator[Event], with_usage: bool) -> AsyncIterator[str]:
        for output in self._outputs:
            if (opening := self.opening(output.index)) is not None:
                yield self._chunk([{"index": output.index, "finish_reason": None} | opening])
        try:
            async for event in events:
                index = self._index(event)
                self._outputs[index].token_ids += [] if event.token_id is None else [event.token_id]
                if event.text or event.logprobs is not None or event.finish_reason is not None:
                    reason = _reason(event.finish_reason)
                    yield self._chunk([{"index": index, "finish_reason": reason} | self.delta(index, event)])
            if with_usage:
                yield self._chunk([], usage=self._usage())
        except EngineFailure as error:
            yield _line({"error": {"message": str(error), "type": "server_error", "param": None, "code": None}})
        yield "data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        return _line(self.identity | {"object": self.chunk_kind, "choices": choices} | more)

    def _index(self, event: Event) -> int:
        return int(event.request_id.rpartition("/")[2]) * self.params.n + event.index

    def _usage(self) -> dict[str, int]:
        prompt, completion = sum(map(len, self.prompts)), sum(len(o.token_ids) for o in self._outputs)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _token(self, token: int) -> str:
        return self.tokenizer.decode([token])


class CompletionAnswer(Answer):
    kind = chunk_kind = "text_completion"

    def choice(self, output: CompletionOutput) -> dict[str, Any]:
        return {"text": output.text, "logprobs": self._logprobs(output.logprobs)}

    def delta(self, index: int, event: Event) -> dict[str, Any]:
        return {"text": event.text, "logprobs": self._logprobs([event.logprobs] if event.logprobs else [])}

    def _logprobs(self, found: list[TokenLogprobs]) -> dict[str, Any] | None:
        if self.params.logprobs is None:
            return None
        tokens = [self._token(f.token_id) for f in found]
        return {
            "tokens": tokens,
            "token_logprobs": [f.logprob for f in found],
            "top_logprobs": [{self._token(token): value for token, value in f.top} for f in found],
        }


class ChatAnswer(Answer):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def choice(self, output: CompletionOutput) -> dict[str, Any]:
        message = {"role": "assistant", "content": output.text}
        return {"message": message, "logprobs": self._logprobs(output.logprobs)}

    def opening(self, index: int) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, index: int, event: Event) -> dict[str, Any]:
        delta = {"content": event.text} if event.text else {}
        return {"delta": delta, "logprobs": self._logprobs([event.logprobs] if event.logprobs else [])}

    def _logprobs(self, found: list[TokenLogprobs]) -> dict[str, Any] | None:
        if self.params.logprobs is None:
            return None
        content = [
            self._entry(f.token_id, f.logprob) | {"top_logprobs": [self._entry(*t) for t in f.top]} for f in found
        ]
        return {"content": content}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._token(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _reason(reason: str | None) -> str | None:
    return None if reason is None else _REASONS.get(reason, str(reason))


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
