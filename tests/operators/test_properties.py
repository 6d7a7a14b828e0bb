"""Shapes, strides, dtypes and values drawn from each operator's schema: the CPU backend against the reference.

Both must accept or refuse the same arguments, with the same status; what both accept must be equal.
"""

from __future__ import annotations

import ast
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings

from infiniop.conformance import runner
from infiniop.operators import all_operators
from infiniop.schema import Operator, Sample, Strides, dtype, expr, shapes
from infiniop.schema.dtypes import DType
from infiniop.schema.samples import uniform

EXTENTS = st.one_of(st.integers(0, 4), st.sampled_from([5, 8, 9, 16, 17, 33]))
RUNS = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)


def fits(operator: Operator) -> bool:
    """Opaque bytes and host arrays cannot be drawn."""
    return not any(t.opaque for t in operator.tensors) and not any(a.length for a in operator.attrs)


FITTING = [name for name, operator in all_operators().items() if fits(operator)]


class Draws:
    """One call of an operator."""

    def __init__(self, draw: st.DrawFn, operator: Operator):
        self.draw, self.operator = draw, operator
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.dtypes = {
            v: draw(st.sampled_from([d for d in allowed if d.numpy is not None]))
            for v, allowed in operator.dtypes.items()
        }
        if "W" in self.dtypes and draw(st.integers(0, 3)) > 0:
            self.dtypes["W"] = self.dtypes.get("T", self.dtypes["W"])
        self.attrs = {a.name: self._attribute(a.ctype, a.enum) for a in operator.attrs}
        self.axes: dict[str, int] = {}
        self.groups: dict[str, tuple[int, ...]] = {}
        pick = draw(st.integers(0, 1))
        self.tokens = {}
        for tensor in operator.tensors:
            alternatives = shapes.parse(tensor.shape)
            self.tokens[tensor.name] = alternatives[min(pick, len(alternatives) - 1)]
        self._bind()
        for constraint in operator.constraints:
            self._satisfy(constraint.expr)

    def _attribute(self, ctype: str, enum: tuple[str, ...]) -> Any:
        if enum:
            return self.draw(st.sampled_from(enum))
        if ctype in ("float", "double"):
            return self.draw(st.sampled_from([0.0, 0.5, 1.0, 1e-5]))
        if ctype in ("bool", "char"):
            return self.draw(st.integers(0, 1))
        return self.draw(st.integers(0 if ctype in ("size_t", "uint64_t") else -2, 3))

    def _bind(self) -> None:
        for tokens in self.tokens.values():
            for token in tokens:
                if token.group:
                    self.groups.setdefault(token.name, ())
                else:
                    self.axes.setdefault(token.name, 0)
        self.axes = {name: self.draw(EXTENTS) for name in self.axes}
        self.groups = {name: self.draw(RUNS) for name in self.groups}

    def _satisfy(self, text: str) -> None:
        """Make simple comparisons true, so that most draws reach the kernel."""
        for node in ast.walk(expr.parse(text)):
            if not isinstance(node, ast.Compare) or len(node.ops) != 1:
                continue
            try:
                self._make_true(node.left, node.ops[0], self._value(node.comparators[0]))
            except (NameError, KeyError, ZeroDivisionError):
                continue

    def _make_true(self, left: ast.expr, op: ast.cmpop, right: Any) -> None:
        if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and isinstance(left.left, ast.Name):
            self.axes[left.left.id] = self._value(left.right) * self.draw(st.integers(1, 3))
        elif isinstance(left, ast.Name) and left.id in self.axes:
            if isinstance(op, ast.Eq):
                self.axes[left.id] = int(right)
            elif isinstance(op, ast.Gt | ast.GtE):
                self.axes[left.id] = max(self.axes[left.id], int(right) + isinstance(op, ast.Gt))
        elif isinstance(left, ast.Name) and left.id in self.attrs and isinstance(op, ast.In) and self._mostly():
            self.attrs[left.id] = self.draw(st.sampled_from(right))

    def _mostly(self) -> bool:
        return self.draw(st.integers(0, 3)) > 0

    def _value(self, node: ast.expr) -> Any:
        known = {**self.attrs, **self.axes, **{name: d.code for name, d in self.dtypes.items()}}
        functions = {"ndim": lambda g: len(self.groups[g]), "size": lambda g: int(np.prod(self.groups[g]))}
        return expr.evaluate(ast.unparse(node), known, functions)

    def tensors(self) -> dict[str, np.ndarray | None]:
        found: dict[str, np.ndarray | None] = {}
        for tensor in self.operator.tensors:
            if tensor.optional and self.draw(st.booleans()):
                found[tensor.name] = None
                continue
            extents = [
                n for t in self.tokens[tensor.name] for n in (self.groups[t.name] if t.group else [self.axes[t.name]])
            ]
            kind: DType = self.dtypes.get(tensor.dtype) or dtype(tensor.dtype)
            strides = self._strides(tensor.strides, extents, tensor.is_output)
            low, high = (-2.0, 2.0) if kind.is_float else (0, max(max(self.axes.values(), default=0) // 2, 1))
            found[tensor.name] = uniform(self.rng, extents, kind, low, high, strides=strides)
        return found

    def _strides(self, rule: Strides, extents: list[int], output: bool) -> tuple[int, ...]:
        """Any layout that the rule allows: axes in any order, gaps, negative and broadcast strides."""
        rank, draw = len(extents), self.draw
        order = list(range(rank))
        if rule is not Strides.CONTIGUOUS and draw(st.booleans()):
            order = list(draw(st.permutations(order)))
        if rank and rule in (Strides.UNIT_LAST, Strides.MATRIX):
            last = rank - 1 if rule is Strides.UNIT_LAST or rank < 2 else draw(st.sampled_from([rank - 1, rank - 2]))
            order.remove(last)
            order.append(last)
        strides, step = [0] * rank, 1
        for position, axis in enumerate(reversed(order)):
            unit = rule is Strides.CONTIGUOUS or (position == 0 and rule is not Strides.ANY)
            strides[axis] = step + (0 if unit else draw(st.integers(0, 2)))
            step = strides[axis] * max(extents[axis], 1)
            if rule is Strides.ANY and draw(st.integers(0, 3)) == 0:
                strides[axis] = -strides[axis] if output or draw(st.booleans()) else 0
        return tuple(strides)


def refusal(text: str) -> tuple[str, str]:
    """Which call refuses, with which status; a backend is free to say NOT_IMPLEMENTED at either."""
    at, status = text.split(": ")[:2]
    return ("" if status == "NOT_IMPLEMENTED" else at), status


def answer(operator: Operator, sample: Sample, backend: str) -> list[str]:
    try:
        return runner.run_sample(operator, sample, backend)
    except runner.Declined as declined:
        return [f"create: NOT_IMPLEMENTED: {declined}"]


@pytest.mark.parametrize("name", FITTING)
@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_arguments(name: str, data: st.DataObject) -> None:
    operator = all_operators()[name]
    draws = Draws(data.draw, operator)
    sample = Sample("drawn", draws.tensors(), draws.attrs)
    theirs = answer(operator, sample, "reference")
    ours = answer(operator, sample, "cpu")
    refused = bool(theirs) and theirs[0].startswith(("create: ", "run: "))
    event(f"{name}: {'refused' if refused else 'computed'}")
    if refused:
        assert ours and refusal(ours[0]) == refusal(theirs[0]), f"cpu: {ours}; reference: {theirs}"
    else:
        assert not theirs and not ours, f"cpu: {ours}; reference: {theirs}"


def test_most_operators_are_drawn() -> None:
    assert len(FITTING) > 25, FITTING
