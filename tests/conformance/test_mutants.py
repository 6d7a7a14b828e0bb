"""The list of mutants fits the sources. What the kit makes of them, `mutate.py` finds out in `make full`."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant
from mutate import Misfit, planted, spoiled_units

from infiniop.operators import all_operators


def test_every_mutant_can_be_planted() -> None:
    for mutant in MUTANTS:
        assert mutant.old != mutant.new
        planted(mutant)
        assert spoiled_units(mutant)


def test_every_operator_has_one() -> None:
    assert {m.op for m in MUTANTS} <= set(all_operators())
    assert set(all_operators()) - {m.op for m in MUTANTS} == set()


def test_no_mutant_stands_twice() -> None:
    assert len({(m.op, m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)


def test_a_text_that_is_gone_is_an_error_of_the_list() -> None:
    with pytest.raises(Misfit, match=r"strided\.h: 'no such text' occurs 0 times"):
        planted(Mutant("add", "strided.h", "no such text", ""))
