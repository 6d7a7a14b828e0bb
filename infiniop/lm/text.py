"""Tokenizers, and text that grows token by token."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from .config import no_folder


class Tokenizer(Protocol):
    """What generation needs: `tokenizers.Tokenizer` and transformers' tokenizers both have it."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> Any: ...

    def decode(self, ids: list[int], /) -> str: ...


def load_tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """The tokenizer in a model folder's `tokenizer.json`."""
    file = Path(path) / "tokenizer.json"
    if not file.parent.is_dir():
        raise FileNotFoundError(no_folder(file.parent))
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: text in and out needs a tokenizer")
    try:
        from tokenizers import Tokenizer as FastTokenizer
    except ImportError:
        raise ImportError("reading tokenizer.json needs the tokenizers package: pip install 'infiniop[lm]'") from None
    try:
        return FastTokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exception for a damaged file
        raise ValueError(f"{file} is not a tokenizer: {error}") from None


def encode(tokenizer: Tokenizer, text: str, special: bool = True) -> list[int]:
    """The token ids of a text, with the special tokens that the tokenizer adds itself unless `special` is False."""
    if not text.isascii():
        _require_unicode(text)
    encoded = tokenizer.encode(text) if special else tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(encoded, "ids", encoded))


def _require_unicode(text: str) -> None:
    """Half a character (a lone surrogate, as Python makes it of bytes that are no UTF-8) has no tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not valid Unicode: {text[error.start]!r} at {error.start}") from None


class IncrementalDecoder:
    """Turns tokens into text as they come. What it returns, joined, is the decoded whole (unless the tokens are no
    valid UTF-8): a character whose bytes are spread over several tokens appears once, when it is complete."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # decoding begins here: one piece early, because a token's text can depend on the one before
        self._shown = 0  # tokens before this one are shown

    def push(self, token: int) -> str:
        """The text that this token completes; "" while it is in the middle of a character."""
        self._ids.append(token)
        text, known = self._window()
        if text.endswith("\ufffd") or len(text) <= len(known):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return text[len(known) :]

    def flush(self) -> str:
        """What is left at the end, incomplete characters included."""
        text, known = self._window()
        self._start = self._shown = len(self._ids)
        return text[len(known) :]

    def _window(self) -> tuple[str, str]:
        decode = self._tokenizer.decode
        return decode(self._ids[self._start :]), decode(self._ids[self._start : self._shown])


class StopText:
    """Text up to the first of the stop texts. What may be the beginning of one is held back until it is clear."""

    def __init__(self, stop: Sequence[str]):
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What can be shown now, and whether a stop text has come."""
        self._held += text
        found = [place for place in (self._held.find(stop) for stop in self._stop) if place >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        kept = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown = self._held[: len(self._held) - kept]
        self._held = self._held[len(shown) :]
        return shown, False

    def flush(self) -> str:
        """What is left at the end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
