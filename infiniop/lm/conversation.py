"""`Conversation`: turns with a chat model."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

from .chat import ChatTemplate
from .llm import LLM
from .text import encode


class Conversation:
    """Remembers the turns; what was computed of them is found in the cache again."""

    def __init__(
        self,
        path: str | PathLike[str],
        device: Any = "cpu",
        dtype: Any = None,
        quantize: str | None = None,
        system: str | None = None,
    ):
        """Raises `ChatTemplateError` for a model without a chat template, before its weights are read."""
        self._template = ChatTemplate(path)
        self._llm = LLM(path, device, dtype, quantize)
        self.messages: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]

    def ask(self, text: str, max_new_tokens: int = 512, **options: Any) -> Iterator[str]:
        """The answer to a message, in pieces as they come; `options` as in `LLM.params`."""
        self.messages.append({"role": "user", "content": text})
        llm, engine, answer = self._llm, self._llm.engine, ""
        prompt = encode(llm.tokenizer, self._template.render(self.messages), special=False)
        engine.add("chat", prompt, llm.params(max_new_tokens=min(max_new_tokens, engine.room(len(prompt))), **options))
        try:
            while engine:
                for event in engine.step():
                    answer += event.text
                    yield event.text
        finally:
            engine.cancel("chat")
            engine.step()
            self.messages.append({"role": "assistant", "content": answer})
