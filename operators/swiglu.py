"""swiglu: gated linear unit with SiLU, gate and up in separate tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import FLOATS64, ErrorSample, Operator, Role, Sample, Tensor

from ._floats import f64, silu, store, tolerances
from .elementwise import RULES, family_errors, family_samples


def reference(c, a, b) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        store(c, f64(a) * silu(f64(b)))


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from family_samples(rng, FLOATS64, "c", ("a", "b"), extremes=False)


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    yield from family_errors(rng, "c", ("a", "b"))


swiglu = Operator(
    name="swiglu",
    symbol="SwiGLU",
    summary="Gated linear unit with SiLU: a times silu(b).",
    axes={"shape": "any number of axes"},
    dtypes={"T": FLOATS64},
    tensors=(
        Tensor("c", Role.OUT, "*shape", "T", doc="result"),
        Tensor("a", Role.IN, "*shape", "T", doc="up"),
        Tensor("b", Role.IN, "*shape", "T", doc="gate: the activation applies to it"),
    ),
    aliases=(("c", "a"), ("c", "b")),
    semantics=("c = a * b / (1 + exp(-b)) (Shazeer 2020, arXiv:2002.05202); b is the gate.", *RULES),
    tolerances=tolerances(f32=(1e-7, 1e-6), f64=(1e-14, 1e-13)),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
