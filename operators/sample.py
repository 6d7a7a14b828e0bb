"""sample: draw one token per request, every parameter in a device tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    F64,
    FLOATS,
    I8,
    I32,
    I64,
    U64,
    BadValue,
    Constraint,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, layout

from ._samples import Errors

# What f32 weights and their sums may shift a boundary by, as a share of the whole mass.
SLACK = 1e-6

_WORD = 0xFFFFFFFF


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four words from a counter of four and a key of two."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = right >> 32 ^ c1 ^ k0, right & _WORD, left >> 32 ^ c3 ^ k1, left & _WORD
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return c0, c1, c2, c3


def uniform_number(seed: int, position: int) -> float:
    """In [0, 1), 24 bits."""
    counter = (position & _WORD, position >> 32 & _WORD, 0, 0)
    return (philox(counter, (seed & _WORD, seed >> 32 & _WORD))[0] >> 8) * 2.0**-24


def weights(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """exp((l - max) / temperature) of the tokens that the filters keep, 0 for the others."""
    x = logits.astype(np.float64)
    kept = np.ones(len(x), bool)
    if 0 < top_k < len(x):
        kept = x >= np.partition(x, -top_k)[-top_k]
    with np.errstate(over="ignore"):
        mass = np.where(kept, np.exp((x - x.max()) / temperature), 0.0)
    if top_p < 1:
        order = np.argsort(-mass, kind="stable")
        before = np.cumsum(mass[order]) - mass[order]
        mass[order[before >= top_p * mass.sum()]] = 0.0
    if min_p > 0:
        mass[mass < min_p] = 0.0
    return mass


def draw(logits, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, position: int) -> int:
    if temperature == 0 or not _is_ordinary(logits):
        return int(np.argmax(logits))
    sums = np.cumsum(weights(logits, temperature, top_k, top_p, min_p))
    return int(np.searchsorted(sums, uniform_number(seed, position) * sums[-1], side="right"))


def _is_ordinary(logits) -> bool:
    """No NaN, and a finite maximum."""
    return math.isfinite(float(np.max(logits.astype(np.float64))))


_LEGAL = {
    "temperature": ("finite values from 0 upwards", lambda v: 0 <= v < math.inf),
    "top_p": ("values above 0", lambda v: v > 0),
    "min_p": ("values up to 1", lambda v: v <= 1),
}


def reference(tokens, logits, temperature, top_k, top_p, min_p, seed, position) -> None:
    for name, values in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        expected, legal = _LEGAL[name]
        for i, value in enumerate(values.tolist()):
            if not legal(value):
                raise BadValue(name, expected, f"{value} at [{i}]")
    for i, row in enumerate(_rows(temperature, top_k, top_p, min_p, seed, position)):
        tokens[i] = draw(logits[i], *row)


def _rows(*columns: np.ndarray):
    return zip(*(column.tolist() for column in columns), strict=True)


def compare(expected, actual, inputs, attrs) -> str | None:
    """The reference's token, or one that it draws after boundaries shift by `SLACK`; argmax is exact."""
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "position")
    for i, row in enumerate(_rows(*(inputs[n] for n in names))):
        want, got = int(expected["tokens"][i]), int(actual["tokens"][i])
        if got != want and not _is_as_good(got, inputs["logits"][i], *row):
            return f"tokens at [{i}]: expected {want}, got {got}"
    return None


def _is_as_good(token, logits, temperature, top_k, top_p, min_p, seed, position) -> bool:
    if not 0 <= token < len(logits):
        return False
    if not _is_ordinary(logits):
        return True
    if temperature == 0:
        return False
    u = uniform_number(seed, position)
    for p in {top_p, top_p - SLACK, top_p + SLACK}:
        for m in {min_p, min_p * (1 - SLACK), min_p * (1 + SLACK)}:
            mass = weights(logits, temperature, top_k, p, m)
            sums = np.cumsum(mass)
            low, slack = sums[token] - mass[token], SLACK * sums[-1]
            if mass[token] > 0 and low - slack <= u * sums[-1] <= sums[token] + slack:
                return True
    return False


# temperature, top_k, top_p, min_p
_SETTINGS = (
    (0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (0.7, 40, 1.0, 0.0), (1.0, 0, 0.9, 0.0), (1.0, 0, 1.0, 0.05),
    (0.8, 50, 0.95, 0.02), (1.5, 5, 0.5, 0.3), (1.0, 1, 1.0, 0.0), (2.0, -1, 0.01, -1.0), (0.1, 3, 0.99, 1.0),
    (100.0, 1000, 0.7, 0.001),
    (0.01, 0, 0.8, 0.0), (1.0, 10**6, 2.0, -0.5), (0.0, 5, 0.2, 0.9), (1e-6, 0, 1.0, 0.0), (0.6, 20, 0.95, 0.0),
)  # fmt: skip


def _arguments(
    rng,
    dtype: DType,
    nreq: int,
    vocab: int,
    kind="normal",
    index=I64,
    seeds=I64,
    strides=None,
    start=0,
    token_stride=None,
):
    logits = layout((nreq, vocab), strides, dtype)
    values = rng.integers(-3, 3, (nreq, vocab)) if kind == "ties" else rng.normal(0, 3, (nreq, vocab))
    logits[...] = values.astype(dtype.numpy)
    columns = [_SETTINGS[(start + i) % len(_SETTINGS)] for i in range(nreq)]
    temperature, top_k, top_p, min_p = zip(*columns, strict=True) if columns else ([],) * 4
    bits = rng.integers(0, 2**64, nreq, np.uint64)
    return {
        "tokens": empty((nreq,), index, token_stride),
        "logits": logits,
        "temperature": np.array(temperature, np.float32),
        "top_k": np.array(top_k, np.int32),
        "top_p": np.array(top_p, np.float32),
        "min_p": np.array(min_p, np.float32),
        "seed": bits.view(np.int64) if seeds is I64 else bits,
        "position": rng.integers(0, 100_000, nreq),
    }


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Settings that are legal, one per request."""
    nreq = len(sample.array("tokens"))
    rows = [_SETTINGS[i] for i in rng.integers(len(_SETTINGS), size=nreq)]
    for name, column in zip(("temperature", "top_k", "top_p", "min_p"), zip(*rows, strict=True), strict=False):
        sample.array(name)[...] = column
    sample.array("seed")[...] = rng.integers(0, 2**63, nreq)
    return sample


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for nreq, vocab in ((1, 1), (16, 2), (16, 7), (32, 64), (33, 65), (16, 257), (48, 1000), (16, 4099)):
            for kind in ("normal", "ties"):
                yield Sample(f"{dtype.name}-{kind}-{nreq}x{vocab}", _arguments(rng, dtype, nreq, vocab, kind))
        yield Sample(f"{dtype.name}-i32", _arguments(rng, dtype, 16, 300, index=I32))
        yield Sample(f"{dtype.name}-u64", _arguments(rng, dtype, 16, 300, seeds=U64))
        yield Sample(f"{dtype.name}-row-gaps", _arguments(rng, dtype, 16, 65, strides=(80, 1)))
        yield Sample(f"{dtype.name}-token-gaps", _arguments(rng, dtype, 16, 65, token_stride=(2,)))
        yield Sample(f"{dtype.name}-rows-reversed", _arguments(rng, dtype, 16, 65, strides=(-65, 1)))
        yield Sample(f"{dtype.name}-no-requests", _arguments(rng, dtype, 0, 65))
        one = _arguments(rng, dtype, 64, 100)
        one["logits"] = np.broadcast_to(one["logits"][:1], (64, 100))
        for name, i in (("temperature", 0), ("top_k", 1), ("top_p", 2), ("min_p", 3)):
            one[name][...] = _SETTINGS[5][i]
        one["seed"][...] = 42
        one["position"][...] = np.arange(64)
        yield Sample(f"{dtype.name}-positions", one)
        forbidden = _arguments(rng, dtype, 16, 130)
        forbidden["logits"][:, ::3] = -np.inf
        yield Sample(f"{dtype.name}-minus-infinity", forbidden)
        equal = _arguments(rng, dtype, 16, 130)
        equal["logits"][...] = 1.5
        yield Sample(f"{dtype.name}-all-equal", equal)
        large = _arguments(rng, dtype, 6, 128_256, start=4)
        yield Sample(f"{dtype.name}-6x128256", large, tags=frozenset({"large"}))
    unordinary = _arguments(rng, F32, 48, 50)
    unordinary["logits"][::3, 7] = np.nan
    unordinary["logits"][1::3] = -np.inf
    unordinary["logits"][2::3, 11] = np.inf
    yield Sample("no-distribution", unordinary, tags=frozenset({"nan"}))
    far = _arguments(rng, F32, 16, 50)
    far["position"][...] = rng.integers(-(2**63), 2**63 - 1, 16)
    yield Sample("positions-of-64-bits", far)


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, 3, 20, start=1)
    error = Errors(good)
    yield from error.nulls()
    yield error("tokens-i8", Status.BAD_TENSOR_DTYPE, "tokens", tokens=empty((3,), I8))
    yield error("logits-f64", Status.BAD_TENSOR_DTYPE, "logits", logits=empty((3, 20), F64))
    for name in ("temperature", "top_p", "min_p"):
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty((3,), F16)})
    for name in ("top_k", "seed", "position"):
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty((3,), F32)})
    yield error("logits-rank", Status.BAD_TENSOR_SHAPE, "logits", logits=empty((20,), F32))
    yield error("logits-rows", Status.BAD_TENSOR_SHAPE, "logits", logits=empty((4, 20), F32))
    yield error("no-vocabulary", Status.BAD_TENSOR_SHAPE, "logits", logits=empty((3, 0), F32))
    yield error("logits-stride", Status.BAD_TENSOR_STRIDES, "logits", logits=empty((3, 20), F32, (40, 2)))
    yield error("tokens-broadcast", Status.BAD_TENSOR_STRIDES, "tokens", tokens=empty((3,), I64, (0,)))
    for name, array in good.items():
        if name not in ("tokens", "logits"):
            yield error(f"{name}-extent", Status.BAD_TENSOR_SHAPE, name, **{name: np.zeros(4, array.dtype)})
            yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: np.zeros((3, 1), array.dtype)})
    for name, values in (
        ("temperature", (-1.0, math.nan, math.inf)), ("top_p", (0.0, -0.5, math.nan)), ("min_p", (1.5, math.nan)),
    ):  # fmt: skip
        for value in values:
            changed = good[name].copy()
            changed[1] = value
            yield error(f"{name}-{value}", Status.BAD_PARAM, name, at="run", **{name: changed})


def _parameter(name: str, dtype: str, doc: str) -> Tensor:
    return Tensor(name, Role.IN, "nreq", dtype, Strides.ANY, doc)


sample = Operator(
    name="sample",
    symbol="Sample",
    summary="Draw one token per request, with the request's own parameters.",
    axes={"nreq": "requests", "vocab": "tokens to choose from"},
    dtypes={"I": (I64, I32), "T": FLOATS, "S": (I64, U64)},
    tensors=(
        Tensor("tokens", Role.OUT, "nreq", "I", doc="the tokens"),
        Tensor("logits", Role.IN, "nreq vocab", "T", Strides.UNIT_LAST, "logits"),
        _parameter("temperature", F32.name, "divides the logits; 0: the largest logit wins"),
        _parameter("top_k", I32.name, "tokens to keep; 0 or less: all"),
        _parameter("top_p", F32.name, "share of the mass to keep; 1 or more: all"),
        _parameter("min_p", F32.name, "least probability to keep, as a share of the largest; 0 or less: all"),
        _parameter("seed", "S", "64 bits that belong to the request"),
        _parameter("position", I64.name, "number of the token in its request: every one draws anew"),
    ),
    constraints=(Constraint("vocab > 0", "logits", "at least one token"),),
    semantics=(
        "Filters in the order of transformers: temperature, top-k, top-p, min-p. With x = logits / temperature:",
        "top-k keeps x >= the k-th largest, ties included; top-p keeps, of what is left in descending order (equal "
        "ones: lower index first), the tokens before which less than top_p of the mass lies; min-p keeps "
        "probabilities of at least min_p times the largest.",
        "u = (r >> 8) * 2^-24, with r the first word of Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) of the key "
        "(seed low, seed high) and the counter (position low, position high, 0, 0). The token is the first, in "
        "vocabulary order, at which the sum of the kept weights exceeds u times their total.",
        "So a request gets the same tokens in any batch, and a replayed graph that finds a new position draws anew.",
        "temperature == 0 is argmax, the lowest index wins, whatever the filters say.",
        "A temperature that is negative, infinite or NaN, a top_p that is 0, negative or NaN, a min_p above 1 or NaN "
        "is BAD_PARAM on the CPU, before anything is written; other devices write -1 for the row.",
        "With a NaN, or without a finite maximum, among a row's logits, its token is some valid index.",
        "Weights and sums are f32 or wider.",
    ),
    reference=reference,
    complete=complete,
    compare=compare,
    samples=samples,
    error_samples=error_samples,
    own=True,
)
