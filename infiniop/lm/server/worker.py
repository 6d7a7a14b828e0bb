"""`Worker`: the thread that runs the engine, and `Ticket`: what an event loop holds of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future

from ..requests import Event, RequestParams
from ..serving import ServingEngine
from .metrics import Metrics

logger = logging.getLogger(__name__)


class EngineFailure(RuntimeError):
    """The engine has stopped, for a reason that is none of the request's."""


class Ticket:
    """One client's requests and their events. Whoever is done with it closes it: what still runs is cancelled."""

    def __init__(self, worker: Worker):
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | EngineFailure] = asyncio.Queue()
        self._open: dict[str, int] = {}  # request → continuations that have not ended
        self.began = time.perf_counter()
        self.last: dict[tuple[str, int], float] = {}  # request and continuation → its last token

    async def submit(self, request_id: str, prompt: Sequence[int], params: RequestParams) -> None:
        """Hands a request over. Raises what `ServingEngine.add` raises, and `EngineFailure`."""
        added = self._worker.call(lambda: self._worker.add(self, request_id, prompt, params))
        self._open[request_id] = params.n
        try:
            await asyncio.wrap_future(added)
        except Exception:
            del self._open[request_id]
            raise

    async def events(self) -> AsyncIterator[Event]:
        """Until all has ended."""
        while self._open:
            event = await self._events.get()
            if isinstance(event, EngineFailure):
                raise event
            if event.finish_reason is not None:
                self._open[event.request_id] -= 1
                if not self._open[event.request_id]:
                    del self._open[event.request_id]
            yield event

    def close(self) -> None:
        for request_id in self._open:
            self._worker.cancel(request_id)
        self._open.clear()

    def put(self, event: Event | EngineFailure) -> None:
        """From the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Worker:
    """Owns an engine: everything that touches it runs in this thread, between two steps."""

    def __init__(self, engine: ServingEngine, metrics: Metrics):
        self.engine, self.metrics = engine, metrics
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[str, Ticket] = {}
        self._failure: EngineFailure | None = None
        self._thread = threading.Thread(target=self._main, name="infiniop-engine", daemon=True)

    def start(self) -> None:
        self.metrics.observe(self.engine)
        self._thread.start()

    async def stop(self) -> None:
        """Finishes what runs, then ends the thread."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def healthy(self) -> bool:
        return self._failure is None and self._thread.is_alive()

    def call(self, function: Callable[[], None]) -> Future[None]:
        """Runs a function in the thread, between two steps."""
        future: Future[None] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                function()
                future.set_result(None)
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def cancel(self, request_id: str) -> None:
        self._inbox.put(lambda: self.engine.cancel(request_id))

    # ------------------------------------------------------------------ in the thread

    def add(self, ticket: Ticket, request_id: str, prompt: Sequence[int], params: RequestParams) -> None:
        if self._failure is not None:
            raise self._failure
        self.engine.add(request_id, prompt, params)
        self._tickets[request_id] = ticket

    def _main(self) -> None:
        try:
            while self._read_inbox(wait=not self.engine):
                self._step()
            while self.engine:
                self._step()
                self._read_inbox(wait=False)
        except Exception as error:
            self._fail(error)

    def _read_inbox(self, wait: bool) -> bool:
        """Does what was asked for since the last step; False when the thread is to end."""
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._inbox.get(block=wait)
                if command is None:
                    return False
                command()
                wait = False
        return True

    def _step(self) -> None:
        for event in self.engine.step():
            ticket = self._tickets[event.request_id]
            if event.token_id is not None:
                now, continuation = time.perf_counter(), (event.request_id, event.index)
                self.metrics.token(now - ticket.began, ticket.last.get(continuation), now)
                ticket.last[continuation] = now
            ticket.put(event)
        self.metrics.observe(self.engine)
        for request_id in self._tickets.keys() - self.engine.request_ids:
            del self._tickets[request_id]

    def _fail(self, error: Exception) -> None:
        """The model itself has failed: everyone is told, and nobody is served from now on."""
        logger.error("the engine has stopped, every request is answered 503 from now on", exc_info=error)
        self._failure = EngineFailure(f"the engine has stopped: {type(error).__name__}: {error}")
        for ticket in set(self._tickets.values()):
            ticket.put(self._failure)
        running = True
        while running:
            with contextlib.suppress(Exception):  # of an engine that is broken
                running = self._read_inbox(wait=True)
