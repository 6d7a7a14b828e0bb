"""square: the elementwise square."""

from __future__ import annotations

import numpy as np

from infiniop.schema import FLOATS64, Operator, Role, Tensor

from ._floats import f64, store
from .elementwise import RULES, family_errors, family_samples


def reference(y: np.ndarray, x: np.ndarray) -> None:
    store(y, f64(x) * f64(x))


square = Operator(
    name="square",
    symbol="Square",
    own=True,
    summary="Elementwise square.",
    axes={"shape": "any number of axes"},
    dtypes={"T": FLOATS64},
    tensors=(Tensor("y", Role.OUT, "*shape", "T", doc="result"), Tensor("x", Role.IN, "*shape", "T", doc="operand")),
    aliases=(("y", "x"),),
    semantics=("y = x * x.", *RULES),
    reference=reference,
    samples=lambda rng: family_samples(rng, FLOATS64, "y", ["x"]),
    error_samples=lambda rng: family_errors(rng, "y", ["x"]),
)
