"""Collectives between threads of this process, and with one that goes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import ml_dtypes
import numpy as np
import pytest

import infiniop
from infiniop.lm import CommunicationGroup
from infiniop.lm.groups import RankError

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")


def on_ranks(size, work) -> list:
    """`work(group)` of every rank, each in a thread."""
    store = dist.HashStore()
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: work(CommunicationGroup(store, "test", rank, size)), range(size)))


KINDS = {
    "numpy": lambda a: a,
    "tensor": lambda a: infiniop.from_numpy(a),
    "torch": lambda a: torch.from_dlpack(infiniop.from_numpy(a)),
    "strided": lambda a: infiniop.from_numpy(np.repeat(a, 2, -1))[..., ::2] if a.ndim else infiniop.from_numpy(a),
}


def values(array) -> np.ndarray:
    return np.asarray(infiniop.asarray(array).numpy()).astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64])
def test_collectives(kind, dtype):
    def work(group):
        own = np.arange(6).reshape(2, 3).astype(dtype) + dtype(10 * group.rank)
        found = {}
        for name in ("all_reduce", "broadcast", "pass"):
            array = KINDS[kind](own.copy())
            if name == "all_reduce":
                group.all_reduce(array)
            elif name == "broadcast":
                group.broadcast(array, 1)
            elif group.rank == 0:
                group.send(array, 2)
            elif group.rank == 2:
                group.recv(array, 0)
            found[name] = values(array)
        found["all_gather"] = [p.astype(np.float64) for p in group.all_gather(KINDS[kind](own.copy()))]
        found["object"] = group.broadcast_object({"from": group.rank}, 2)
        return found

    base = np.arange(6.0).reshape(2, 3)
    for rank, found in enumerate(on_ranks(3, work)):
        np.testing.assert_array_equal(found["all_reduce"], 3 * base + 30)
        np.testing.assert_array_equal(found["broadcast"], base + 10)
        np.testing.assert_array_equal(found["pass"], base if rank in (0, 2) else base + 10 * rank)
        np.testing.assert_array_equal(found["all_gather"], [base, base + 10, base + 20])
        assert found["object"] == {"from": 2}


def test_a_member_that_goes_is_noticed():
    def work(group):
        group.all_reduce(np.ones(1, np.float32))  # both are there
        if group.rank == 1:
            del group._group  # closes its connections, as the end of its process would
            return None
        with pytest.raises(RankError, match="a collective failed"):
            group.all_reduce(np.ones(4, np.float32))
        return True

    assert on_ranks(2, work) == [True, None]


def test_a_member_that_never_comes_is_an_error_in_time(monkeypatch):
    monkeypatch.setattr("infiniop.lm.groups._MEETING", timedelta(seconds=1))
    with pytest.raises(RankError, match="did not meet"):
        CommunicationGroup(dist.HashStore(), "alone", 0, 2)


def test_members_that_met_wait_as_long_as_it_takes(monkeypatch):
    monkeypatch.setattr("infiniop.lm.groups._MEETING", timedelta(seconds=1))

    def late(group):
        if group.rank == 1:
            time.sleep(2)
        group.all_reduce(array := np.ones(3, np.float32))
        return array

    assert all((array == 2).all() for array in on_ranks(2, late))


def test_nccl_gets_tensors_of_the_device(monkeypatch):
    """No GPU is asked for: what would be lent to torch is looked at."""
    lent = []

    def lend(tensor, on_device=False):
        lent.append((tensor, on_device))
        return torch.from_dlpack(infiniop.from_numpy(np.ones(2, np.float32)))

    class Group:
        def __getattr__(self, name):
            return lambda *_: self

    monkeypatch.setattr("infiniop.lm.groups._as_torch", lend)
    group = object.__new__(CommunicationGroup)
    group.rank, group.size, group._nccl, group._group = 0, 1, True, Group()
    for call in (group.all_reduce, group.all_gather, group.broadcast):
        call("x")
    assert lent == [("x", True)] * 3
