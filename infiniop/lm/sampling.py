"""Choosing the next token: parameters per request, the `sample` operator, and its equal on the host."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from infiniop import ops
from infiniop.schema import I64

from .arrays import infini_to_numpy

if TYPE_CHECKING:
    from infiniop import Tensor

    from .buffers import Buffers


@dataclass(frozen=True)
class SamplingParams:
    """Filters apply in the order of the fields. Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 filter nothing.

    The same seed gives a request the same tokens in any batch. Without one, a random seed is taken.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        require(self, Real, "a number", "temperature", "top_p", "min_p")
        require(self, Integral, "an integer", "top_k", "seed")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be between 0 and 1, got {self.min_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0: no limit), got {self.top_k}")

    def seeded(self) -> Self:
        return self if self.seed is not None else replace(self, seed=secrets.randbits(63))


def require(params: SamplingParams, kind: type, what: str, *names: str) -> None:
    """These fields must be of a type, where they are not None by default."""
    for name in names:
        value = getattr(params, name)
        optional = value is None and getattr(type(params), name) is None
        if not optional and (isinstance(value, bool) or not isinstance(value, kind)):
            raise TypeError(f"{name} must be {what}, got {value!r}")


NEUTRAL: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # filter nothing


def sampling_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `SamplingParams` but for the seed: what is given, else the default, else what filters nothing.
    None counts as not given."""
    return {k: next(v for v in (given.get(k), defaults.get(k), NEUTRAL[k]) if v is not None) for k in NEUTRAL}


class Sampler:
    """Samples a token per row of logits, on the device where it has the operator: `prepare`, `draw`, `tokens`."""

    def __init__(self, buffers: Buffers, on_device: bool):
        self._buffers = buffers
        self._on_device = on_device
        self._parameters: list[SamplingParams] = []  # what is on the device, so that decode uploads positions only
        self._uploaded: dict[str, Tensor] = {}

    def prepare(self, parameters: Sequence[SamplingParams], positions: np.ndarray) -> None:
        """Says what the next tokens are drawn by; `positions` i64 `[nreq]` are theirs in their sequences."""
        self._positions = positions
        if list(parameters) != self._parameters:
            self._parameters = list(parameters)
            if self._on_device:
                self._uploaded = {
                    n: self._buffers.put(f"sample_{n}", a) for n, a in sampling_columns(parameters).items()
                }
        if self._on_device:
            self._uploaded["position"] = self._buffers.put("sample_position", positions)

    def draw(self, logits: Tensor) -> None:
        """The device's part, for logits `[nreq, vocab]`."""
        if self._on_device:
            tokens = self._buffers.get("sample_tokens", (len(self._parameters),), I64)
            ops.sample(logits, **self._uploaded, out=tokens)

    def tokens(self, logits: Tensor) -> np.ndarray:
        """Tokens i64 `[nreq]`, once `draw` has run."""
        if self._on_device:
            return self._buffers.read("sample_tokens", (len(self._parameters),), I64)
        return sample_on_host(infini_to_numpy(logits), **sampling_columns(self._parameters), position=self._positions)


def sampling_columns(parameters: Sequence[SamplingParams]) -> dict[str, np.ndarray]:
    """One array per parameter, an entry per request: what `sample` takes. What float32 has not is its nearest legal
    value there."""
    finite = np.finfo(np.float32)
    return {
        "temperature": np.array([min(p.temperature, float(finite.max)) for p in parameters], np.float32),
        "top_k": np.array([min(p.top_k, 2**31 - 1) for p in parameters], np.int32),
        "top_p": np.array([max(p.top_p, float(finite.tiny)) for p in parameters], np.float32),
        "min_p": np.array([p.min_p for p in parameters], np.float32),
        "seed": np.array([int(p.seed or 0) & (2**63 - 1) for p in parameters], np.int64),
    }


def sample_on_host(logits, temperature, top_k, top_p, min_p, seed, position) -> np.ndarray:
    """What the `sample` operator computes, for devices that lack it."""
    rows = zip(logits.astype(np.float64), temperature, top_k, top_p, min_p, seed, position, strict=True)
    return np.array([_sample_row(*row) for row in rows], np.int64)


def _sample_row(logits, temperature, top_k, top_p, min_p, seed, position) -> int:
    if temperature == 0 or not math.isfinite(logits.max()):  # without a largest number there is no distribution
        return int(logits.argmax())
    scaled = logits / temperature
    weights = np.exp(scaled - scaled.max())
    if 0 < top_k < len(weights):
        weights[weights < np.partition(weights, -top_k)[-top_k]] = 0.0
    if top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= top_p * weights.sum()]] = 0.0
    weights[weights < min_p * weights.max()] = 0.0
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, uniform(int(seed), int(position)) * cumulative[-1], side="right"))


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of a position: the upper 24 bits of the first word of Philox4x32-10 (Salmon, Moraes,
    Dror, Shaw 2011), key `seed`, counter `position`."""
    low = 0xFFFFFFFF
    counter, key = [position & low, position >> 32 & low, 0, 0], [seed & low, seed >> 32 & low]
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [second >> 32 ^ counter[1] ^ key[0], second & low, first >> 32 ^ counter[3] ^ key[1], first & low]
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    return (counter[0] >> 8) / 2**24
