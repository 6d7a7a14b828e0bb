"""Calls that are made more than once: arguments in device memory, and what must come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from infiniop.inference import Binding
from infiniop.memory import NULL
from infiniop.schema import Operator, Sample
from infiniop.tensor import Signature

from .call import Descriptor, Failed, signature
from .drawing import Seeded, attr_values, draw
from .memory import Arguments, Placed
from .recipe import Recipe, Spec
from .runner import Declined, Expected, arguments_of
from .subject import Subject

_TRIES = 60
_SCRATCH = (0xFF, 0x7B, 0x00)  # NaN, large numbers in every float dtype, zeros


class Work:
    """One call's arguments, and the reference's answer."""

    def __init__(self, operator: Operator, tested: Subject, sample: Sample):
        self.operator, self.tested, self.attrs = operator, tested, sample.attrs
        self.arguments: Arguments = arguments_of(operator, sample, tested)
        self.expected = Expected(operator, sample)

    def descriptor(self) -> Descriptor:
        return Descriptor(self.operator, self.tested, self.arguments, self.attrs)

    def layouts(self) -> dict[str, Signature]:
        """What a descriptor is made from."""
        return {name: signature(block.array) for name, block in self.arguments.blocks.items()}

    def wrong(self, memory: Placed) -> list[str]:
        """What is wrong with memory that came back."""
        return memory.violations() + self.expected.differences(self.arguments)


def recipes(operator: Operator, tested: Subject, seed: int, count: int, present: str | None = None) -> list[Recipe]:
    """The largest of some drawn calls that the backend takes, with elements in every output, of different dtypes.

    With `present`, calls that give this optional tensor. Raises `Declined` when the backend takes none.
    """
    found: dict[str, tuple[int, Recipe]] = {}
    for attempt in range(_TRIES):
        recipe = draw(operator, Seeded(seed, attempt))
        size = 0 if recipe is None else _elements(operator, recipe)
        if recipe is None or not size or (present and not isinstance(recipe.tensors[present], Spec)):
            continue
        kinds = " ".join(t.dtype.name for t in recipe.tensors.values() if isinstance(t, Spec))
        if found.get(kinds, (0,))[0] < size and _is_served(operator, tested, recipe):
            found[kinds] = size, recipe
    if not found:
        raise Declined("none of the calls that were drawn is served")
    largest = sorted(found.values(), key=lambda pair: -pair[0])
    return [recipe for _, recipe in largest[:count]]


def _elements(operator: Operator, recipe: Recipe) -> int:
    """Of all tensors; 0 when an output has none."""
    sizes = {n: _size(t) for n, t in recipe.tensors.items() if isinstance(t, Spec)}
    empty = any(sizes.get(t.name) == 0 for t in operator.outputs)
    return 0 if empty else sum(sizes.values())


def _size(spec: Spec) -> int:
    total = 1
    for n in spec.shape:
        total *= n
    return total


def _is_served(operator: Operator, tested: Subject, recipe: Recipe) -> bool:
    sample = recipe.sample(operator)
    if sample is None:
        return False
    try:
        work = Work(operator, tested, sample)
        work.descriptor().destroy()
    except (Declined, Failed):
        return False
    return work.expected.refusal is None


def variant(operator: Operator, tested: Subject, recipe: Recipe, number: int, other_attrs: bool = True) -> Work:
    """The same call on other values, with `other_attrs` where they are given at run."""
    layouts = None if number == 0 else variant(operator, tested, recipe, 0).layouts()
    for attempt in range(_TRIES):
        choice = Seeded(recipe.seed, number, attempt)
        attrs = dict(recipe.attrs)
        if number and other_attrs and attempt < _TRIES // 2:  # some fit nothing else
            attrs |= {a.name: choice.pick(attr_values(a)) for a in operator.attrs if a.at == "run" and a.name in attrs}
        sample = replace(recipe, attrs=attrs, seed=recipe.seed + number + 7919 * attempt).sample(operator)
        if sample is None or not _holds_at_run(operator, sample):
            continue
        work = Work(operator, tested, sample)
        if work.expected.refusal is None and layouts in (None, work.layouts()):
            return work
    raise Declined(f"no other values were found for {recipe}")


def _holds_at_run(operator: Operator, sample: Sample) -> bool:
    late = [c for c in operator.constraints if c.at == "run"]
    if not late:
        return True
    sigs = {n: None if a is None else signature(a) for n, a in sample.tensors.items()}
    binding = Binding(operator, sigs, _scalars(operator, sample.attrs))
    return all(binding.value(c.expr) for c in late)


def _scalars(operator: Operator, attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {a.name: attrs[a.name] for a in operator.attrs if a.length is None}


@contextmanager
def in_memory(works: list[Work], descriptor: Descriptor, upload: bool = True) -> Iterator[list[Placed]]:
    """Device memory for each, with a workspace of its own contents; nothing is brought back by itself."""
    size, placed = descriptor.workspace_size(), []
    try:
        for number, work in enumerate(works):
            placed.append(Placed(work.arguments, size, work.tested.device, upload, _SCRATCH[number % len(_SCRATCH)]))
        yield placed
    finally:
        for memory in placed:
            memory.free()


def launch(descriptor: Descriptor, work: Work, memory: Placed, stream: Any = NULL) -> None:
    descriptor.launch(memory, work.attrs, stream=stream)


def findings(works: list[Work], placed: list[Placed], what: str) -> list[str]:
    """What is wrong, once everything is fetched."""
    found = []
    for number, (work, memory) in enumerate(zip(works, placed, strict=True)):
        memory.fetch()
        found += [f"{what} {number + 1}: {sentence}" for sentence in work.wrong(memory)]
    return found
