"""What a request asks for beyond its tokens, and what it gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real

from .sampling import SamplingParams, require


@dataclass(frozen=True)
class RequestParams(SamplingParams):
    """How a request is continued. Beside the sampling parameters:

    - `max_new_tokens`, and `n` continuations (with seeds seed, seed + 1 …);
    - `stop`: texts that end it, left out of the result; `stop_token_ids` beside the model's own, which `ignore_eos`
      passes over;
    - `repetition_penalty` divides the positive logits of tokens that have occurred in prompt or continuation, and
      multiplies the negative ones (Keskar et al. 2019); `presence_penalty` is taken from the logits of tokens in the
      continuation, `frequency_penalty` as often as they occur in it. All before the temperature;
    - `logprobs`: how many of the likeliest tokens come with their log probabilities, beside the chosen one (None: no
      log probabilities), from the logits before penalties and temperature;
    - `timeout`: seconds after which it ends as it is.
    """

    max_new_tokens: int = 128
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, Real, "a number", "repetition_penalty", "presence_penalty", "frequency_penalty", "timeout")
        require(self, Integral, "an integer", "logprobs")
        for name in ("max_new_tokens", "n"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if not 0.0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be a finite number above 0, got {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2.0 <= getattr(self, name) <= 2.0:
                raise ValueError(f"{name} must be between -2 and 2, got {getattr(self, name)}")
        if self.logprobs is not None and self.logprobs < 0:
            raise ValueError(f"logprobs must be at least 0, got {self.logprobs}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {self.timeout}")
        if isinstance(self.stop, str):
            raise TypeError(f"stop must be a tuple of texts, got the text {self.stop!r}")
        if any(not isinstance(text, str) for text in self.stop):
            raise TypeError(f"stop must be a tuple of texts, got {self.stop!r}")
        if any(not text for text in self.stop):
            raise ValueError("a stop text must not be empty")
        if any(isinstance(token, bool) or not isinstance(token, Integral) for token in self.stop_token_ids):
            raise TypeError(f"stop_token_ids must be integers, got {self.stop_token_ids!r}")

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True)
class TokenLogprobs:
    """Log probability of the chosen token, and the likeliest tokens with theirs, the likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """What a step brings a continuation: a token (None when it ends without one), the text that it completes, and the
    reason when it is the last."""

    request_id: str
    index: int
    token_id: int | None
    text: str
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None


@dataclass
class CompletionOutput:
    """One continuation. A stop token is among `token_ids`, but not in `text`."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, event: Event) -> None:
        if event.token_id is not None:
            self.token_ids.append(event.token_id)
        if event.logprobs is not None:
            self.logprobs.append(event.logprobs)
        self.text += event.text
        self.finish_reason = event.finish_reason


@dataclass
class RequestOutput:
    """A prompt and its continuations."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
