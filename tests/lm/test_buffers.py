"""Buffers: the same memory from step to step, grown when a larger one is asked for."""

from __future__ import annotations

import numpy as np

from infiniop.lm.arrays import infini_to_numpy
from infiniop.lm.buffers import _MOST_VIEWS, Buffers
from infiniop.schema import F32


def test_a_repeated_request_gets_the_very_same_tensor():
    buffers = Buffers("cpu")
    first = buffers.get("x", (4, 8), F32)
    assert buffers.get("x", (4, 8), F32) is first
    smaller = buffers.get("x", (2, 8), F32)
    assert smaller.shape == (2, 8) and smaller.data_ptr == first.data_ptr
    assert buffers.get("y", (4, 8), F32).data_ptr != first.data_ptr


def test_a_larger_request_moves_every_view_of_the_name():
    buffers = Buffers("cpu")
    small = buffers.put("x", np.ones(4, np.float32))
    large = buffers.put("x", np.arange(64, dtype=np.float32))
    again = buffers.put("x", np.full(4, 2, np.float32))
    assert again is not small and again.data_ptr == large.data_ptr
    assert infini_to_numpy(again).tolist() == [2] * 4 and infini_to_numpy(large)[4:].tolist() == list(range(4, 64))


def test_put_overwrites_what_was_there():
    buffers = Buffers("cpu")
    for value in (3, 5, 7):
        tensor = buffers.put("ids", np.array([value, -value], np.int32))
        assert tensor is buffers.get("ids", (2,), tensor.dtype) and infini_to_numpy(tensor).tolist() == [value, -value]


def test_views_do_not_pile_up():
    buffers = Buffers("cpu")
    for length in range(_MOST_VIEWS * 2):
        buffers.put("x", np.zeros(length % (_MOST_VIEWS + 50), np.int32))
    assert len(buffers._views) <= _MOST_VIEWS and len(buffers._aliases) <= len(buffers._views)
