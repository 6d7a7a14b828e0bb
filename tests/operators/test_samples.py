"""The conformance kit's cases on every built-in backend of the CPU, and large samples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import infiniop
from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.cases import Found, Options, cases
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators
from infiniop.schema import Operator, Sample
from infiniop.tensor import extent

OPERATORS = list(all_operators())
BACKENDS = ["cpu", "reference"]
LARGEST = 1 << 27  # elements in one sample; beyond: `make full`


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_kit_finds_nothing(backend: str, name: str) -> None:
    operator, tested = all_operators()[name], subject(backend)
    assert tested.has(name), f"{backend} has no kernel for {name}"
    ran, wrong = Counter[str](), []
    for case in cases(operator, tested, Options(draws=30)):
        if backend == "reference" and case.kind not in ("sample", "error", "drawn"):
            continue  # the reference against itself
        ran[case.kind] += 1
        try:
            wrong += [f"{case.name}: {sentence}" for sentence in case.run()]
        except Found as found:
            wrong += [f"{found.name}: {sentence}" for sentence in found.wrong]
        except Declined as declined:
            assert case.kind in ("drawn", "empty", "sizes"), f"{case.name}: {declined}"
    assert not wrong, "\n" + "\n".join(wrong)
    assert ran["sample"] and ran["error"] and ran["drawn"], ran


@pytest.mark.full
@pytest.mark.parametrize("name", OPERATORS)
def test_large_samples(name: str) -> None:
    operator = all_operators()[name]
    failures = []
    for sample in operator.samples(np.random.default_rng(1)):
        if span(sample) > LARGEST:
            failures += [f"{sample.name}: {f}" for f in run_in_place(operator, sample)]
        elif "large" in sample.tags:
            failures += [f"{sample.name}: {f}" for f in runner.run_sample(operator, sample, "cpu")]
    assert not failures, "\n" + "\n".join(failures)


def span(sample: Sample) -> int:
    """Elements from the first to the last of the tensor that is spread out most."""
    arrays = [a for a in sample.tensors.values() if a is not None and a.size]
    ends = [extent(a.shape, [s // a.itemsize for s in a.strides]) for a in arrays]
    return max((high - low for low, high in ends), default=0)


def run_in_place(operator: Operator, sample: Sample) -> list[str]:
    """Elements gigabytes apart: the sample's own memory, without canaries; the reference works on compact copies."""
    compact = {id(a): np.array(a) for a in sample.tensors.values() if a is not None}
    expected = {n: None if a is None else compact[id(a)] for n, a in sample.tensors.items()}
    operator.reference(**expected, **runner.python_attrs(operator, sample.attrs))
    with infiniop.descriptor(operator.name, **sample.tensors, **sample.attrs) as descriptor:
        descriptor.calculate()
    pairs = [(expected[t.name], sample.tensors[t.name]) for t in operator.outputs]
    differences = [runner.compare(e, a, None) for e, a in pairs if e is not None and a is not None]
    return [d for d in differences if d]


@pytest.mark.parametrize("name", OPERATORS)
def test_every_argument_is_refused_somewhere(name: str) -> None:
    """Each required tensor has an error sample that leaves its descriptor out, and one that leaves its pointer out."""
    operator = all_operators()[name]
    missing: dict[str, set[str]] = {"create": set(), "run": set()}
    for sample in operator.error_samples(np.random.default_rng(2)):
        missing[sample.at] |= sample.null
    required = {t.name for t in operator.tensors if not t.optional}
    assert required <= missing["create"]
    assert {t.name for t in operator.tensors if not t.optional and not t.null_at_run} <= missing["run"]
