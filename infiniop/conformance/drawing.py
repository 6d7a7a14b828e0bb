"""Calls drawn from an operator's schema: axes, dtypes, optional tensors, constraints, stride rules, aliases.

The draw is random first; then each constraint that does not hold is repaired by changing one of the things that it
names. What cannot be repaired is drawn again by whoever asked.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from infiniop.schema import Attr, Constraint, Operator, Role, Strides, Tensor, dtype, expr, shapes
from infiniop.schema.dtypes import DType

from .recipe import Recipe, Spec

T = TypeVar("T")
LIMIT = 1 << 15  # elements of a tensor
_VOLUME, _PAIR_VOLUME = 1 << 28, 1 << 24  # elements of all axes together, and of those of two tensors
_SMALL = (2, 3, 1, 4, 5, 7, 8, 9, 2, 3, 1, 4, 16, 17, 33, 0)
_TINY = (1, 2, 3, 2, 1, 4)  # beside an axis of more than _LARGE
_LARGE = 200
_LONG = tuple(n + d for n in (64, 128, 256, 512, 1024) for d in (-1, 0, 1))
_REALS = (1.0, 0.5, 0.0, 1e-5, 2.5)
_CANDIDATES = tuple(range(1, 41))
_ROUNDS = 30


class Choice(Protocol):
    """Where randomness comes from: hypothesis, or a seed."""

    def pick(self, options: Sequence[T]) -> T: ...


class Seeded:
    """Choices that follow from a seed."""

    def __init__(self, *seed: int):
        self._rng = np.random.default_rng(seed)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._rng.integers(len(options)))]


def draw(
    operator: Operator, choice: Choice, pins: Mapping[str, int] | None = None, special: bool = False,
    limit: int = LIMIT, alike: bool = False,
) -> Recipe | None:  # fmt: skip
    """A call whose constraints hold, with the axes in `pins` as they are given; None: try again. With `alike`, other
    axes may be as long as those."""
    plan = _Plan(operator, choice, pins or {}, alike)
    return plan.recipe(special, limit) if plan.repair() else None


def axes_of(tensors: Sequence[Tensor]) -> list[str]:
    """Their axes and groups, which can be pinned, in order of appearance."""
    tokens = [t for tensor in tensors for alternative in shapes.parse(tensor.shape) for t in alternative]
    return list(dict.fromkeys(t.name for t in tokens))


class _Plan:
    """The draw, piece by piece."""

    def __init__(self, operator: Operator, choice: Choice, pins: Mapping[str, int], alike: bool):
        self.operator, self.choice, self.pins = operator, choice, pins
        self.alike = tuple(pins.values()) if alike else ()
        self.seed = choice.pick(range(1 << 16))
        self.rng = np.random.default_rng(self.seed)  # of repairs
        self.dtypes = {v: choice.pick([d for d in ds if d.numpy is not None]) for v, ds in operator.dtypes.items()}
        self.present = {t.name for t in operator.tensors if not t.optional or choice.pick((True, False))}
        self.taken = {t.name: choice.pick(shapes.parse(t.shape)) for t in operator.tensors}
        self._use_pinned_alternatives()
        self.groups = {name: self._group(name) for name in self._names(group=True)}
        long = () if pins else choice.pick([(), (), *([n] for n in self._names(group=False))])
        self.axes = {
            n: pins.get(n, choice.pick(_LONG if n in long else self._small())) for n in self._names(group=False)
        }
        self.attrs = {a.name: self._attr(a) for a in operator.attrs if a.length is None}
        self.constraints = [c.expr for c in operator.constraints if not _names_arrays(operator, c)]
        self.constraints += [f"ndim({group}) == {text}" for group, text in operator.group_rank.items()]

    # ---- what is drawn at random ------------------------------------------------------------------------

    def _use_pinned_alternatives(self) -> None:
        for tensor in self.operator.tensors:
            for alternative in shapes.parse(tensor.shape):
                if any(token.name in self.pins for token in alternative):
                    self.taken[tensor.name] = alternative
                    self.present.add(tensor.name)

    def _names(self, group: bool) -> list[str]:
        every = [t for tensor in self.operator.tensors for alt in shapes.parse(tensor.shape) for t in alt]
        return list(dict.fromkeys(t.name for t in every if t.group is group))

    def _group(self, name: str) -> tuple[int, ...]:
        low, high = self._ranks(name)
        if name in self.pins:
            low, high = max(low, 1), max(high, 1)
        length = self.choice.pick(range(low, high + 1))
        extents = [self.choice.pick(self._small()) for _ in range(length)]
        if name in self.pins:
            extents[self.choice.pick(range(length))] = self.pins[name]
        return tuple(extents)

    def _small(self) -> Sequence[int]:
        return (*(_TINY if any(n > _LARGE for n in self.pins.values()) else _SMALL), *self.alike)

    def _ranks(self, name: str) -> tuple[int, int]:
        """Least and largest number of axes that the group may have."""
        low, high = 0, 3
        for tensor in self.operator.tensors:
            tokens = self.taken[tensor.name]
            if tensor.rank and any(t.group and t.name == name for t in tokens):
                others = len(tokens) - 1
                low, high = max(low, tensor.rank[0] - others), min(high, tensor.rank[1] - others)
        return low, high

    def _attr(self, attr: Attr) -> Any:
        return self.choice.pick(attr_values(attr))

    # ---- what must hold ---------------------------------------------------------------------------------

    def repair(self) -> bool:
        """Make every constraint hold."""
        for _ in range(_ROUNDS):
            broken = next((text for text in self.constraints if not self.holds(text)), None)
            if broken is None:
                return True
            if not self._change_something(broken):
                return False
        return False

    def holds(self, text: str) -> bool:
        try:
            return bool(self.value(text))
        except ZeroDivisionError:
            return False

    def value(self, text: str) -> Any:
        bound = {t.name for n in self.present for t in self.taken[n]}
        axes = {name: n if name in bound else 1 for name, n in self.axes.items()}
        numbers = {a.name: _number(a, self.attrs[a.name]) for a in self.operator.attrs if a.name in self.attrs}
        codes = {name: made.code for name, made in self.dtypes.items()}
        functions = {
            "rank": lambda name: len(self.shape(name)) if name in self.present else 0,
            "dim": lambda name, i: self.shape(name)[i],
            "has": lambda name: name in self.present,
            "size": lambda group: math.prod(self.groups[group]),
            "ndim": lambda group: len(self.groups[group]),
        }
        return expr.evaluate(text, {**numbers, **codes, **axes}, functions)

    def shape(self, tensor: str) -> tuple[int, ...]:
        tokens = self.taken[tensor]
        return tuple(n for t in tokens for n in (self.groups[t.name] if t.group else (self.axes[t.name],)))

    def _change_something(self, text: str) -> bool:
        """One change after which the constraint holds, chosen at random among those that break least."""
        named = [node.id for node in ast.walk(expr.parse(text)) if isinstance(node, ast.Name)]
        options = []
        for place, name in self._places(set(named)):
            before = place[name]
            for value in self._candidates(place, name, text):
                place[name] = value
                if self.holds(text):
                    options.append((sum(not self.holds(c) for c in self.constraints), place, name, value))
            place[name] = before
        if self._toggle(text, set(named)):
            return True
        if not options:
            return False
        least = min(option[0] for option in options)
        best = [option for option in options if option[0] == least]
        _, place, name, value = best[int(self.rng.integers(len(best)))]
        place[name] = value
        return True

    def _places(self, named: set[str]) -> list[tuple[dict[str, Any], str]]:
        """The dictionaries in which the named things stand."""
        free = [n for n in self.axes if n in named and n not in self.pins]
        found: list[tuple[dict[str, Any], str]] = [(self.axes, n) for n in free]
        found += [(self.attrs, n) for n in self.attrs if n in named]
        found += [(self.dtypes, n) for n in self.dtypes if n in named]
        found += [(self.taken, t.name) for t in self.operator.tensors if t.name in named and "|" in t.shape]
        return found

    def _candidates(self, place: dict[str, Any], name: str, text: str) -> Sequence[Any]:
        if place is self.dtypes:
            return [d for d in self.operator.dtypes[name] if d.numpy is not None]
        if place is self.taken:
            return shapes.parse(self.operator.tensor(name).shape)
        values = self._parts(text)
        if place is self.axes:
            return [*_CANDIDATES, *(v for v in values if v >= 0)]
        attr = next(a for a in self.operator.attrs if a.name == name)
        whole = attr.ctype not in ("float", "double") and not attr.enum
        return [*attr_values(attr), *(v for v in values if whole and (v >= 0 or not _is_unsigned(attr)))]

    def _parts(self, text: str) -> list[int]:
        """Integers that parts of the constraint stand for: what an axis may have to equal."""
        found = set()
        for node in ast.walk(expr.parse(text)):
            if isinstance(node, ast.BinOp | ast.Constant | ast.Name | ast.Call):
                try:
                    value = self.value(ast.unparse(node))
                except (NameError, KeyError, ZeroDivisionError, TypeError):
                    continue
                if isinstance(value, int) and abs(value) < 10_000:
                    found |= {int(value), int(value) + 1, int(value) - 1, int(value) // 2}
        return sorted(found)

    def _toggle(self, text: str, named: set[str]) -> bool:
        """Leave an optional tensor out, or put it in, where that alone helps."""
        optional = [t.name for t in self.operator.tensors if t.optional and t.name in named]
        for name in optional:
            self.present ^= {name}
            if self.holds(text) and self.rng.integers(2):
                return True
            self.present ^= {name}
        return False

    # ---- layouts ----------------------------------------------------------------------------------------

    def recipe(self, special: bool, limit: int) -> Recipe | None:
        if any(math.prod(self.shape(name)) > limit for name in self.present):
            return None
        if self._volume(self.present) > _VOLUME:
            return None
        if self.pins and any(self._volume(two) > _PAIR_VOLUME for two in itertools.combinations(self.present, 2)):
            return None
        tensors: dict[str, Spec | str | None] = {}
        shared = self._shared()
        outputs = {t.name for t in self.operator.tensors if t.is_output} | set(shared.values())
        for tensor in self.operator.tensors:
            if tensor.name not in self.present:
                tensors[tensor.name] = None
            else:
                source = shared.get(tensor.name)
                tensors[tensor.name] = source or self._spec(tensor, tensor.name in outputs)
        if any(isinstance(spec, Spec) and spec.span() > 8 * limit for spec in tensors.values()):
            return None
        return Recipe(tensors, self.attrs, self.seed, self.choice.pick((0, 0, 1)), special)

    def _volume(self, tensors: Collection[str]) -> int:
        """What a loop over all their axes would visit: of all tensors, more than any operator computes."""
        used = {t for name in tensors for t in self.taken[name]}
        extents = [n for t in used for n in (self.groups[t.name] if t.group else (self.axes[t.name],))]
        return math.prod(max(n, 1) for n in extents)

    def _shared(self) -> dict[str, str]:
        """Outputs that are the memory of an input, as the schema allows, and inputs that are one array."""
        found: dict[str, str] = {}
        for output, source in self.operator.aliases:
            unused = output not in found and source not in found.values()
            if unused and self._alike(output, source) and self.choice.pick((False,) * 5 + (True,)):
                found[output] = source
        inputs = [t for t in self.operator.tensors if t.role is Role.IN and t.name not in found.values()]
        for first, second in itertools.pairwise(inputs):
            if first.strides is second.strides and self._alike(first.name, second.name) and first.name not in found:
                floats = self._dtype(first).is_float  # ids and lengths mean different things
                if floats and self.choice.pick((False,) * 9 + (True,)):
                    found[second.name] = first.name
        return found

    def _alike(self, a: str, b: str) -> bool:
        if not {a, b} <= self.present:
            return False
        first, second = self.operator.tensor(a), self.operator.tensor(b)
        return self._dtype(first) is self._dtype(second) and self.shape(a) == self.shape(b)

    def _dtype(self, tensor: Tensor) -> DType:
        return self.dtypes.get(tensor.dtype) or dtype(tensor.dtype)

    def _spec(self, tensor: Tensor, written: bool) -> Spec:
        shape = self.shape(tensor.name)
        return Spec(self._dtype(tensor), shape, self._strides(tensor.strides, shape, written))

    def _strides(self, rule: Strides, shape: Sequence[int], written: bool) -> tuple[int, ...]:
        """Any layout that the rule allows: axes in any order, gaps, backwards, broadcast where nothing is written."""
        rank, pick = len(shape), self.choice.pick
        order = list(range(rank))
        if rule is not Strides.CONTIGUOUS and rank > 1 and pick((False, True)):
            order = [order.pop(pick(range(len(order)))) for _ in range(rank)]
        inner = None
        if rank and rule in (Strides.UNIT_LAST, Strides.MATRIX):
            inner = rank - 1 if rule is Strides.UNIT_LAST or rank < 2 else pick((rank - 1, rank - 2))
            order.remove(inner)
            order.append(inner)
        strides, step = [0] * rank, 1
        for axis in reversed(order):
            fixed = rule is Strides.CONTIGUOUS or axis == inner
            strides[axis] = step + (0 if fixed else pick((0, 0, 1, 2)))
            step = strides[axis] * max(shape[axis], 1)
            if not fixed and pick((False, False, False, True)):
                strides[axis] = -strides[axis] if written or pick((True, False)) else 0
            if not fixed and shape[axis] == 1:
                strides[axis] = pick((strides[axis], 0, 7, -3))  # it never matters
        return tuple(strides)


def attr_values(attr: Attr) -> Sequence[Any]:
    """What an attribute is drawn from."""
    if attr.enum:
        return attr.enum
    if attr.ctype in ("float", "double"):
        return _REALS
    if attr.ctype in ("bool", "char"):
        return (0, 1)
    return (1, 0, 2, 3) if _is_unsigned(attr) else (1, 0, 2, 3, -1, -2)


def _is_unsigned(attr: Attr) -> bool:
    return attr.ctype in ("size_t", "uint64_t")


def _number(attr: Attr, value: Any) -> Any:
    return attr.enum.index(value) if isinstance(value, str) else value


def _names_arrays(operator: Operator, constraint: Constraint) -> bool:
    arrays = {a.name for a in operator.attrs if a.length is not None}
    return bool(arrays & set(expr.names(constraint.expr)))
