"""The block allocator and the sequence table: no block lost, shared or used twice, in any order of calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from infiniop.lm.batch import table_width
from infiniop.lm.cache import BlockAllocator, CacheFullError, SequenceTable

BLOCKS = 7


class AllocatorMachine(RuleBasedStateMachine):
    """Every reference is an entry of the bundle; a model of counts is kept beside the allocator."""

    references = Bundle("references")

    def __init__(self):
        super().__init__()
        self.allocator = BlockAllocator(BLOCKS)
        self.counts = dict.fromkeys(range(BLOCKS), 0)

    @rule(target=references, count=st.integers(0, BLOCKS + 2))
    def allocate(self, count):
        if count > self.allocator.free_blocks:
            with pytest.raises(CacheFullError, match=f"{count} blocks needed"):
                self.allocator.allocate_many(count)
            return multiple()
        taken = self.allocator.allocate_many(count)
        assert len(set(taken)) == count and all(self.counts[b] == 0 for b in taken)
        for block in taken:
            self.counts[block] = 1
        return multiple(*taken)

    @rule(target=references, block=references)
    def share(self, block):
        self.allocator.share(block)
        self.counts[block] += 1
        return block

    @rule(block=consumes(references))
    def free(self, block):
        self.allocator.free(block)
        self.counts[block] -= 1

    @precondition(lambda self: 0 in self.counts.values())
    @rule(data=st.data())
    def free_twice(self, data):
        block = data.draw(st.sampled_from([b for b, n in self.counts.items() if n == 0]))
        for call in (self.allocator.free, self.allocator.share):
            with pytest.raises(ValueError, match="free already"):
                call(block)

    @rule(block=st.sampled_from([-1, BLOCKS, BLOCKS + 5]))
    def foreign(self, block):
        with pytest.raises(ValueError, match="not one of"):
            self.allocator.free(block)

    @invariant()
    def adds_up(self):
        used = sum(n > 0 for n in self.counts.values())
        statistics = self.allocator.statistics()
        assert (statistics.used_blocks, statistics.free_blocks) == (used, BLOCKS - used)
        assert statistics.peak_used_blocks >= used and statistics.utilisation == used / BLOCKS
        assert all(self.allocator.reference_count(b) == n for b, n in self.counts.items())


class SequenceMachine(RuleBasedStateMachine):
    """Sequences grow and end; their slots never meet, and exhaustion changes nothing."""

    sequences = Bundle("sequences")

    def __init__(self):
        super().__init__()
        self.table = SequenceTable(BLOCKS, block_size=3)
        self.slots: dict[int, list[int]] = {}
        self.next_id = 0

    @rule(target=sequences)
    def add(self):
        self.next_id += 1
        self.table.add(self.next_id)
        self.slots[self.next_id] = []
        with pytest.raises(ValueError, match="exists already"):
            self.table.add(self.next_id)
        return self.next_id

    @rule(seq_id=sequences, count=st.integers(0, 10))
    def append(self, seq_id, count):
        before = self.table.length(seq_id), self.table.blocks(seq_id), self.table.allocator.free_blocks
        try:
            one = count == 1 and len(self.slots[seq_id]) % 2  # by either way
            self.slots[seq_id] += [self.table.append_one(seq_id)] if one else self.table.append(seq_id, count).tolist()
        except CacheFullError:
            missing = self.table.blocks_for(before[0] + count) - len(before[1])
            assert missing > before[2]
            assert before == (self.table.length(seq_id), self.table.blocks(seq_id), self.table.allocator.free_blocks)

    @rule(seq_id=consumes(sequences))
    def free(self, seq_id):
        self.table.free(seq_id)
        del self.slots[seq_id]
        for call in (self.table.length, self.table.free, self.table.blocks):
            with pytest.raises(KeyError, match=f"no sequence {seq_id}"):
                call(seq_id)

    @invariant()
    def slots_are_what_the_tables_say(self):
        every = [slot for slots in self.slots.values() for slot in slots]
        assert len(set(every)) == len(every)
        tables = self.table.block_tables(list(self.slots))
        for row, (seq_id, slots) in zip(tables, self.slots.items(), strict=True):
            assert self.table.length(seq_id) == self.table.kv_length(seq_id) == len(slots)
            assert slots == [int(row[t // 3]) * 3 + t % 3 for t in range(len(slots))]
        assert self.table.allocator.used_blocks == sum(-(-len(slots) // 3) for slots in self.slots.values())


AllocatorMachine.TestCase.settings = SequenceMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestAllocator = AllocatorMachine.TestCase
TestSequences = SequenceMachine.TestCase


def test_an_allocator_needs_a_block():
    with pytest.raises(ValueError, match="at least 1"):
        BlockAllocator(0)


def test_static_rows_end_at_their_block():
    table = SequenceTable(2, block_size=8, max_sequences=2, contiguous=True)
    table.add("a")
    table.append("a", 8)
    with pytest.raises(CacheFullError, match="would have 9 tokens, the cache holds 8"):
        table.append("a", 1)
    table.add("b")
    with pytest.raises(CacheFullError, match="takes 2 sequences"):
        table.add("c")
    table.clear()
    assert len(table) == 0 and table.allocator.used_blocks == 0


def test_room_is_checked_for_all_before_any_is_taken():
    table = SequenceTable(3, block_size=4)
    table.add(0)
    table.add(1)
    with pytest.raises(CacheFullError, match="need 4 blocks of 4, 3 of 3 are free"):
        table.check_room([0, 1], [8, 8])
    table.check_room([0, 1], [8, 4])


@pytest.mark.parametrize("block_size", [2, 3, 5, 12])
def test_a_window_keeps_the_last_tokens(block_size):
    table = SequenceTable(8, block_size, window=5)
    table.add(0)
    held: dict[int, int] = {}
    assert table.step_limit(0, 9) == 5
    for position, slot in enumerate(table.append(0, 5).tolist()):
        held[slot] = position
    for position in range(5, 17):
        assert table.step_limit(0, 9) == 1
        slot = table.append_one(0) if position % 3 else int(table.append(0, 1)[0])
        held[slot] = position
        assert sorted(held.values()) == list(range(position - 4, position + 1))
    assert (table.length(0), table.kv_length(0), len(table.blocks(0))) == (17, 5, -(-5 // block_size))


def test_short_tables_are_padded():
    table = SequenceTable(8, block_size=2)
    for seq_id, count in ((0, 1), (1, 5)):
        table.add(seq_id)
        table.append(seq_id, count)
    tables = table.block_tables([0, 1])
    assert tables.dtype == np.int32 and tables.shape == (2, 16)
    assert not tables[0, 1:].any() and not tables[1, 3:].any() and table.block_tables([]).shape == (0, 1)


def test_tables_have_few_widths():
    assert [table_width(n) for n in (0, 1, 2, 16, 17, 32, 33, 100)] == [0, 1, 16, 16, 32, 32, 64, 128]
