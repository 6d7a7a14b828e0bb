"""One descriptor, many calls: again on other data, on two streams, in the order of a stream, recorded, from threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infiniop._call import tensor_descriptor
from infiniop.device import Device
from infiniop.errors import InfiniopError
from infiniop.memory import NULL
from infiniop.schema import F32, Operator, Status
from infiniop.streams import Stream, capture, lane_of
from infiniop.tensor import Signature, row_major

from ..call import Declined, Descriptor, Failed, synchronize
from ..cases import Case, Options
from ..recipe import Recipe
from ..subject import Subject
from ..works import Work, findings, in_memory, launch, recipes, variant

_CALLS = 8  # per thread
_THREADS = 4
_RECIPES = 3


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    def each(check: Callable[[Operator, Subject, Recipe], list[str]]) -> Callable[[], list[str]]:
        def run() -> list[str]:
            wrong = []
            for recipe in recipes(operator, tested, options.seed, _RECIPES):
                try:
                    found = check(operator, tested, recipe)
                except Failed as failed:
                    found = [str(failed)]
                except InfiniopError as error:  # of a stream, an event, a graph
                    if error.status is Status.NOT_IMPLEMENTED:
                        raise Declined(str(error)) from None
                    found = [str(error)]
                wrong += [f"{sentence} ({recipe})" for sentence in found]
            return wrong

        return run

    for name, check in GROUPS.items():
        yield Case(operator.name, name, each(check), group=name)


@contextmanager
def _descriptor(work: Work) -> Iterator[Descriptor]:
    """Made on another thread; other descriptors are made after it, so that freed memory changes."""
    made: list[Descriptor | BaseException] = []

    def make() -> None:
        try:
            made.append(work.descriptor())
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (descriptor,) = made
    if isinstance(descriptor, BaseException):
        raise descriptor
    for block in work.arguments.blocks.values():
        other = tuple(n + 13 for n in block.array.shape)
        tensor_descriptor(Signature.of(other, row_major(other), F32, Device("cpu")))
    try:
        yield descriptor
    finally:
        descriptor.destroy()


def again(operator: Operator, tested: Subject, recipe: Recipe) -> list[str]:
    """Three calls in a row: other buffers, other workspaces, other values, and the first values once more."""
    works = [variant(operator, tested, recipe, number) for number in (0, 1, 0)]
    with _descriptor(works[0]) as descriptor, in_memory(works, descriptor) as placed:
        for work, memory in zip(works, placed, strict=True):
            launch(descriptor, work, memory)
        synchronize(tested.device)
        return findings(works, placed, "call")


def streams(operator: Operator, tested: Subject, recipe: Recipe) -> list[str]:
    """Calls on two streams at once; nothing waits in between."""
    two = [Stream(tested.device), Stream(tested.device)]
    works = [variant(operator, tested, recipe, number) for number in range(4)]
    with _descriptor(works[0]) as descriptor, in_memory(works, descriptor) as placed:
        for number, (work, memory) in enumerate(zip(works, placed, strict=True)):
            launch(descriptor, work, memory, two[number % 2].handle)
        for stream in two:
            stream.synchronize()
        return findings(works, placed, "stream call")


def order(operator: Operator, tested: Subject, recipe: Recipe) -> list[str]:
    """Inputs arrive on a stream, the call follows on it, the results leave on it; only that stream is waited for."""
    stream = Stream(tested.device)
    work = variant(operator, tested, recipe, 0)
    with _descriptor(work) as descriptor, in_memory([work], descriptor, upload=False) as (memory,):
        memory.send(stream.handle)
        launch(descriptor, work, memory, stream.handle)
        memory.bring(stream.handle)
        stream.synchronize()
        return work.wrong(memory)


def replay(operator: Operator, tested: Subject, recipe: Recipe) -> list[str]:
    """A recorded call runs when its graph is launched, and again on other contents of the same memory."""
    if any(a.length is not None for a in operator.attrs):
        works = [variant(operator, tested, recipe, 0)] * 2  # host arrays are recorded with the call
    else:
        works = [variant(operator, tested, recipe, number, other_attrs=False) for number in (0, 1)]
    wrong = []
    with _descriptor(works[0]) as descriptor, in_memory(works[:1], descriptor) as (memory,):
        with capture(device=tested.device) as graph:
            launch(descriptor, works[0], memory, lane_of(tested.device).handle)
        memory.fetch()
        for name, block in works[0].arguments.blocks.items():
            wrong += [f"{name} changed while the call was recorded: {block.changed()}"] if block.changed() else []
        for number, work in enumerate(works):
            memory.adopt(work.arguments)
            for block in work.arguments.blocks.values():
                block.memory[...] = block.before
            memory.send(NULL)
            synchronize(tested.device)
            graph.launch()
            synchronize(tested.device)
            wrong += findings([work], [memory], f"launch {number + 1} of the graph, call")
    return wrong


def threads(operator: Operator, tested: Subject, recipe: Recipe) -> list[str]:
    """Every thread makes a descriptor, then calls it and a shared one in turn, all at the same time."""
    works = [[variant(operator, tested, recipe, 1 + t * _CALLS + i) for i in range(_CALLS)] for t in range(_THREADS)]
    wrong: list[str] = []
    with _descriptor(works[0][0]) as shared:
        barrier = threading.Barrier(_THREADS)

        def body(mine: list[Work]) -> None:
            try:
                with in_memory(mine, shared) as placed:
                    stream = Stream(tested.device)
                    barrier.wait()
                    own = mine[0].descriptor()
                    for number, (work, memory) in enumerate(zip(mine, placed, strict=True)):
                        launch(own if number % 2 else shared, work, memory, stream.handle)
                    stream.synchronize()
                    own.destroy()
                    wrong.extend(findings(mine, placed, "a thread's call"))
            except threading.BrokenBarrierError:
                return
            except Exception as error:
                barrier.abort()
                wrong.append(f"in a thread: {error}")

        started = [threading.Thread(target=body, args=(mine,)) for mine in works]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    return wrong


GROUPS = {f"reuse {check.__name__}": check for check in (again, streams, order, replay, threads)}
