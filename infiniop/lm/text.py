"""Tokenizers, and text that grows token by token."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What generation needs: `tokenizers.Tokenizer` and transformers' tokenizers both have it."""

    def encode(self, text: str, /) -> Any: ...

    def decode(self, ids: list[int], /) -> str: ...


def load_tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """The tokenizer in a model folder's `tokenizer.json`."""
    file = Path(path) / "tokenizer.json"
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


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The token ids of a text, with the special tokens that the tokenizer adds itself."""
    encoded = tokenizer.encode(text)
    return list(getattr(encoded, "ids", encoded))


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
