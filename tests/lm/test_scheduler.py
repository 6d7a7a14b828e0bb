"""The scheduler without a model: a memory of what each slot holds stands in for keys and values."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infiniop.lm.cache import SequenceTable
from infiniop.lm.scheduler import FinishReason, QueueFullError, Request, Scheduler, State


def next_token(tokens, index) -> int:
    """What the model would say: it depends on all tokens, and on which continuation asks."""
    return (sum((i + 1) * t for i, t in enumerate(tokens)) + 7 * index) % 5


def continuation_of(request, index) -> tuple[list[int], FinishReason]:
    """What a request alone would generate."""
    generated: list[int] = []
    while len(generated) < request.max_new_tokens:
        generated.append(next_token([*request.prompt, *generated], index))
        if generated[-1] in request.stop_ids:
            return generated, FinishReason.STOP
    return generated, FinishReason.LENGTH


class Memory:
    """Runs steps: every slot holds the tokens up to the one whose key it stands for."""

    def __init__(self, table: SequenceTable):
        self.table, self.slots = table, {}

    def run(self, step) -> list[int]:
        size, drawn = self.table.block_size, []
        for source, target in self.table.take_copies():
            for row in range(size):
                self.slots[target * size + row] = self.slots.get(source * size + row)
        for work in step:
            tokens, end = work.continuation.tokens, self.table.length(work.continuation.seq_id)
            start = end - len(work.tokens)
            assert work.tokens == tokens[start:end] and len(work.slots) == len(work.tokens) > 0
            for position, slot in zip(range(start, end), work.slots.tolist(), strict=True):
                self.slots[slot] = tuple(tokens[: position + 1])
        for work in step:
            tokens, end = work.continuation.tokens, self.table.length(work.continuation.seq_id)
            blocks = self.table.blocks(work.continuation.seq_id)
            for position in range(max(0, end - (self.table.window or end)), end):
                row = position % self.table.window if self.table.window else position
                held = self.slots[blocks[row // size] * size + row % size]
                assert held == tuple(tokens[: position + 1]), f"position {position} holds {held}"
            assert work.samples == (end == len(tokens))
            if work.samples:
                drawn.append(next_token(tokens, work.continuation.index))
        return drawn


def finish_all(scheduler, memory) -> None:
    idle = 0
    while scheduler:
        step = scheduler.schedule()
        idle = 0 if step else idle + 1
        assert idle < 2, "no progress"
        list(scheduler.advance(step, memory.run(step)))


class SchedulerMachine(RuleBasedStateMachine):
    @property
    def table(self):
        return self.scheduler.table

    def __init__(self):
        super().__init__()
        self.made, self.ended, self.clock = [], set(), 0.0
        self.scheduler = None

    @precondition(lambda self: self.scheduler is None)
    @rule(
        blocks=st.integers(3, 12), size=st.integers(1, 4), most=st.none() | st.integers(1, 4),
        running=st.integers(1, 6), budget=st.integers(6, 20), caching=st.booleans(),
        window=st.none() | st.integers(2, 9),
    )  # fmt: skip
    def begin(self, blocks, size, most, running, budget, caching, window):
        table = SequenceTable(blocks, size, max_sequences=most, window=window)
        self.scheduler = Scheduler(table, budget, running, max_waiting=8, prefix_caching=caching)
        self.memory = Memory(table)

    @precondition(lambda self: self.scheduler is not None)
    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=14), new=st.integers(1, 8), n=st.integers(1, 3),
        stop=st.frozensets(st.integers(0, 4), max_size=1), wait=st.none() | st.integers(1, 9),
    )  # fmt: skip
    def add(self, prompt, new, n, stop, wait):
        deadline = float("inf") if wait is None else self.clock + wait
        request = Request(len(self.made), tuple(prompt), new, n, stop, deadline)
        try:
            continuations = self.scheduler.add(request)
        except ValueError:
            assert self.table.blocks_for(len(prompt) + new - 1) > self.table.allocator.num_blocks
        except QueueFullError:
            assert self.scheduler.waiting >= 8
        else:
            self.made.append(continuations)

    @precondition(lambda self: self.scheduler is not None)
    @rule(count=st.integers(1, 4))
    def step(self, count):
        for _ in range(count):
            self.clock += 1
            planned = self.scheduler.schedule(self.clock)
            assert sum(len(work.tokens) for work in planned) <= self.scheduler.max_step_tokens
            assert len({id(work.continuation) for work in planned}) == len(planned) <= self.scheduler.max_running
            tokens = self.memory.run(planned)
            for work, token in self.scheduler.advance(planned, tokens):
                assert work.continuation.generated[-1] == token

    @precondition(lambda self: self.scheduler is not None and self.made)
    @rule(data=st.data(), between=st.booleans())
    def cancel(self, data, between):
        request = data.draw(st.sampled_from(self.made))[0].request
        planned = self.scheduler.schedule(self.clock) if between else []
        tokens = self.memory.run(planned)
        self.scheduler.cancel(request.request_id)
        list(self.scheduler.advance(planned, tokens))
        self.ended.add(request.request_id)

    @precondition(lambda self: self.scheduler is not None and self.made)
    @rule(runs_first=st.booleans())
    def fail(self, runs_first):
        planned = self.scheduler.schedule(self.clock)
        if runs_first:
            self.memory.run(planned)
        self.scheduler.withdraw(planned)

    @precondition(lambda self: self.scheduler is not None and self.made)
    @rule(data=st.data())
    def stop_one(self, data):
        continuation = data.draw(st.sampled_from(data.draw(st.sampled_from(self.made))))
        self.scheduler.finish(continuation, FinishReason.STOP)
        self.ended.add(continuation.request.request_id)

    @invariant()
    def every_block_is_held_by_those_who_count(self):
        if self.scheduler is None:
            return
        allocator = self.table.allocator
        alive = [c for made in self.made for c in made if c.seq_id in self.table]
        assert len(alive) == len(self.table) and all(c.state is State.RUNNING for c in alive)
        held = Counter(block for c in alive for block in self.table.blocks(c.seq_id))
        assert [held[b] for b in range(allocator.num_blocks)] == [
            allocator.reference_count(b) for b in range(allocator.num_blocks)
        ]
        assert allocator.used_blocks == len(held)

    def teardown(self):
        if self.scheduler is None:
            return
        finish_all(self.scheduler, self.memory)
        assert self.table.allocator.used_blocks == 0 and len(self.table) == 0
        for continuation in (c for made in self.made for c in made):
            expected, reason = continuation_of(continuation.request, continuation.index)
            if continuation.finish_reason in (FinishReason.CANCELLED, FinishReason.DEADLINE) or (
                continuation.request.request_id in self.ended
            ):
                assert continuation.generated == expected[: len(continuation.generated)]
            else:
                assert (continuation.generated, continuation.finish_reason) == (expected, reason)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def scheduler_of(blocks=8, size=4, **options) -> tuple[Scheduler, Memory]:
    table = SequenceTable(blocks, size)
    return Scheduler(table, **options), Memory(table)


def test_a_full_prefix_hit_still_computes_the_last_token():
    scheduler, memory = scheduler_of()
    for name in "ab":
        (continuation,) = scheduler.add(Request(name, (1, 2, 3, 4, 5, 6, 7, 8), 2))
        first = scheduler.schedule()
        assert len(first[0].tokens) == (8 if name == "a" else 4)
        list(scheduler.advance(first, memory.run(first)))
        finish_all(scheduler, memory)
        assert continuation.generated == continuation_of(continuation.request, 0)[0]
    assert (scheduler.statistics.prompt_tokens, scheduler.statistics.prefix_tokens) == (16, 4)


def test_continuations_share_the_prompt():
    scheduler, memory = scheduler_of(blocks=8, size=4, max_step_tokens=64)
    made = scheduler.add(Request("x", tuple(range(10)), 4, n=4))
    computed = 0
    while not all(c.state is State.RUNNING for c in made):
        step = scheduler.schedule()
        computed += sum(len(work.tokens) for work in step)
        list(scheduler.advance(step, memory.run(step)))
    assert computed == 9 + 4  # the last token of the prompt once per continuation
    assert scheduler.table.allocator.used_blocks == 2 + 4  # two full blocks together, one that is written for each
    finish_all(scheduler, memory)
    assert [c.generated for c in made] == [continuation_of(c.request, c.index)[0] for c in made]


def test_exhaustion_preempts_the_one_that_came_last():
    scheduler, memory = scheduler_of(blocks=4, size=2, max_running=4)
    made = [scheduler.add(Request(name, (1, 2, name), 5))[0] for name in range(2)]
    finish_all(scheduler, memory)
    assert made[0].preemptions == 0 and made[1].preemptions > 0
    assert [c.generated for c in made] == [continuation_of(c.request, 0)[0] for c in made]


def test_prompts_are_chunked_beside_decoding():
    scheduler, memory = scheduler_of(blocks=32, size=4, max_step_tokens=8, max_running=8)
    scheduler.add(Request("short", (1,), 20))
    list(scheduler.advance(step := scheduler.schedule(), memory.run(step)))
    scheduler.add(Request("long", tuple(range(30)), 2))
    sizes = []
    while scheduler.running + scheduler.waiting == 2:
        step = scheduler.schedule()
        sizes.append([len(work.tokens) for work in step])
        list(scheduler.advance(step, memory.run(step)))
    assert sizes[:5] == [[1, 7], [1, 7], [1, 7], [1, 7], [1, 2]]


@pytest.mark.parametrize("options", [{"max_running": 0}, {"max_running": 9, "max_step_tokens": 8}])
def test_impossible_limits(options):
    with pytest.raises(ValueError, match="max_running must be between 1 and max_step_tokens"):
        scheduler_of(**options)


@pytest.mark.parametrize("values", [((), 1, 1), ((1,), 0, 1), ((1,), 1, 0)])
def test_impossible_requests(values):
    with pytest.raises(ValueError, match=r"the prompt is empty|must be at least 1"):
        Request("x", *values)


def test_requests_that_cannot_be_served():
    scheduler, _ = scheduler_of(blocks=4, size=2, max_waiting=1)
    with pytest.raises(ValueError, match="need 5 cache blocks"):
        scheduler.add(Request("x", (1, 2, 3, 4), 6))
    scheduler.add(Request("x", (1, 2, 3, 4), 5))
    with pytest.raises(ValueError, match="exists already"):
        scheduler.add(Request("x", (1,), 1))
    with pytest.raises(QueueFullError):
        scheduler.add(Request("y", (1,), 1))
