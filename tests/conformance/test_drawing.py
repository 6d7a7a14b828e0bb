"""Drawn calls: a line says all of one, they are legal, they cover what the schema allows; guarded memory sees every
byte."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from infiniop.conformance.call import Declined, Descriptor, Failed
from infiniop.conformance.checks import edges
from infiniop.conformance.drawing import Seeded, axes_of, draw
from infiniop.conformance.leaks import growth
from infiniop.conformance.memory import Arguments, placed
from infiniop.conformance.recipe import Recipe, Spec
from infiniop.conformance.runner import Expected, arguments_of, truncation
from infiniop.conformance.subject import subject
from infiniop.device import Device
from infiniop.operators import all_operators
from infiniop.schema import BF16, Operator

OPERATORS = list(all_operators().values())
HOST = Device("cpu")


def drawn(operator: Operator, count: int) -> list[Recipe]:
    found = (draw(operator, Seeded(5, number)) for number in range(count))
    return [recipe for recipe in found if recipe is not None]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_drawn_calls_are_legal_and_said_in_a_line(operator: Operator) -> None:
    recipes = drawn(operator, 80)
    assert len(recipes) > 40
    served = 0
    for recipe in recipes:
        assert str(Recipe.parse(operator, str(recipe))) == str(recipe)
        sample, same = recipe.sample(operator), Recipe.parse(operator, str(recipe)).sample(operator)
        if sample is None or same is None:
            continue
        for name, array in sample.tensors.items():
            assert (array is None) == (same.tensors[name] is None)
            assert array is None or array.tobytes() == same.array(name).tobytes()
        try:
            arguments = arguments_of(operator, sample, subject("reference"))
            Descriptor(operator, subject("reference"), arguments, sample.attrs).destroy()
        except (Declined, Failed) as error:
            pytest.fail(f"{recipe}: {error}")
        served += 1
    assert served > 15


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_draws_reach_what_the_schema_allows(operator: Operator) -> None:
    recipes = drawn(operator, 400)
    for variable, allowed in operator.dtypes.items():
        users = [t.name for t in operator.tensors if t.dtype == variable]
        seen = {s.dtype for r in recipes for s in (r.tensors[n] for n in users) if isinstance(s, Spec)}
        assert seen == {d for d in allowed if d.numpy is not None}, variable
    for tensor in operator.tensors:
        assert not tensor.optional or {r.tensors[tensor.name] is None for r in recipes} == {True, False}
    for output, _ in operator.aliases:
        assert any(isinstance(r.tensors[output], str) for r in recipes)
    assert {r.shift for r in recipes} == {0, 1}
    strides = [s.strides for r in recipes for s in r.tensors.values() if isinstance(s, Spec) and math.prod(s.shape) > 1]
    assert strides


def test_axes_are_pinned() -> None:
    operator = all_operators()["gemm"]
    assert axes_of(operator.tensors) == ["m", "n", "batch", "k", "batch_a", "batch_b"]
    for extent in (0, 1, 257):
        recipe = next(r for r in (draw(operator, Seeded(i), {"k": extent}) for i in range(50)) if r is not None)
        a = recipe.tensors["a"]
        assert isinstance(a, Spec) and a.shape[-1] == extent


@pytest.mark.parametrize(
    ("name", "axis", "legal"),
    [
        ("gemm", "k", lambda n: True),
        ("silu_and_mul", "width", lambda n: n % 2 == 0),
        ("attention", "s", lambda n: n < 500),
        ("paged_attention_prefill", "nstarts", lambda n: n < 1000),
    ],
)
def test_sizes_are_there_where_the_schema_allows_them(name: str, axis: str, legal: Callable[[int], bool]) -> None:
    operator = all_operators()[name]
    wanted = [n for n in edges._SIZES if legal(n)]
    assert len(list(edges._recipes(operator, 1, axis, wanted))) >= len(wanted) * 0.9


@pytest.mark.parametrize(
    "text", ["c=F32:2:1", "c=F32:2:1 a=F32:2:1 b=F32:2:1 d=1", "c=F32:2:1 a=- b=- color:3", "c=x a=y b=z"]
)
def test_bad_lines_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Recipe.parse(all_operators()["add"], text)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_changed_byte_is_seen_wherever_it_is_illegal(data: st.DataObject) -> None:
    """Every byte of a block: legal inside elements of outputs, a violation everywhere else."""
    operator = all_operators()["add"]
    recipe = draw(operator, Seeded(data.draw(st.integers(0, 10_000))))
    if recipe is None:
        return
    sample = recipe.sample(operator)
    assert sample is not None
    arguments = Arguments(operator, sample.tensors, sample.shift)
    arguments.poison_outputs(set())
    name = data.draw(st.sampled_from(["c", "a", "b"]))
    block = arguments.blocks[name]
    with placed(arguments, 0, HOST) as memory:
        assert not memory.violations()
    at = data.draw(st.integers(0, len(block.memory) - 1))
    inside = np.zeros(len(block.memory), bool)
    if block.array.size:
        np.ndarray((*block.array.shape, block.itemsize), bool, inside.data, block.start, (*block.array.strides, 1))[
            ...
        ] = True
    block.memory[at] ^= 0x55
    legal = inside[at] and any(arguments.blocks[t.name] is block for t in operator.outputs)
    assert bool(memory.violations()) != bool(legal)


def test_the_workspace_is_guarded() -> None:
    operator = all_operators()["add"]
    sample = next(iter(operator.samples(np.random.default_rng(0))))
    with placed(Arguments(operator, sample.tensors), 24, HOST) as memory:
        pointer, size = memory.scratch()
        assert size == 24
        pointer[size] = b"x"
    assert memory.violations() == ["workspace: memory outside its 24 bytes changed"]


def test_growth() -> None:
    kept: list[bytearray] = []
    assert growth(lambda: None, HOST) is None
    assert "more in use" in str(growth(lambda: kept.append(bytearray(700)), HOST))


def test_poison_is_no_result_even_where_nan_is() -> None:
    operator = all_operators()["relu"]
    sample = next(s for s in operator.samples(np.random.default_rng(0)) if "nan" in s.tags)
    expected = Expected(operator, sample)
    actual = arguments_of(operator, sample, subject("reference"))
    assert "elements differ" in expected.differences(actual)[0]
    actual.blocks["y"].array[...] = expected.arguments.blocks["y"].array
    assert not expected.differences(actual)
    where = tuple(np.argwhere(np.isnan(actual.blocks["y"].array))[0])
    actual.blocks["y"].array.view(np.uint16)[where] = 0xFFF5
    assert f"1 of {actual.blocks['y'].array.size} elements were not written" in expected.differences(actual)[0]
    actual.blocks["y"].array.view(np.uint16)[where] = 0xFFFF  # as torch's vectors round NaN to bf16
    assert not expected.differences(actual)


@given(st.integers(0, 2**32 - 1))
def test_truncation(seed: int) -> None:
    wide = np.random.default_rng(seed).normal(size=2000).astype(np.float32)
    rounded = wide.astype(BF16.numpy)
    cut = (wide.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(BF16.numpy)
    assert truncation(rounded, rounded) is None
    assert "cut off" in str(truncation(rounded, cut))
    other = (wide * np.float32(1 + 2**-9)).astype(BF16.numpy)
    assert truncation(rounded, other) is None
    repeated = [np.resize(a[rounded != cut][:60], 2048) for a in (rounded, cut)]
    assert truncation(*repeated) is None  # 60 values, each many times
