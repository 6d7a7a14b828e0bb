"""`GenerationMixin.generate`: prefill, decode, sampling, streaming and honest statistics."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import infini_to_numpy, token_rows
from .sampling import SamplingParams, sampling_options
from .text import IncrementalDecoder, Tokenizer, encode

if TYPE_CHECKING:
    from infiniop import Tensor

    from .batch import ForwardBatch
    from .cache import BlockCache, CacheConfig
    from .config import LlamaConfig

__all__ = [
    "GenerationMixin", "GenerationOutput", "GenerationStatistics", "GenerationStream", "TokenEvent", "infini_to_numpy",
]  # fmt: skip

logger = logging.getLogger(__name__)

_PREFILL_TOKENS_PER_STEP = 2048  # bounds the activations of a long prompt


@dataclass(frozen=True)
class GenerationStatistics:
    """Figures of one `generate` call over its whole batch, measured until tokens are on the host. TTFT and the total
    begin with the call; ITL is the decode steps alone, without what a streaming caller does between them. What was
    not measured (the ITL of a single token) is None."""

    batch_size: int
    prompt_tokens: int
    generated_tokens: int
    total_seconds: float
    ttft_ms: float  # until every sequence has its first token
    itl_ms: float | None  # mean time of a decode step, which gives each running sequence one token
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None
    tokens_per_second: float  # generated tokens by total time

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class GenerationOutput:
    """One entry per sequence of the batch. `token_ids` are the new ones; a stop token is among them, but not in
    `text`."""

    token_ids: list[list[int]]
    text: list[str] | None
    finish_reasons: list[str]  # "stop" (a stop token) or "length"
    statistics: GenerationStatistics


@dataclass(frozen=True)
class TokenEvent:
    """One new token of one sequence. `text` is what it completes ("" without a tokenizer, or within a character)."""

    row: int
    token_id: int
    text: str
    finish_reason: str | None


@dataclass
class _Sequence:
    row: int
    prompt: list[int]
    params: SamplingParams
    decoder: IncrementalDecoder | None
    pending: list[int] = field(default_factory=list)  # tokens that the model has not seen
    generated: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.generated)


class GenerationMixin:
    """Generation for whatever has a forward pass over a cache."""

    config: LlamaConfig
    generation_defaults: dict[str, Any]

    def next_tokens(
        self, batch: ForwardBatch, cache: BlockCache, parameters: Sequence[SamplingParams]
    ) -> tuple[np.ndarray, Tensor]:
        raise NotImplementedError

    def generation_cache(self, lengths: Sequence[int], config: CacheConfig | None) -> BlockCache:
        raise NotImplementedError

    def generate(
        self,
        input_ids: Any,
        max_new_tokens: int = 128,
        tokenizer: Tokenizer | None = None,
        *,
        streamer: Callable[[TokenEvent], None] | None = None,
        **options: Any,
    ) -> GenerationOutput:
        """Generates for every sequence of the batch, whatever their lengths; `options` as in `stream_generate`.

        `streamer` is called with every token as it comes.
        """
        stream = self.stream_generate(input_ids, max_new_tokens, tokenizer, **options)
        for event in stream:
            if streamer is not None:
                streamer(event)
        return stream.output()

    def stream_generate(
        self,
        input_ids: Any,
        max_new_tokens: int = 128,
        tokenizer: Tokenizer | None = None,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        stop_on_eos: bool = True,
        cache_config: CacheConfig | None = None,
    ) -> GenerationStream:
        """The tokens as they come, as an iterator of `TokenEvent`; its `output()` gives the whole afterwards.

        `input_ids`: one sequence or a batch of them (with a tokenizer, texts as well). What is not given comes from the
        model's generation_config.json; a sampling option given without a temperature means temperature 1, and none at
        all is greedy. Sequence r of a batch draws with `seed + r`, or with `seed[r]`.
        """
        began = time.perf_counter()
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        params = SamplingParams(**self.sampling_options(given))
        prompts = _prompts(input_ids, tokenizer)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be an integer of at least 1, got {max_new_tokens!r}")
        self._check_prompts(prompts, max_new_tokens)
        sequences = [
            _Sequence(
                row, prompt, row_params, IncrementalDecoder(tokenizer) if tokenizer else None, pending=list(prompt)
            )
            for row, (prompt, row_params) in enumerate(zip(prompts, _seeded(params, seed, len(prompts)), strict=True))
        ]
        stop_ids = self.stop_ids(eos_token_id) if stop_on_eos else frozenset()
        return GenerationStream(self, sequences, max_new_tokens, stop_ids, cache_config, began)

    def sampling_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The options that are not None, and the model's own for the others; none at all: greedy."""
        defaults = self.generation_defaults
        sampled = defaults.get("do_sample", False) or any(value is not None for value in given.values())
        return sampling_options(given, defaults) if sampled else {}

    def stop_ids(self, eos_token_id: int | Sequence[int] | None = None) -> frozenset[int]:
        """The tokens that end a sequence: those given, else generation_config.json's, else config.json's."""
        ids = self.generation_defaults.get("eos_token_id") if eos_token_id is None else eos_token_id
        ids = self.config.eos_token_id if ids is None else ids
        return frozenset([ids] if isinstance(ids, int) else ids)

    def _check_prompts(self, prompts: list[list[int]], max_new_tokens: int) -> None:
        vocab = self.config.vocab_size
        for row, prompt in enumerate(prompts):
            for token in prompt:
                if not 0 <= token < vocab:
                    raise ValueError(f"sequence {row}: token id {token} is outside the vocabulary of {vocab}")
        longest = max(map(len, prompts)) + max_new_tokens
        if self.config.longest_context is not None and longest > self.config.longest_context:
            raise ValueError(
                f"{longest} tokens exceed {self.config.longest_context}, the longest context supported here"
            )
        if longest > self.config.max_position_embeddings:
            logger.warning(
                "%d tokens exceed max_position_embeddings (%d)", longest, self.config.max_position_embeddings
            )


class GenerationStream:
    """One run of generation: iterate it for the tokens, then ask for `output()`. Its cache room is given back at the
    end, also when the caller stops early."""

    def __init__(
        self,
        model: GenerationMixin,
        sequences: list[_Sequence],
        max_new_tokens: int,
        stop_ids: frozenset[int],
        cache_config: CacheConfig | None,
        began: float,
    ):
        self._start = began
        self._model, self._sequences, self._max_new_tokens, self._stop_ids = model, sequences, max_new_tokens, stop_ids
        # The last token of a sequence is never fed back, so it takes no room.
        lengths = [len(s.prompt) + max_new_tokens - 1 for s in sequences]
        self._cache = model.generation_cache(lengths, cache_config)
        self._check_room(lengths)
        self._first: float | None = None
        self._end: float | None = None
        self._decode_steps = self._decode_tokens = 0
        self._decode_seconds = 0.0
        self._events = self._run()

    def __iter__(self) -> Iterator[TokenEvent]:
        return self._events

    def close(self) -> None:
        """Ends the run early."""
        self._events.close()

    def _check_room(self, lengths: list[int]) -> None:
        table, geometry = self._cache.sequences, self._cache.geometry
        if geometry.max_sequences is not None and len(table) + len(lengths) > geometry.max_sequences:
            raise ValueError(f"a batch of {len(lengths)} sequences, and the cache takes {geometry.max_sequences}")
        needed = [table.blocks_for(length) for length in lengths]
        if geometry.contiguous and max(needed) > 1:
            raise ValueError(
                f"a sequence of {max(lengths)} tokens (prompt and new ones), "
                f"and the cache holds {geometry.block_size} of each"
            )
        if sum(needed) > table.allocator.free_blocks:
            raise ValueError(
                f"{sum(lengths)} tokens (prompts and new ones) need {sum(needed)} "
                f"cache blocks of {geometry.block_size}, "
                f"{table.allocator.free_blocks} are free"
            )

    def _run(self) -> Generator[TokenEvent, None, None]:
        table = self._cache.sequences
        ids = {s.row: (id(self), s.row) for s in self._sequences}
        active = list(self._sequences)
        try:
            for sequence in active:
                table.add(ids[sequence.row])
            while active:
                for event in self._step(active, ids):
                    yield event
                    if event.finish_reason is not None:
                        table.free(ids.pop(event.row))
                active = [s for s in active if s.finish_reason is None]
            self._end = time.perf_counter()
        finally:
            for seq_id in ids.values():
                if seq_id in table:
                    table.free(seq_id)

    def _step(self, active: list[_Sequence], ids: dict[int, tuple[int, int]]) -> list[TokenEvent]:
        """One forward pass: the next token of every sequence whose prompt is done, and a piece of the prompts that
        are not."""
        began, decoding = time.perf_counter(), all(s.generated for s in active)
        chosen, pieces = self._choose(active, ids)
        lengths = [s.length for s in chosen]
        batch = self._cache.batch([ids[s.row] for s in chosen], pieces, lengths)
        tokens, _ = self._model.next_tokens(batch, self._cache, [s.params for s in chosen])
        events = []
        for sequence, piece, token in zip(chosen, pieces, tokens.tolist(), strict=True):
            del sequence.pending[: len(piece)]
            if not sequence.pending:
                events.append(self._take(sequence, token))
        if decoding:
            self._decode_steps += 1
            self._decode_tokens += len(events)
            self._decode_seconds += time.perf_counter() - began
        if self._first is None and all(s.generated for s in self._sequences):
            self._first = time.perf_counter()
        return events

    def _choose(
        self, active: list[_Sequence], ids: dict[int, tuple[int, int]]
    ) -> tuple[list[_Sequence], list[list[int]]]:
        budget = max(_PREFILL_TOKENS_PER_STEP, len(active))
        chosen, pieces = [], []
        for sequence in sorted(active, key=lambda s: len(s.pending) > 1):
            count = min(self._cache.sequences.step_limit(ids[sequence.row], len(sequence.pending)), budget)
            if count > 0:
                budget -= count
                chosen.append(sequence)
                pieces.append(sequence.pending[:count])
        return chosen, pieces

    def _take(self, sequence: _Sequence, token: int) -> TokenEvent:
        sequence.generated.append(token)
        sequence.pending.append(token)
        stopped = token in self._stop_ids
        if stopped or len(sequence.generated) >= self._max_new_tokens:
            sequence.finish_reason = "stop" if stopped else "length"
        text = ""
        if sequence.decoder is not None:
            text = "" if stopped else sequence.decoder.push(token)
            if sequence.finish_reason is not None:
                text += sequence.decoder.flush()
            sequence.text.append(text)
        return TokenEvent(sequence.row, token, text, sequence.finish_reason)

    def output(self) -> GenerationOutput:
        """Everything generated; runs what has not run yet."""
        for _ in self._events:
            pass
        if any(s.finish_reason is None for s in self._sequences):
            raise RuntimeError("the run was ended early: there is no complete output")
        with_text = self._sequences[0].decoder is not None
        return GenerationOutput(
            token_ids=[s.generated for s in self._sequences],
            text=["".join(s.text) for s in self._sequences] if with_text else None,
            finish_reasons=[s.finish_reason or "" for s in self._sequences],
            statistics=self._statistics(),
        )

    def _statistics(self) -> GenerationStatistics:
        assert self._first is not None and self._end is not None
        prompt = sum(len(s.prompt) for s in self._sequences)
        generated = sum(len(s.generated) for s in self._sequences)
        total, first = self._end - self._start, self._first - self._start
        steps, seconds = self._decode_steps, self._decode_seconds
        return GenerationStatistics(
            batch_size=len(self._sequences),
            prompt_tokens=prompt,
            generated_tokens=generated,
            total_seconds=total,
            ttft_ms=first * 1e3,
            itl_ms=seconds * 1e3 / steps if steps else None,
            prefill_tokens_per_second=prompt / first,
            decode_tokens_per_second=self._decode_tokens / seconds if steps else None,
            tokens_per_second=generated / total,
        )


def _prompts(input_ids: Any, tokenizer: Tokenizer | None) -> list[list[int]]:
    texts = [input_ids] if isinstance(input_ids, str) else input_ids
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts):
        if tokenizer is None:
            raise ValueError("a text as input needs a tokenizer")
        return token_rows([encode(tokenizer, text) for text in texts])
    return token_rows(input_ids)


def _seeded(params: SamplingParams, seed: int | Sequence[int] | None, count: int) -> list[SamplingParams]:
    if seed is None:
        return [params.seeded() for _ in range(count)]
    seeds = list(itertools.islice(itertools.count(seed), count)) if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} sequences")
    return [replace(params, seed=int(value)) for value in seeds]
