"""Rotary position embedding: the frequencies of each type, and the sine and cosine tables on the device.

Formulas: default and linear as in RoFormer (arXiv 2104.09864) with position interpolation (2306.15595); dynamic is
NTK-aware scaling; yarn is arXiv 2309.00071, sections 3.2 and 3.4; longrope is arXiv 2402.13753; llama3 is Llama 3.1's
smoothed scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

if TYPE_CHECKING:
    from .buffers import Buffers

Frequencies = tuple[np.ndarray, float]  # radians per token `[head_dim / 2]`, factor on sine and cosine

# Types whose frequencies depend on a sequence's length once it is longer than the original context.
LENGTH_DEPENDENT = ("dynamic", "longrope")

_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (),
    "longrope": ("short_factor", "long_factor"),
}


_NUMBERS = (
    "factor", "rope_theta", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "beta_fast",
    "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
)  # fmt: skip


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def rope_problem(parameters: Mapping[str, Any], head_dim: int) -> str | None:
    """What is wrong with rope parameters, as a sentence; None when nothing is."""
    kind = parameters["rope_type"]
    if kind not in _NEEDED:
        return f"rope_type {kind!r} is unknown: supported are {', '.join(_NEEDED)}"
    for name in _NEEDED[kind]:
        if parameters.get(name) is None:
            return f"rope_type {kind!r} needs {name}"
    for name in _NUMBERS:
        if parameters.get(name) is not None and not _is_positive(parameters[name]):
            return f"rope {name} must be positive, got {parameters[name]!r}"
    for name in ("short_factor", "long_factor") if kind == "longrope" else ():
        factors = parameters[name]
        numbers = isinstance(factors, list | tuple) and all(map(_is_positive, factors))
        if not numbers or len(factors) != head_dim // 2:
            return f"rope {name} must be a list of head_dim / 2 = {head_dim // 2} positive numbers, got {factors!r}"
    if kind == "dynamic" and head_dim == 2:
        return "rope_type 'dynamic' needs a head_dim of more than 2"
    if kind == "yarn" and parameters["rope_theta"] == 1:
        return "rope_type 'yarn' needs a rope_theta other than 1"
    if kind == "llama3" and parameters["high_freq_factor"] <= parameters["low_freq_factor"]:
        return "rope high_freq_factor must be larger than low_freq_factor"
    return None


def _base_frequencies(theta: float, head_dim: int) -> np.ndarray:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _default(p: Mapping[str, Any], head_dim: int, length: int) -> Frequencies:
    return _base_frequencies(p["rope_theta"], head_dim), 1.0


def _linear(p: Mapping[str, Any], head_dim: int, length: int) -> Frequencies:
    return _base_frequencies(p["rope_theta"], head_dim) / p["factor"], 1.0


def _dynamic(p: Mapping[str, Any], head_dim: int, length: int) -> Frequencies:
    trained, factor = p["max_position_embeddings"], p["factor"]
    stretch = factor * max(length, trained) / trained - (factor - 1)
    return _base_frequencies(p["rope_theta"] * stretch ** (head_dim / (head_dim - 2)), head_dim), 1.0


def _llama3(p: Mapping[str, Any], head_dim: int, length: int) -> Frequencies:
    frequencies = _base_frequencies(p["rope_theta"], head_dim)
    low, high = p["low_freq_factor"], p["high_freq_factor"]
    turns = p["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    # 0 where a wave is longer than the context allows (fully interpolated), 1 where it is short (untouched).
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * frequencies / p["factor"] + smooth * frequencies, 1.0


def _yarn(p: Mapping[str, Any], head_dim: int, length: int) -> Frequencies:
    theta, original = p["rope_theta"], p["original_max_position_embeddings"]
    factor = p.get("factor") or p["max_position_embeddings"] / original

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(p.get("beta_fast") or 32), dimension(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / ((high - low) or 0.001), 0.0, 1.0)
    frequencies = _base_frequencies(theta, head_dim)
    return frequencies / factor * ramp + frequencies * (1 - ramp), _yarn_attention_factor(p, factor)


def _yarn_attention_factor(p: Mapping[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return scale(p["mscale"]) / scale(p["mscale_all_dim"])
    return scale(1.0)


def _longrope(p: Mapping[str, Any], head_dim: int, length: int) -> Frequencies:
    original = p["original_max_position_embeddings"]
    factor = p.get("factor") or p["max_position_embeddings"] / original
    attention = p.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    divisor = np.asarray(p["long_factor" if length > original else "short_factor"], np.float64)
    return _base_frequencies(p["rope_theta"], head_dim) / divisor, float(attention)


_TYPES: dict[str, Callable[[Mapping[str, Any], int, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def frequencies(parameters: Mapping[str, Any], head_dim: int, length: int = 0) -> Frequencies:
    """Radians per token `[head_dim / 2]`, and the factor on sine and cosine, for a sequence of `length` tokens."""
    return _TYPES[parameters["rope_type"]](parameters, head_dim, length)


def _sin_cos(frequency: np.ndarray, positions: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    angles = positions.astype(np.float64)[:, None] * frequency
    return np.sin(angles) * factor, np.cos(angles) * factor


class RotaryTables:
    """Sine and cosine tables `[length, head_dim / 2]` on the device: computed once in float64, then rounded."""

    def __init__(self, parameters: Mapping[str, Any], head_dim: int, dtype: Any, device: Any):
        self._parameters, self._head_dim, self._dtype, self._device = parameters, head_dim, dtype, device
        dependent = parameters["rope_type"] in LENGTH_DEPENDENT
        kind = parameters["rope_type"]
        bound = "max_position_embeddings" if kind == "dynamic" else "original_max_position_embeddings"
        self._original: int | None = parameters[bound] if dependent else None
        self._length = 0

    def ensure(self, length: int) -> None:
        """Makes the tables long enough for positions below `length`."""
        if self._original is not None:
            length = min(length, self._original)
        if length > self._length:
            self._length = max(length, min(2 * self._length, self._parameters["max_position_embeddings"]))
            sin, cos = _sin_cos(*self._at(0, np.arange(self._length)))
            self.sin, self.cos = self._upload(sin), self._upload(cos)

    def lookup(self, positions: np.ndarray, lengths: np.ndarray, offsets: np.ndarray, buffers: Buffers):
        """(row of each token `[ntok]`, sine table, cosine table) for a batch.

        `lengths[r]` is how many tokens request r has with this step, `offsets` where its tokens begin. Where
        frequencies depend on the length, each request gets those of its own, whoever shares its batch.
        """
        if self._original is not None and len(lengths) and int(lengths.max()) > self._original:
            return self._rows(positions, lengths, offsets, buffers)
        self.ensure(max(positions.tolist(), default=0) + 1)
        return positions, self.sin, self.cos

    def _rows(self, positions: np.ndarray, lengths: np.ndarray, offsets: np.ndarray, buffers: Buffers):
        sin = np.empty((len(positions), self._head_dim // 2), self._dtype.numpy)
        cos = np.empty_like(sin)
        for r, length in enumerate(lengths.tolist()):
            tokens = slice(offsets[r], offsets[r + 1])
            sin[tokens], cos[tokens] = _sin_cos(*self._at(length, positions[tokens]))
        return np.arange(len(positions), dtype=np.int32), buffers.put("rope_sin", sin), buffers.put("rope_cos", cos)

    def _at(self, length: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        frequency, factor = frequencies(self._parameters, self._head_dim, length)
        return frequency, positions, factor

    def _upload(self, table: np.ndarray):
        return infiniop.from_numpy(table.astype(self._dtype.numpy)).to(self._device)
