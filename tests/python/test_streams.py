"""Streams, events, captured graphs."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import infiniop
from infiniop import errors, ops
from infiniop._library import lib
from infiniop.errors import check


def test_a_captured_graph_runs_when_launched() -> None:
    a, b, c = (infiniop.zeros((4, 4)) for _ in range(3))
    with infiniop.capture() as graph:
        ops.add(a, b, out=c)
        ops.mul(c, c, out=c)
    assert not c.numpy().any(), "capture records and does not run"
    a.copy_(np.full((4, 4), 2, np.float32))
    b.copy_(np.full((4, 4), 1, np.float32))
    graph.launch()
    assert (c.numpy() == 9).all()
    a.copy_(np.full((4, 4), 3, np.float32))
    graph.launch()
    assert (c.numpy() == 16).all()


def test_a_graph_keeps_descriptors_workspaces_and_memory() -> None:
    q = infiniop.asarray(np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32))
    k_cache, v_cache = infiniop.zeros((2, 8, 16)), infiniop.zeros((2, 8, 16))
    expected = ops.attention(q, q, q, k_cache, v_cache, pos=0)[0].numpy().copy()
    with infiniop.capture() as graph:
        out = ops.attention(q, q, q, k_cache, v_cache, pos=0)[0]
    view = out.numpy()
    view[:] = 0
    del q, k_cache, v_cache, out
    gc.collect()
    for n in range(1, 400):  # other calls must not take what the graph uses
        ops.add(infiniop.zeros(n), infiniop.zeros(n))
    graph.launch()
    assert np.array_equal(view, expected)


def test_a_plan_made_in_a_capture_serves_calls_after_it() -> None:
    q = infiniop.asarray(np.random.default_rng(0).standard_normal((2, 7, 16)).astype(np.float32))
    caches = infiniop.zeros((2, 8, 16)), infiniop.zeros((2, 8, 16))
    with infiniop.capture() as graph:
        recorded = ops.attention(q, q, q, *caches, pos=0)[0]
    graph.launch()
    assert np.array_equal(ops.attention(q, q, q, *caches, pos=0)[0].numpy(), recorded.numpy())


def test_copies_are_recorded() -> None:
    source, target = infiniop.zeros(4), infiniop.zeros(4)
    with infiniop.capture() as graph:
        target.copy_(source)
    source.copy_(np.arange(4, dtype=np.float32))
    assert not target.numpy().any()
    graph.launch()
    assert target.tolist() == [0, 1, 2, 3]


def test_nothing_is_collected_while_capturing() -> None:
    """What goes in a collection may be a stream or a graph, which a recording device does not let go."""
    assert gc.isenabled()
    with infiniop.capture():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_threads_share_streams_and_capture_at_once() -> None:
    """One thread's `with` is over before the other's, in the order in which they began."""
    shared, outer, steps = infiniop.Stream(), infiniop.Stream(), threading.Barrier(2, timeout=10)

    def first() -> None:
        with shared, infiniop.capture():
            steps.wait()  # the other begins
            steps.wait()
        assert infiniop.current_stream() is None
        assert not gc.isenabled(), "the other still captures"
        steps.wait()

    def second() -> None:
        steps.wait()
        with outer:
            with shared, infiniop.capture():
                steps.wait()
                steps.wait()
            assert infiniop.current_stream() is outer
        assert infiniop.current_stream() is None

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result(20)
    assert gc.isenabled()


def test_a_failure_while_capturing_ends_the_capture() -> None:
    a = infiniop.zeros(4)
    with pytest.raises(RuntimeError, match="enough"), infiniop.capture():
        raise RuntimeError("enough")
    assert ops.add(a, a, out=infiniop.asarray(np.ones(4, np.float32))).tolist() == [0, 0, 0, 0]
    with pytest.raises(errors.BadParamError, match="being captured"), infiniop.capture() as graph:
        graph.launch()


def test_captures_nest() -> None:
    a = infiniop.asarray(np.full(4, 3, np.float32))
    with infiniop.capture() as outer:
        with infiniop.capture() as inner:
            ops.add(a, a, out=a)
        with pytest.raises(RuntimeError), infiniop.capture():
            raise RuntimeError("enough")
        result = ops.add(ops.mul(a, a), a)
    inner.launch()
    others = [infiniop.zeros(4) for _ in range(100)]
    outer.launch()
    assert result.tolist() == [42] * 4 and not any(other.numpy().any() for other in others)


def test_a_graph_keeps_the_events_that_it_records() -> None:
    with infiniop.capture() as graph:
        event = infiniop.Event().record()
        infiniop.current_stream().wait(event)
    address = event.handle
    del event
    gc.collect()
    graph.launch()
    check(lib.infinirtEventDestroy(address))  # behind the graph's back
    with pytest.raises(errors.BadParamError, match="nobody destroyed"):
        graph.launch()


def test_memory_lives_until_the_stream_that_uses_it_has_passed() -> None:
    done: list[tuple[str, int]] = []

    class Runtime(infiniop.PythonRuntime):
        def stream_synchronize(self, device_id: int, stream: int) -> None:
            done.append(("synchronize", stream))

        def free(self, device_id: int, address: int) -> None:
            done.append(("free", address))
            super().free(device_id, address)

    kernels = {"add": lambda c, a, b: None}
    infiniop.PythonBackend("brook", device="brook", runtime=Runtime(), kernels=kernels).register()
    stream = infiniop.Stream("brook")
    number = int(infiniop._library.ffi.cast("uintptr_t", stream.handle))

    def freed_after(use) -> None:
        tensor, other = (infiniop.empty((4,), device="brook") for _ in range(2))
        use(tensor, other)
        address = tensor.data_ptr
        done.clear()
        del tensor
        gc.collect()
        assert ("synchronize", number) in done[: done.index(("free", address))]

    def copies(tensor, other) -> None:
        with stream:
            other.copy_(tensor)

    freed_after(lambda tensor, other: ops.add(tensor, tensor, out=other, stream=stream))
    freed_after(lambda tensor, other: infiniop.descriptor("add", a=tensor, b=tensor, c=other).calculate(stream=stream))
    freed_after(copies)


def test_streams_nest_and_are_given() -> None:
    a = infiniop.asarray(np.ones(4, np.float32))
    first, second = infiniop.Stream(), infiniop.Stream("cpu")
    assert infiniop.current_stream() is None
    with first:
        with second:
            assert infiniop.current_stream() is second
            assert ops.add(a, a).tolist() == [2] * 4
        assert infiniop.current_stream() is first
    assert infiniop.current_stream() is None
    assert ops.add(a, a, stream=first).tolist() == [2] * 4
    first.synchronize()
    infiniop.synchronize()
    with pytest.raises(TypeError):
        ops.add(a, a, stream="fast")


def test_events_measure() -> None:
    stream = infiniop.Stream()
    start, end = infiniop.Event().record(stream), infiniop.Event()
    ops.add(infiniop.zeros(1000), infiniop.zeros(1000), stream=stream)
    end.record(stream)
    end.synchronize()
    assert end.done() and 0 <= start.elapsed_ms(end) < 60_000


def test_runtime_queries() -> None:
    from infiniop import runtime

    assert runtime.device_count() == 1 and runtime.device_count("kunlun") == 0
    free, total = runtime.memory_info()
    assert 0 < free <= total
    shot = runtime.snapshot()
    assert shot.total_bytes == total and shot.used_bytes == total - shot.free_bytes
    assert runtime.plugin_abi()[0] == 1 and runtime.version()


def test_a_stream_lives_as_long_as_memory_in_its_order() -> None:
    """Freeing asks the stream for its order, also when nobody else refers to it any more."""
    done: list[tuple[str, int]] = []

    class Runtime(infiniop.PythonRuntime):
        def stream_synchronize(self, device_id: int, stream: int) -> None:
            done.append(("synchronize", stream))

        def stream_destroy(self, stream: int) -> None:
            done.append(("destroy", stream))

    infiniop.PythonBackend("creek", device="creek", runtime=Runtime(), kernels={}).register()
    stream = infiniop.Stream("creek")
    with stream:
        tensor = infiniop.empty((4,), dtype=infiniop.float32, device="creek")
    del stream
    assert done == []
    del tensor
    assert done == [("synchronize", 1), ("destroy", 1)]
