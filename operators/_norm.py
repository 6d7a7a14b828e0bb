"""What rms_norm and add_rms_norm share."""

from __future__ import annotations

import numpy as np

from infiniop.schema import BF16, F16, F32, F64, Constraint, DType, Status

from ._floats import c_float, tolerances

# (activation, weight): half activations take any weight up to F32, F32 and F64 their own.
DTYPES: tuple[tuple[DType, DType], ...] = (
    *((t, w) for t in (F16, BF16) for w in (F16, BF16, F32)), (F32, F32), (F64, F64),
)  # fmt: skip

WEIGHT_DTYPE = "W == T or T in (F16, BF16) and W in (F16, BF16, F32)"
WEIGHT_EXPECTED = "the activations' dtype, or F16, BF16 or F32 for F16 and BF16 activations"

RMS_TOLERANCES = tolerances(f32=(1e-7, 1e-5))


def weight_constraint(argument: str) -> Constraint:
    return Constraint(WEIGHT_DTYPE, argument, WEIGHT_EXPECTED, Status.BAD_TENSOR_DTYPE)


def reciprocal_rms(x: np.ndarray, epsilon: float) -> np.ndarray:
    """1 / sqrt(mean(x²) + epsilon) over the last axis."""
    with np.errstate(divide="ignore"):
        return 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + c_float(epsilon))
