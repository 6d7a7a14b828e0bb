"""softmax: along any axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import FLOATS, Attr, Constraint, ErrorSample, Operator, Role, Sample, Status, Tensor

from ._floats import f64, store, tolerances
from ._floats import softmax as _softmax
from ._softmax import axis_errors, axis_samples


def reference(y, x, axis) -> None:
    if y.size:
        store(y, _softmax(f64(x), axis))


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from axis_samples(rng, FLOATS, "y", "x", "axis")


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    yield from axis_errors(rng, "y", "x", "axis")


softmax = Operator(
    name="softmax",
    symbol="Softmax",
    summary="Softmax along one axis.",
    axes={"shape": "any number of axes, at least one"},
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("y", Role.OUT, "*shape", "T", doc="probabilities"),
        Tensor("x", Role.IN, "*shape", "T", doc="logits"),
    ),
    attrs=(Attr("axis", "int", default=-1, doc="the axis; negative counts from the end"),),
    constraints=(Constraint("-ndim(shape) <= axis and axis < ndim(shape)", "axis", "an axis of x", Status.BAD_PARAM),),
    aliases=(("y", "x"),),
    semantics=(
        "y = exp(x - max(x)) / sum(exp(x - max(x))) along the axis.",
        "Minus infinity gives 0; a row of minus infinities, or with plus infinity or NaN in it, gives NaN.",
        "Computed in f32, rounded once.",
        "y may be x, with the same strides.",
        "Without elements nothing is touched.",
    ),
    tolerances=tolerances(f32=(1e-7, 1e-5)),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
