"""Arithmetic that several references share, and the tolerances that follow from it."""

from __future__ import annotations

import numpy as np

from infiniop.schema import BF16, F16, F32, F64

# One rounding of an f32 result that is itself a few units off can land on the neighbour: one unit in the last place
# is 2^-10 of the value for F16 and 2^-7 for BF16.
F16_ULP, BF16_ULP = 1e-3, 8e-3


def tolerances(f32: tuple[float, float], f64: tuple[float, float] = (1e-14, 1e-12), half_atol: float = 1e-6):
    """(atol, rtol) by dtype for a result that is computed in f32 (F64: in f64) and rounded once."""
    return {F16: (half_atol, F16_ULP), BF16: (half_atol, BF16_ULP), F32: f32, F64: f64}


def f64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def c_float(value: float) -> float:
    """An attribute as a C `float` carries it."""
    return float(np.float32(value))


def store(output: np.ndarray, values: np.ndarray) -> None:
    """Round to the output's type; what is too large becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        output[...] = values.astype(output.dtype)


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)); NaN at minus infinity, as the formula says."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x / (1.0 + np.exp(-x))


def log_sum_exp_parts(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """x - max and log Σ exp(x - max) along an axis; NaN where the maximum is infinite."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted, np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x - max) / Σ exp(x - max) along an axis."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)
