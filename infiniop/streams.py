"""Streams, events and captured graphs."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ._library import ffi, lib
from .device import Device, DeviceLike
from .errors import BadParamError, check
from .memory import NULL, Storage, address_of, current, enter, leave

StreamLike = Any  # Stream, torch.cuda.Stream, a native handle as an int, None (the current stream)


class Lane:
    """One device as one thread sees it: the stream that its work goes to, and its scratch memory."""

    __slots__ = ("device", "graph", "handle", "outer", "plain", "reserved", "scratch", "stream", "workspaces")

    def __init__(self, device: Device):
        self.device = device
        self.stream: Stream | None = None
        self.outer: list[Stream | None] = []  # current before, where `with stream:` nests
        self.handle = NULL
        self.graph: Graph | None = None
        self.scratch = NULL  # of the current stream; grows
        self.reserved = 0  # bytes of it that plain calls count on
        self.plain = device.is_cpu  # a call needs nothing beside handle and scratch
        self.workspaces: dict[int, list[Storage]] = {}  # by stream; the last is in use

    def use(self, stream: Stream | None) -> None:
        self.stream = stream
        self.handle = NULL if stream is None else stream.handle

    def record(self, graph: Graph | None) -> None:
        self.graph = graph
        self.plain = self.device.is_cpu and graph is None

    def workspace(self, handle: Any, size: int) -> Any:
        """Scratch memory for one call on the stream."""
        if size == 0:
            return NULL
        if self.graph is not None and handle == self.handle:
            return self.graph.workspace(self.device, size)
        return self._grown(0 if self.device.is_cpu else address_of(handle), handle, size)

    def keep(self, handle: Any, *objects: Any) -> None:
        """What work on the stream uses stays until that is done; in a capture, as long as the graph."""
        if self.graph is not None:
            self.graph.keep(*objects)
        elif not self.device.is_cpu:
            for one in objects:
                used_on = getattr(getattr(one, "_owner", one), "used_on", None)
                if used_on is not None:
                    used_on(handle)

    def reserve(self, size: int) -> None:
        """Plain calls find this much scratch memory, also when it is a capture or a nested call that says so."""
        self.reserved = max(self.reserved, size)
        if self.device.is_cpu and self.reserved:
            self._grown(0, NULL, self.reserved)

    def _grown(self, key: int, handle: Any, size: int) -> Any:
        known = self.workspaces.setdefault(key, [])
        if not known or known[-1].nbytes < size:
            if self.device.is_cpu:  # elsewhere a graph that another library (torch) captured may use what is outgrown;
                known.clear()  # as each is at least twice the one before, all of them are smaller than the last
            known.append(Storage(self.device, 1 << (size - 1).bit_length(), handle))
        if self.device.is_cpu:
            self.scratch = known[-1].ptr
        return known[-1].ptr


class _Lanes(threading.local):
    def __init__(self) -> None:
        self.by_device: dict[Device, Lane] = {}


_lanes = _Lanes()


def lane_of(device: Device) -> Lane:
    """The calling thread's lane."""
    lane = _lanes.by_device.get(device)
    if lane is None:
        lane = _lanes.by_device[device] = Lane(device)
    return lane


@contextlib.contextmanager
def nested() -> Iterator[None]:
    """Calls made inside a Python kernel must not use the scratch memory of the call that runs it."""
    saved = [(lane, lane.scratch, lane.workspaces, lane.plain) for lane in _lanes.by_device.values()]
    for lane, *_ in saved:
        lane.scratch, lane.workspaces, lane.plain = NULL, {}, False
    try:
        yield
    finally:
        for lane, scratch, workspaces, plain in saved:
            lane.scratch, lane.workspaces, lane.plain = scratch, workspaces, plain
            lane.reserve(0)


def _destroy(stream: Any, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    if not finalizing():  # a device written in Python is gone by then
        lib.infinirtStreamDestroy(stream)


class Stream:
    """A queue of work on a device. `with stream:` makes it the thread's current stream of that device.

    The native stream lives as long as its handle: memory that was allocated or used on it refers to that, and is freed
    in its order.
    """

    def __init__(self, device: DeviceLike = None):
        self.device = Device(device)
        self.handle = NULL
        room = ffi.new("infinirtStream_t *")
        with current(self.device):
            check(lib.infinirtStreamCreate(room))
        self.handle = ffi.gc(room[0], _destroy)

    def synchronize(self) -> None:
        """Wait until the work given so far is done."""
        with current(self.device):
            check(lib.infinirtStreamSynchronize(self.handle))

    def wait(self, event: Event) -> None:
        """Work given from now on waits for the event."""
        with current(self.device):
            check(lib.infinirtStreamWaitEvent(self.handle, event.handle))
        _kept_by_graph(self.device, event)

    def __enter__(self) -> Stream:
        lane = lane_of(self.device)
        lane.outer.append(lane.stream)
        lane.use(self)
        return self

    def __exit__(self, *_: object) -> None:
        lane = lane_of(self.device)
        lane.use(lane.outer.pop())

    def __del__(self) -> None:
        if getattr(self, "handle", NULL) != NULL and not sys.is_finalizing():
            lane_of(self.device).workspaces.pop(address_of(self.handle), None)

    def __repr__(self) -> str:
        return f"infiniop.Stream({str(self.device)!r})"


def _kept_by_graph(device: Device, event: Event) -> None:
    """An event lives as long as a graph that is being captured, and may name it."""
    graph = lane_of(device).graph
    if graph is not None:
        graph.keep(event)


class Event:
    """A point in a stream."""

    def __init__(self, device: DeviceLike = None):
        self.device = Device(device)
        self.handle = NULL
        room = ffi.new("infinirtEvent_t *")
        with current(self.device):
            check(lib.infinirtEventCreate(room))
        self.handle = room[0]

    def record(self, stream: StreamLike = None) -> Event:
        with current(self.device):
            check(lib.infinirtEventRecord(self.handle, handle_of(stream, self.device)))
        _kept_by_graph(self.device, self)
        return self

    def synchronize(self) -> None:
        check(lib.infinirtEventSynchronize(self.handle))

    def done(self) -> bool:
        status = ffi.new("infinirtEventStatus_t *")
        check(lib.infinirtEventQuery(self.handle, status))
        return bool(status[0] == lib.INFINIRT_EVENT_COMPLETE)

    def elapsed_ms(self, end: Event) -> float:
        """Milliseconds from this event to `end`."""
        room = ffi.new("float *")
        check(lib.infinirtEventElapsedTime(room, self.handle, end.handle))
        return float(room[0])

    def __del__(self) -> None:
        if getattr(self, "handle", NULL) != NULL:
            with contextlib.suppress(Exception), current(self.device):
                lib.infinirtEventDestroy(self.handle)


def current_stream(device: DeviceLike = None) -> Stream | None:
    """The calling thread's current stream; None is the device's default stream."""
    return lane_of(Device(device)).stream


def handle_of(stream: StreamLike, device: Device) -> Any:
    """The native handle that `stream` means on a device."""
    if stream is None:
        return lane_of(device).handle
    if isinstance(stream, Stream):
        if stream.device is not device:
            raise BadParamError(argument="stream", expected=f"a stream of {device}", got=f"one of {stream.device}")
        return stream.handle
    native = getattr(stream, "cuda_stream", stream)
    if isinstance(native, int) and not isinstance(native, bool):
        return ffi.cast("void *", native)
    raise TypeError(f"not a stream: {stream!r} (a Stream, a native handle, or None)")


def synchronize(device: DeviceLike = None) -> None:
    """Wait for all work on a device."""
    with current(Device(device)):
        check(lib.infinirtDeviceSynchronize())


class Graph:
    """Recorded work. `launch` runs all of it again; only memory contents may change in between."""

    def __init__(self, device: Device):
        self.device = device
        self._graph = self._exec = NULL
        self._kept: list[object] = []
        self._workspace: Storage | None = None

    def keep(self, *objects: object) -> None:
        """Memory that the graph uses lives as long as the graph."""
        self._kept.extend(objects)

    def workspace(self, device: Device, size: int) -> Any:
        if self._workspace is None or self._workspace.nbytes < size:
            self._workspace = Storage(device, size)
            self.keep(self._workspace)
        return self._workspace.ptr

    def launch(self, stream: StreamLike = None) -> None:
        if self._exec == NULL:
            raise BadParamError("the graph is still being captured")
        handle, previous = handle_of(stream, self.device), enter(self.device)
        status = lib.infinirtGraphLaunch(self._exec, handle)
        leave(previous)
        check(status, "graph launch")

    def _finish(self, graph: Any) -> None:
        self._graph = graph
        if self._workspace is not None:  # allocated in the order of the default stream; launches may be on others
            check(lib.infinirtStreamSynchronize(NULL))
        room = ffi.new("infinirtGraphExec_t *")
        check(lib.infinirtGraphInstantiate(room, graph, NULL, NULL, 0), "graph instantiate")
        self._exec = room[0]

    def __del__(self) -> None:
        with contextlib.suppress(Exception), current(self.device):
            if self._exec != NULL:
                lib.infinirtGraphExecDestroy(self._exec)
            if self._graph != NULL:
                lib.infinirtGraphDestroy(self._graph)


class _NothingCollected:
    """What the garbage collector destroys (streams, graphs, memory) must not go while a device records."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0  # captures, of all threads
        self._collects = False  # before the first of them

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._collects = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._collects:
                gc.enable()


_nothing_collected = _NothingCollected()


@contextlib.contextmanager
def capture(stream: Stream | None = None, *, device: DeviceLike = None) -> Iterator[Graph]:
    """Record the operator calls and copies made inside on the stream, without running them."""
    stream = Stream(device) if stream is None else stream
    lane = lane_of(stream.device)
    graph = Graph(stream.device)
    graph.keep(stream)
    outer = lane.graph  # of a capture around this one, on another stream
    room = ffi.new("infinirtGraph_t *")
    with stream, current(stream.device), _nothing_collected:
        check(lib.infinirtStreamBeginCapture(stream.handle, lib.INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL), "capture")
        lane.record(graph)
        try:
            yield graph
        except BaseException:
            lane.record(outer)
            if lib.infinirtStreamEndCapture(stream.handle, room) == 0 and room[0] != NULL:
                lib.infinirtGraphDestroy(room[0])
            raise
        lane.record(outer)
        check(lib.infinirtStreamEndCapture(stream.handle, room), "capture")
        graph._finish(room[0])
