"""log_softmax: along any axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import FLOATS64, Attr, Constraint, ErrorSample, Operator, Role, Sample, Status, Tensor

from ._floats import f64, log_sum_exp_parts, store, tolerances
from ._softmax import axis_errors, axis_samples


def reference(output, input, dim) -> None:
    if output.size:
        shifted, log_sum = log_sum_exp_parts(f64(input), dim)
        store(output, shifted - log_sum)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from axis_samples(rng, FLOATS64, "output", "input", "dim")


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    yield from axis_errors(rng, "output", "input", "dim")


log_softmax = Operator(
    name="log_softmax",
    symbol="LogSoftmax",
    summary="Logarithm of the softmax along one axis.",
    axes={"shape": "any number of axes, at least one"},
    dtypes={"T": FLOATS64},
    tensors=(
        Tensor("output", Role.OUT, "*shape", "T", doc="log-probabilities"),
        Tensor("input", Role.IN, "*shape", "T", doc="logits"),
    ),
    attrs=(Attr("dim", "int", default=-1, doc="the axis; negative counts from the end"),),
    constraints=(Constraint("-ndim(shape) <= dim and dim < ndim(shape)", "dim", "an axis of input", Status.BAD_PARAM),),
    aliases=(("output", "input"),),
    semantics=(
        "output = (input - max(input)) - log(sum(exp(input - max(input)))) along the axis, in this order.",
        "Minus infinity stays; a row of minus infinities, or with plus infinity or NaN in it, gives NaN.",
        "F16 and BF16 are computed in f32, F32 and F64 in their own type; one rounding at the store.",
        "output may be input, with the same strides.",
        "Without elements nothing is touched.",
    ),
    tolerances=tolerances(f32=(5e-6, 1e-6), f64=(1e-13, 1e-13), half_atol=1e-5),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
