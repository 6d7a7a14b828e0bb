"""What a kernel keeps, and what it leaves behind: its claims, its state, memory, the arithmetic of the thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from infiniop.schema import Operator, Status
from infiniop.tensor import row_major

from ..call import Declined, Failed, synchronize
from ..cases import Case, Options
from ..direct import DirectCall, created
from ..drawing import Seeded, draw
from ..leaks import growth
from ..memory import Placed
from ..recipe import Recipe, Spec
from ..runner import Expected, arguments_of
from ..subject import Subject
from ..works import Work, findings, in_memory, launch, recipes, variant

_DRAWS = 60
_STATUSES = {int(s) for s in Status}


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    def run(check: Callable[[Operator, Subject, int], list[str]]) -> list[str]:
        try:
            return check(operator, tested, options.seed)
        except Failed as failed:
            return [str(failed)]

    for name, check in GROUPS.items():
        if check is not nulls or any(t.null_at_run for t in operator.tensors):
            yield Case(operator.name, name, partial(run, check), group=name)


def serves(operator: Operator, tested: Subject, seed: int) -> list[str]:
    """An operator that is claimed takes at least one of its own samples."""
    reason = "there are none"
    for sample in operator.samples(np.random.default_rng(seed)):
        if "large" in sample.tags:
            continue
        try:
            Work(operator, tested, sample).descriptor().destroy()
            return []
        except Declined as declined:
            reason = str(declined)
    return [f"the backend claims {operator.name} and declines all its samples, the last one because: {reason}"]


def supports(operator: Operator, tested: Subject, seed: int) -> list[str]:
    """`supports` and `create` say the same of the same call, and say why they decline."""
    wrong = []
    for recipe in _plain_recipes(operator, seed):
        sample = recipe.sample(operator)
        if sample is None:
            continue
        try:
            call = DirectCall(operator, tested, arguments_of(operator, sample, tested), sample.attrs)
        except Declined:
            continue
        offered, reason = call.supports()
        status, message, state, _ = call.create()
        if status == Status.SUCCESS:
            call.destroy(state)
        words = {"supports": (offered, reason), "create": (status, message)}
        for name, (answer, text) in words.items():
            if answer not in _STATUSES:
                wrong.append(f"{name} returned {answer}, which is no status ({recipe})")
            elif answer != Status.SUCCESS and not text:
                wrong.append(f"{name} declines with {Status(answer).name} and does not say why ({recipe})")
        if (offered == Status.SUCCESS) != (status == Status.SUCCESS):
            said = ", ".join(f"{n} says {a} {t}".rstrip() for n, (a, t) in words.items())
            wrong.append(f"{said} of the same call ({recipe})")
        if wrong:
            return wrong
    return []


def _plain_recipes(operator: Operator, seed: int) -> Iterator[Recipe]:
    """Drawn calls in row-major memory: what a kernel sees after the library has put strides in order."""
    for attempt in range(_DRAWS):
        recipe = draw(operator, Seeded(seed, attempt, 1))
        if recipe is not None:
            yield _plain(recipe)


def _plain(recipe: Recipe) -> Recipe:
    tensors = {
        n: replace(t, strides=row_major(t.shape)) if isinstance(t, Spec) else t for n, t in recipe.tensors.items()
    }
    return replace(recipe, tensors=tensors)


def forgets(operator: Operator, tested: Subject, seed: int) -> list[str]:
    """What `create` was given is spoiled when it is back: `calculate` must not look at it."""
    wrong = []
    for recipe in recipes(operator, tested, seed, 2):
        work = variant(operator, tested, _plain(recipe), 0)
        call = DirectCall(operator, tested, work.arguments, work.attrs)
        with created(call) as (state, size):
            call.spoil()
            memory = Placed(work.arguments, size, tested.device)
            try:
                call.calculate(state, memory)
                memory.fetch()
            finally:
                memory.free()
        found = work.wrong(memory)
        wrong += [f"after the call that create was given is gone: {sentence} ({recipe})" for sentence in found]
    return wrong


def leaks(operator: Operator, tested: Subject, seed: int) -> list[str]:
    """Descriptors that come and go, and calls of one descriptor, leave no memory in use."""
    (recipe,) = recipes(operator, tested, seed, 1)
    work = variant(operator, tested, recipe, 0)
    created = growth(lambda: work.descriptor().destroy(), tested.device)
    descriptor = work.descriptor()
    with in_memory([work], descriptor) as (memory,):

        def calculate() -> None:
            launch(descriptor, work, memory)
            synchronize(tested.device)

        called = growth(calculate, tested.device)
    descriptor.destroy()
    what = {"create and destroy": created, "calculate": called}
    return [f"{name}: {sentence} ({recipe})" for name, sentence in what.items() if sentence]


def arithmetic(operator: Operator, tested: Subject, seed: int) -> list[str]:
    """A call leaves the thread's rounding and its subnormal numbers as they were."""
    (recipe,) = recipes(operator, tested, seed, 1)
    work = variant(operator, tested, recipe, 0)
    descriptor = work.descriptor()
    with in_memory([work], descriptor) as (memory,):
        launch(descriptor, work, memory)
        synchronize(tested.device)
        tiny, one = np.full(8, 1e-40, np.float32), np.ones(8, np.float64)
        subnormal = bool(((tiny + np.float32(0)) == tiny).all() and (tiny * np.float32(2) > tiny).all())
        nearest = bool(((one + 1e-17) == one).all() and ((one - 1e-17) == one).all())
    descriptor.destroy()
    wrong = [] if subnormal else ["after the call subnormal numbers count as 0 in the caller's thread"]
    return wrong if nearest else [*wrong, "after the call the caller's thread does not round to nearest"]


def nulls(operator: Operator, tested: Subject, seed: int) -> list[str]:
    """NULL at run, where it is legal: an optional tensor counts as left out, the description of another suffices."""
    wrong = []
    for tensor in operator.tensors:
        if not tensor.null_at_run:
            continue
        for recipe in recipes(operator, tested, seed, 1, present=tensor.name):
            sample = recipe.sample(operator)
            assert sample is not None
            work = Work(operator, tested, sample)
            if not tensor.only_described:
                absent = replace(sample, tensors={**sample.tensors, tensor.name: None})
                work.expected = Expected(operator, absent)
            descriptor = work.descriptor()
            with in_memory([work], descriptor) as (memory,):
                descriptor.launch(memory, work.attrs, frozenset({tensor.name}))
                synchronize(tested.device)
                found = findings([work], [memory], f"with NULL for {tensor.name}, call")
            descriptor.destroy()
            wrong += [f"{sentence} ({recipe})" for sentence in found]
    return wrong


GROUPS = {f"state {check.__name__}": check for check in (serves, supports, forgets, leaks, arithmetic, nulls)}
