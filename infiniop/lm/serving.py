"""`ServingEngine`: a model that serves many requests at once, step by step."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import infini_to_numpy
from .cache import BlockCache, CacheConfig, PagedKVCacheConfig
from .requests import Event, RequestParams, TokenLogprobs
from .rope import LENGTH_DEPENDENT
from .sampling import sample_on_host, sampling_columns
from .scheduler import Continuation, FinishReason, Request, Scheduler, Work
from .text import IncrementalDecoder, StopText, Tokenizer

if TYPE_CHECKING:
    from .models.llama import LlamaForCausalLM


@dataclass
class _Output:
    """What a continuation's tokens become."""

    continuation: Continuation
    params: RequestParams
    decoder: IncrementalDecoder | None
    stop: StopText
    counts: dict[int, int] = field(default_factory=dict)  # of generated tokens

    def take(self, token: int, reason: FinishReason | None) -> tuple[str, FinishReason | None]:
        """The text that a token completes, and why it is the last; `reason` is the scheduler's."""
        self.counts[token] = self.counts.get(token, 0) + 1
        if self.decoder is None:
            return "", reason
        text, stopped = self.stop.push("" if reason is FinishReason.STOP else self.decoder.push(token))
        if not stopped and reason is not None:
            more, stopped = self._rest()
            text += more
        return text, FinishReason.STOP if stopped else reason

    def rest(self) -> str:
        """The text that was held back."""
        return "" if self.decoder is None else self._rest()[0]

    def _rest(self) -> tuple[str, bool]:
        assert self.decoder is not None
        text, stopped = self.stop.push(self.decoder.flush())
        return text if stopped else text + self.stop.flush(), stopped


class ServingEngine:
    """Continuous batching of a model, for one thread at a time: `add` requests, then `step` until nothing is left.

    `cache_config` bounds the memory (a paged cache; default: one sequence of the model's longest, but not more than
    4096 tokens, for each of 8 requests); `options` are the `Scheduler`'s. Without a tokenizer, events carry no text.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: Tokenizer | None = None,
        cache_config: CacheConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ):
        self.model, self.tokenizer, self.clock = model, tokenizer, clock
        self.cache: BlockCache = model.new_cache(cache_config or default_cache(model))
        prefixes = options.pop("prefix_caching", True)
        if model.config.rope_parameters["rope_type"] in LENGTH_DEPENDENT:
            prefixes = False  # keys turn by the whole sequence's length: no beginning is like another
        self.scheduler = Scheduler(self.cache.sequences, prefix_caching=prefixes, **options)
        self._outputs: dict[Hashable, _Output] = {}
        self._revision = model.revision

    def __bool__(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self._outputs)

    @property
    def request_ids(self) -> set[str]:
        """The requests that have not ended."""
        return {o.continuation.request.request_id for o in self._outputs.values()}

    def room(self, length: int) -> int:
        """How many tokens the model and the cache have room for after a prompt of this length; at least 1."""
        table = self.cache.sequences
        held = table.blocks_per_sequence * table.block_size if table.window is None else sys.maxsize
        return max(1, min(self.model.config.max_position_embeddings, held) - length)

    def add(self, request_id: str, prompt: Sequence[int], params: RequestParams | None = None) -> None:
        """Raises `ValueError` for a request that can never run, `QueueFullError` when too many wait."""
        params = (params or RequestParams()).seeded()
        self._check(prompt, params)
        deadline = math.inf if params.timeout is None else self.clock() + params.timeout
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.model.stop_ids())
        request = Request(request_id, tuple(prompt), params.max_new_tokens, params.n, stop_ids, deadline)
        for continuation in self.scheduler.add(request):
            self._outputs[continuation.seq_id] = _Output(
                continuation,
                replace(params, seed=(params.seed or 0) + continuation.index),
                IncrementalDecoder(self.tokenizer) if self.tokenizer is not None else None,
                StopText(params.stop),
            )

    def cancel(self, request_id: str) -> None:
        """Ends a request; its blocks are free at once, its last events come with the next step."""
        self.scheduler.cancel(request_id)

    def step(self) -> list[Event]:
        """Runs one step and returns what it brought."""
        if self._revision != self.model.revision:  # other parameters give other keys and values
            self._revision = self.model.revision
            self.scheduler.start_over()
        work = self.scheduler.schedule(self.clock())
        events = self._run(work) if work else []
        return events + self._endings()

    # ------------------------------------------------------------------ inside

    def _check(self, prompt: Sequence[int], params: RequestParams) -> None:
        vocab, config = self.model.config.vocab_size, self.model.config
        for token in prompt:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
                raise ValueError(f"token id {token!r} is outside the vocabulary of {vocab}")
        longest = len(prompt) + params.max_new_tokens
        if config.longest_context is not None and longest > config.longest_context:
            raise ValueError(f"{longest} tokens exceed {config.longest_context}, the longest context supported here")
        if params.logprobs is not None and params.logprobs > vocab:
            raise ValueError(f"logprobs must be at most {vocab}, the size of the vocabulary, got {params.logprobs}")
        if params.stop and self.tokenizer is None:
            raise ValueError("stop texts need a tokenizer")

    def _run(self, work: list[Work]) -> list[Event]:
        try:
            tokens, logprobs = self._draw(work)
        except BaseException:
            self.scheduler.withdraw(work)
            raise
        return [self._event(w, token, logprobs) for w, token in self.scheduler.advance(work, tokens)]

    def _draw(self, work: list[Work]) -> tuple[list[int], dict[Hashable, TokenLogprobs | None]]:
        """The tokens of the parts that sample, and their log probabilities."""
        continuations = [w.continuation for w in work]
        batch = self.cache.placed_batch(
            [c.seq_id for c in continuations],
            [w.tokens for w in work],
            [w.slots for w in work],
            [c.length for c in continuations],
        )
        outputs = [self._outputs[c.seq_id] for c in continuations]
        drawn, logits = self.model.next_tokens(batch, self.cache, [o.params for o in outputs])
        tokens: list[int] = []
        logprobs: dict[Hashable, TokenLogprobs | None] = {}
        for row, (w, output) in enumerate(zip(work, outputs, strict=True)):
            if w.samples:
                token, found = int(drawn[row]), None
                if output.params.has_penalties or output.params.logprobs is not None:
                    token, found = _on_host(infini_to_numpy(logits[row]), token, output)
                tokens.append(token)
                logprobs[w.continuation.seq_id] = found
        return tokens, logprobs

    def _event(self, work: Work, token: int, logprobs: dict[Hashable, TokenLogprobs | None]) -> Event:
        continuation = work.continuation
        text, reason = self._outputs[continuation.seq_id].take(token, continuation.finish_reason)
        if reason is not None:
            self.scheduler.finish(continuation, reason)
            del self._outputs[continuation.seq_id]
        request_id = continuation.request.request_id
        return Event(request_id, continuation.index, token, text, reason, logprobs[continuation.seq_id])

    def _endings(self) -> list[Event]:
        """Of continuations that ended without a token: cancelled, or too late."""
        ended = [o for o in self._outputs.values() if o.continuation.finish_reason is not None]
        events = []
        for output in ended:
            continuation = output.continuation
            request_id, reason = continuation.request.request_id, continuation.finish_reason
            events.append(Event(request_id, continuation.index, None, output.rest(), reason))
            del self._outputs[continuation.seq_id]
        return events


def _on_host(logits: np.ndarray, token: int, output: _Output) -> tuple[int, TokenLogprobs | None]:
    """The token and its log probabilities, for what the device does not do: penalties, and telling probabilities."""
    plain, params = logits.astype(np.float64), output.params
    if params.has_penalties:
        with np.errstate(over="ignore"):  # a penalty of any size: the logit is minus infinity then
            token = _drawn(_penalised(plain, output), params, output.continuation.length)
    if params.logprobs is None:
        return token, None
    shifted = plain - plain.max()
    values = shifted - np.log(np.exp(shifted).sum())
    best = np.argsort(-values, kind="stable")[: params.logprobs]
    return token, TokenLogprobs(token, float(values[token]), tuple((int(t), float(values[t])) for t in best))


def _penalised(logits: np.ndarray, output: _Output) -> np.ndarray:
    params, result = output.params, logits.copy()
    seen = np.unique(np.asarray(output.continuation.tokens))
    factor = np.where(result[seen] > 0, 1 / params.repetition_penalty, params.repetition_penalty)
    result[seen] *= factor
    if output.counts:
        tokens = np.fromiter(output.counts, np.int64)
        counts = np.fromiter(output.counts.values(), np.float64)
        result[tokens] -= params.presence_penalty + params.frequency_penalty * counts
    return result


def _drawn(logits: np.ndarray, params: RequestParams, position: int) -> int:
    one = sampling_columns([params])
    return int(sample_on_host(logits[None], **one, position=np.array([position]))[0])


def default_cache(model: LlamaForCausalLM, block_size: int = 16) -> PagedKVCacheConfig:
    """Room for 8 requests of the model's longest sequence, but not more than 4096 tokens each."""
    tokens = 8 * min(model.config.max_position_embeddings, 4096)
    return PagedKVCacheConfig(num_blocks=-(-tokens // block_size), block_size=block_size)
