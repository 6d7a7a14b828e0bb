"""The reference backend: complete, selectable, never chosen silently."""

from __future__ import annotations

import numpy as np

import infiniop
from infiniop import ops
from infiniop.operators import all_operators


def test_it_has_every_operator() -> None:
    row = next(b for b in infiniop.backends() if b.name == "reference")
    assert row.explicit_only and not row.error and row.device == "cpu"
    assert [name for name in all_operators() if not row.has(name)] == []


def test_it_is_chosen_only_by_name() -> None:
    a = np.ones((2, 2), np.float32)
    with infiniop.descriptor("add", c=a.copy(), a=a, b=a) as d:
        assert d.backend == "cpu"
    with infiniop.descriptor("add", c=a.copy(), a=a, b=a, backend="reference") as d:
        assert d.backend == "reference"
    assert np.array_equal(ops.add(a, a, backend="reference"), a + a)
