"""`Scheduler`: which tokens of which requests run in the next step. It holds no tensor: only the table of sequences.

Requests wait in the order in which they came. A step takes one token of every sequence that decodes, then pieces of
prompts, then new requests, as far as its budget of tokens and the free blocks allow. When blocks run out, the sequence
that came last gives its own back and waits again at the front; its tokens are computed once more later.
"""

from __future__ import annotations

import bisect
import enum
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .cache import SequenceTable


class QueueFullError(RuntimeError):
    """As many requests wait as may; nothing was added."""


class State(enum.Enum):
    FORKING = enum.auto()  # until the first continuation of its request has computed the prompt
    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


class FinishReason(enum.StrEnum):
    STOP = "stop"  # a stop token, or what the caller takes for the end
    LENGTH = "length"  # as many tokens as were asked for
    CANCELLED = "cancelled"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class Request:
    """`n` continuations of one prompt. `deadline` is a time on the clock that `Scheduler.schedule` is given."""

    request_id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    n: int = 1
    stop_ids: frozenset[int] = frozenset()
    deadline: float = math.inf

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt is empty: it must have at least one token")
        for name, value in (("max_new_tokens", self.max_new_tokens), ("n", self.n)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(eq=False)
class Continuation:
    """One continuation of a request: the prompt and what has been generated."""

    request: Request
    index: int
    arrival: int
    state: State = State.FORKING
    finish_reason: FinishReason | None = None
    preemptions: int = 0
    tokens: list[int] = field(init=False)  # of the prompt, and generated

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def seq_id(self) -> Hashable:
        return self.request.request_id, self.index

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt) :]

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def new_tokens(self) -> int:
        """How many have been generated."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def order(self) -> tuple[int, int]:
        return self.arrival, self.index


@dataclass(frozen=True)
class Work:
    """One sequence's part of a step, whose keys and values go to `slots`, i64 `[len(tokens)]`. `samples`: these are its
    last known tokens, so that the next one is drawn."""

    continuation: Continuation
    tokens: list[int]
    slots: np.ndarray
    samples: bool


@dataclass
class SchedulerStatistics:
    """Counts since the start."""

    prompt_tokens: int = 0  # of sequences when they first ran
    prefix_tokens: int = 0  # of these, found in the cache
    preemptions: int = 0


class Scheduler:
    """Continuous batching over a table of sequences, for one thread at a time.

    `max_step_tokens` bounds the tokens of a step, `max_running` the sequences in it, `max_waiting` the requests that
    wait. `prefix_caching` must be off where keys depend on more than the tokens before them.
    """

    def __init__(
        self,
        table: SequenceTable,
        max_step_tokens: int = 512,
        max_running: int = 64,
        max_waiting: int = 1024,
        prefix_caching: bool = True,
    ):
        if not 1 <= max_running <= max_step_tokens:
            raise ValueError(
                f"max_running must be between 1 and max_step_tokens ({max_step_tokens}), so that every sequence gets "
                f"its token, got {max_running}"
            )
        self.table = table
        self.max_step_tokens, self.max_running, self.max_waiting = max_step_tokens, max_running, max_waiting
        self.prefix_caching = prefix_caching
        self.statistics = SchedulerStatistics()
        self._waiting: list[Continuation] = []  # both in the order of arrival
        self._running: list[Continuation] = []
        self._requests: dict[str, list[Continuation]] = {}
        self._arrivals = 0

    # ------------------------------------------------------------------ what callers ask

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def __bool__(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> list[Continuation]:
        """Lets a request wait; returns its continuations. Raises `ValueError` when it can never run, `QueueFullError`
        when too many wait."""
        if request.request_id in self._requests:
            raise ValueError(f"request {request.request_id!r} exists already")
        longest = len(request.prompt) + request.max_new_tokens - 1
        needed, most = self.table.blocks_for(longest), self.table.blocks_per_sequence
        if needed > most:
            raise ValueError(
                f"{len(request.prompt)} prompt tokens and {request.max_new_tokens} new ones need {needed} cache blocks "
                f"of {self.table.block_size} tokens, a sequence may have {most}"
            )
        if len(self._waiting) >= self.max_waiting:
            raise QueueFullError(f"{len(self._waiting)} requests are waiting, as many as may")
        self._arrivals += 1
        made = [Continuation(request, index, self._arrivals) for index in range(request.n)]
        self._requests[request.request_id] = made
        self._queue(made[:1])  # the others fork from it
        return made

    def cancel(self, request_id: str) -> None:
        """Ends a request, whatever it does; an unknown one is none of the scheduler's."""
        for continuation in self._requests.get(request_id, ()):
            self.finish(continuation, FinishReason.CANCELLED)

    def finish(self, continuation: Continuation, reason: FinishReason) -> None:
        """Ends one continuation and gives its blocks back."""
        if continuation.state is State.FINISHED:
            return
        self._leave(continuation)
        continuation.state, continuation.finish_reason = State.FINISHED, reason
        siblings = self._requests[continuation.request.request_id]
        if all(c.state is State.FINISHED for c in siblings):
            del self._requests[continuation.request.request_id]
        elif not any(c.state in (State.WAITING, State.RUNNING) for c in siblings):
            self._queue([c for c in siblings if c.state is State.FORKING])  # there is nothing left to fork from

    # ------------------------------------------------------------------ steps

    def schedule(self, now: float = 0.0) -> list[Work]:
        """The next step, whose tokens have their place in the table from now on. Empty when nothing can run."""
        self._expire(now)
        self._fork()
        step: list[Work] = []
        budget, preemptions = self.max_step_tokens, self.statistics.preemptions
        for continuation in sorted(self._running, key=lambda c: (c.new_tokens == 0, c.order)):
            if continuation.state is State.RUNNING and budget > 0:  # another may have preempted it
                budget -= self._take(step, continuation, budget)
        while budget > 0 and self._waiting and self.statistics.preemptions == preemptions:
            admitted = self._admit()
            if admitted is None:
                break
            budget -= self._take(step, admitted, budget)
        return step

    def start_over(self) -> None:
        """All keys and values are void: what runs is computed once more, and no beginning is known."""
        for continuation in list(self._running):
            self._give_back(continuation)
        self.table.prefixes.clear()

    def withdraw(self, step: Sequence[Work]) -> None:
        """Takes note of a step that failed: its sequences wait again, and their tokens are computed once more."""
        for work in step:
            if work.continuation.state is State.RUNNING:
                self._give_back(work.continuation)

    def advance(self, step: Sequence[Work], tokens: Sequence[int]) -> Iterator[tuple[Work, int]]:
        """Takes note of a step that has run: `tokens` has one for each part that samples. Yields them with their part,
        those of continuations that were ended in the meantime left out."""
        drawn = iter(tokens)
        for work in step:
            continuation = work.continuation
            token = next(drawn) if work.samples else None
            if continuation.state is State.FINISHED:
                continue
            if self.prefix_caching:
                self.table.index(continuation.seq_id, continuation.tokens)
            if token is None:
                continue
            continuation.tokens.append(token)
            if token in continuation.request.stop_ids:
                self.finish(continuation, FinishReason.STOP)
            elif continuation.new_tokens >= continuation.request.max_new_tokens:
                self.finish(continuation, FinishReason.LENGTH)
            yield work, token

    # ------------------------------------------------------------------ inside

    def _expire(self, now: float) -> None:
        late = [c for all_ in self._requests.values() for c in all_ if c.request.deadline <= now]
        for continuation in late:
            self.finish(continuation, FinishReason.DEADLINE)

    def _fork(self) -> None:
        """Continuations whose first one has computed all but the prompt's last token begin on its blocks."""
        for first in list(self._running):
            others = self._forking(first)
            if not others or self.table.length(first.seq_id) < len(first.request.prompt) - 1:
                continue
            room = min(self.max_running - len(self._running), self.table.free_sequences)
            for other in others[:room]:
                self.table.fork(first.seq_id, other.seq_id)
                self._run(other)
            self._queue(others[room:])

    def _forking(self, continuation: Continuation) -> list[Continuation]:
        return [c for c in self._requests[continuation.request.request_id] if c.state is State.FORKING]

    def _queue(self, continuations: Sequence[Continuation]) -> None:
        """Puts them among those that wait, in the order in which they came."""
        for continuation in continuations:
            continuation.state = State.WAITING
            bisect.insort(self._waiting, continuation, key=lambda c: c.order)

    def _run(self, continuation: Continuation) -> None:
        continuation.state = State.RUNNING
        bisect.insort(self._running, continuation, key=lambda c: c.order)

    def _leave(self, continuation: Continuation) -> None:
        """Takes a continuation from where it is; its blocks are given back."""
        if continuation.state is State.RUNNING:
            self._running.remove(continuation)
            self.table.free(continuation.seq_id)
        elif continuation.state is State.WAITING:
            self._waiting.remove(continuation)

    def _admit(self) -> Continuation | None:
        """Lets the first of those that wait run, when there is room for all of its tokens."""
        first = self._waiting[0]
        if len(self._running) >= self.max_running or self.table.free_sequences == 0:
            return None
        known = self.table.add(first.seq_id, first.tokens if self.prefix_caching else ())
        if self.table.blocks_needed(first.seq_id, first.length - known) > self.table.allocator.free_blocks:
            self.table.free(first.seq_id)
            return None
        del self._waiting[0]
        self._run(first)
        if first.preemptions == 0:
            self.statistics.prompt_tokens += first.length
            self.statistics.prefix_tokens += known
        return first

    def _take(self, step: list[Work], continuation: Continuation, budget: int) -> int:
        """Adds what fits of a sequence's tokens to the step; returns how many these are."""
        start, tokens = self.table.length(continuation.seq_id), continuation.tokens
        end = len(tokens) - bool(self._forking(continuation))  # the last token is computed once per continuation
        count = min(self.table.step_limit(continuation.seq_id, end - start), budget)
        while self.table.blocks_needed(continuation.seq_id, count) > self.table.allocator.free_blocks:
            self._preempt(step)
            if continuation.state is not State.RUNNING:
                return 0
        if count > 0:
            slots = self.table.append(continuation.seq_id, count)
            step.append(Work(continuation, tokens[start : start + count], slots, start + count == len(tokens)))
        return count

    def _preempt(self, step: list[Work]) -> None:
        """Takes the blocks of the sequence that came last, among those that are not in the step."""
        planned = {id(work.continuation) for work in step}
        self._give_back(next(c for c in reversed(self._running) if id(c) not in planned))

    def _give_back(self, continuation: Continuation) -> None:
        """A running sequence gives its blocks back and waits."""
        self._leave(continuation)
        self._queue([continuation])
        continuation.preemptions += 1
        self.statistics.preemptions += 1
