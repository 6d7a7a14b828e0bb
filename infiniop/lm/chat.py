"""Chat templates: messages as the text that a model was trained on."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from .config import no_folder, read_json


class ChatTemplateError(ValueError):
    """A model without a chat template, or messages that its template does not take."""


class ChatTemplate:
    """The template of a model folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`."""

    def __init__(self, path: str | PathLike[str]):
        """Raises `ChatTemplateError` when the folder has none that can be read."""
        folder = Path(path)
        if not folder.is_dir():
            raise ChatTemplateError(no_folder(folder))
        config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = next((t.get("template") for t in source if t.get("name") == "default"), None)
        if not isinstance(source, str):
            raise ChatTemplateError(f"{folder} has no chat template")
        self._tokens = {
            name: _content(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }
        self._template = _compiled(source)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The text to continue. Raises `ChatTemplateError` for messages that the template refuses."""
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=[dict(m) for m in messages], add_generation_prompt=add_generation_prompt, **self._tokens
            )
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template refuses these messages: {error}") from None


def _content(token: Any) -> str:
    """A special token as tokenizer_config.json writes it: a text, or an object with one."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """Templates come with models, so they run in a sandbox; loops may break and continue, as in Hugging Face's."""
    from jinja2 import TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        from jinja2 import TemplateError

        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise ChatTemplateError(f"the chat template is not valid: {error}") from None
