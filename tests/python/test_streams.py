"""Streams, events, captured graphs."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import infiniop
from infiniop import errors, ops


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


def test_a_failure_while_capturing_ends_the_capture() -> None:
    a = infiniop.zeros(4)
    with pytest.raises(RuntimeError, match="enough"), infiniop.capture():
        raise RuntimeError("enough")
    assert ops.add(a, a, out=infiniop.asarray(np.ones(4, np.float32))).tolist() == [0, 0, 0, 0]
    with pytest.raises(errors.BadParamError, match="being captured"), infiniop.capture() as graph:
        graph.launch()


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
    assert shot.total_bytes == total or shot.total_bytes is None or shot.total_bytes > 0
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
