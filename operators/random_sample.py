"""random_sample: draw a token from logits by InfiniCore's rules, and its batch form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS64,
    I8,
    I32,
    I64,
    INTEGERS,
    REQUIRED,
    U8,
    Attr,
    BadValue,
    Constraint,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, layout, uniform

from ._samples import Errors

# What f32 weights and their sums may shift a boundary by, as a share of the whole mass: well below the smallest
# probability of a vocabulary of 151,936 equal logits.
SLACK = 1e-6


def _mass(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices by descending logit (stable) and the prefix sums of their weights."""
    x = logits.astype(np.float64)
    order = np.argsort(-x, kind="stable")
    with np.errstate(invalid="ignore", divide="ignore"):
        return order, np.cumsum(np.exp((x[order] - x[order[0]]) / temperature))


def _is_argmax(random_val: float, topp: float, topk: int, temperature: float) -> bool:
    return random_val == 0 or topp == 0 or topk == 1 or temperature == 0


def _limit(sums: np.ndarray, topp: float, topk: int) -> float:
    cap = sums[min(topk, len(sums)) - 1] if topk > 0 else sums[-1]
    return min(cap, topp * sums[-1])


def draw(logits: np.ndarray, random_val: float, topp: float, topk: int, temperature: float) -> int:
    if _is_argmax(random_val, topp, topk, temperature):
        return int(np.argmax(logits))
    order, sums = _mass(logits, temperature)
    first = int(np.searchsorted(sums, random_val * _limit(sums, topp, topk)))
    return int(order[min(first, len(order) - 1)])


def wrong_draw(token: int, expected: int, logits, random_val, topp, topk, temperature) -> str | None:
    """A sentence when `token` is no right answer, allowing boundaries to shift by `SLACK`."""
    if token == expected:
        return None
    if _is_argmax(random_val, topp, topk, temperature) or not 0 <= token < len(logits):
        return f"expected {expected}, got {token}"
    order, sums = _mass(logits, temperature)
    rank = int(np.flatnonzero(order == token)[0])
    target, slack = random_val * _limit(sums, topp, topk), SLACK * sums[-1]
    low = sums[rank - 1] if rank else 0.0
    if low - slack <= target <= sums[rank] + slack:
        return None
    return f"expected {expected}, got {token}, whose share is {low:g} to {sums[rank]:g} and not {target:g}"


def reference(result, probs, random_val, topp, topk, temperature) -> None:
    result[...] = np.int64(draw(probs, random_val, topp, topk, temperature)).astype(result.dtype)


def compare(expected, actual, inputs, attrs) -> str | None:
    sentence = wrong_draw(int(actual["result"]), int(expected["result"]), inputs["probs"], **attrs)
    return sentence and f"result: {sentence}"


def batch_reference(result, probs, random_val, topp, topk, temperature, batch_size) -> None:
    rows = list(zip(random_val, topp, topk, temperature, strict=True))
    for i, row in enumerate(rows):
        for name, value in zip(("random_val", "topp", "topk", "temperature"), row, strict=True):
            expected = {"random_val": "values from 0 to 1", "topk": "values other than 0"}.get(
                name, "values from 0 upwards"
            )
            if not _valid(name, value, row):
                raise BadValue(name, expected, f"{value} at [{i}]")
    for i, (value, p, k, t) in enumerate(rows):
        result[i] = np.int64(draw(probs[i], float(value), float(p), int(k), float(t))).astype(result.dtype)


def _valid(name: str, value, row) -> bool:
    if name == "topk":
        random_val, topp, topk, temperature = row
        return topk != 0 or _is_argmax(random_val, topp, topk, temperature)
    return 0 <= value <= 1 if name == "random_val" else value >= 0


def batch_compare(expected, actual, inputs, attrs) -> str | None:
    rows = zip(attrs["random_val"], attrs["topp"], attrs["topk"], attrs["temperature"], strict=True)
    for i, (value, p, k, t) in enumerate(rows):
        token, want = int(actual["result"][i]), int(expected["result"][i])
        sentence = wrong_draw(token, want, inputs["probs"][i], float(value), float(p), int(k), float(t))
        if sentence:
            return f"result at [{i}]: {sentence}"
    return None


# vocabulary, random_val, topp, topk, temperature
_CASES = (
    (512, 0.8, 0.8, 3, 0.5), (4096, 0.05, 0.9, 5, 1.0), (16384, 0.15, 0.85, 10, 2.0), (512, 0.08, 0.0, 3, 0.5),
    (4096, 0.5, 0.9, 1, 1.0), (16384, 0.15, 0.0, 1, 2.0), (32000, 0.08, 0.8, 50, 1.0), (32000, 0.08, 1.0, 25, 1.0),
    (151936, 0.5, 1.0, 1, 1.0), (1, 0.5, 0.9, 5, 1.0), (2, 0.9, 1.0, -1, 1.0), (7, 0.3, 0.5, 3, 0.7),
    (33, 0.99, 1.0, 40, 1.0), (65, 0.6, 0.05, -1, 1.0), (257, 1.0, 1.0, 20, 1.0), (257, 1.0, 1.0, -1, 1.0),
    (257, 0.999999, 0.7, 0x7FFFFFFF, 1.5),
    (1025, 0.4, 2.0, -5, 0.1), (1000, 0.7, 0.95, 40, 0.01), (1000, 0.7, 0.95, 40, 100.0), (100, 0.0, 0.9, 5, 1.0),
    (100, 0.5, 0.9, 5, 0.0), (100, 0.5, 0.9, 0, 0.0), (4099, 0.35, 0.6, 1000, 1.0),
)  # fmt: skip


def _logits(rng: np.random.Generator, shape, dtype, kind: str) -> np.ndarray:
    if kind == "steps":
        steps = rng.permuted(np.tile(np.arange(shape[-1]), (*shape[:-1], 1)), axis=-1)
        return (0.0001 * steps).astype(dtype.numpy)
    if kind == "ties":
        return rng.integers(-3, 3, shape).astype(dtype.numpy)
    return rng.normal(0, 3, shape).astype(dtype.numpy)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS64:
        for case in _CASES:
            vocab, *values = case
            for kind in ("steps", "ties", "normal") if vocab <= 5000 else ("steps",):
                tensors = {"result": empty((), I32), "probs": _logits(rng, (vocab,), dtype, kind)}
                attrs = dict(zip(("random_val", "topp", "topk", "temperature"), values, strict=True))
                yield Sample(f"{dtype.name}-{kind}-{'-'.join(map(str, case))}", tensors, attrs)
        forbidden = _logits(rng, (300,), dtype, "normal")
        forbidden[::2] = -np.inf
        attrs = {"random_val": 0.9, "topp": 1.0, "topk": -1, "temperature": 1.0}
        yield Sample(f"{dtype.name}-minus-infinity", {"result": empty((), I64), "probs": forbidden}, attrs)
    for index in INTEGERS:
        tensors = {"result": empty((), index), "probs": _logits(rng, (100,), F32, "normal")}
        attrs = {"random_val": 0.6, "topp": 0.9, "topk": 20, "temperature": 1.0}
        yield Sample(f"result-{index.name}", tensors, attrs)
    for index in (I8, U8):
        ramp = np.arange(1000, dtype=np.float32)
        attrs = {"random_val": 0.0, "topp": 1.0, "topk": 1, "temperature": 1.0}
        yield Sample(f"truncated-{index.name}", {"result": empty((), index), "probs": ramp}, attrs)


def batch_samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(name, dtype, batch, vocab, kind="normal", strides=None, index=I32, result_stride=None):
        probs = layout((batch, vocab), strides, dtype)
        probs[...] = _logits(rng, (batch, vocab), dtype, kind)
        cases = [_CASES[i % len(_CASES)][1:] for i in range(batch)]
        columns = list(zip(*cases, strict=True)) if batch else [()] * 4
        attrs = {
            n: np.array(column, np.int32 if n == "topk" else np.float32)
            for n, column in zip(("random_val", "topp", "topk", "temperature"), columns, strict=True)
        }
        result = empty((batch,), index, result_stride)
        return Sample(f"{dtype.name}-{name}", {"result": result, "probs": probs}, {**attrs, "batch_size": batch})

    for dtype in FLOATS64:
        for batch, vocab in ((1, 1), (4, 512), (8, 4096), (2, 16384), (24, 257), (25, 33)):
            for kind in ("steps", "ties", "normal"):
                yield sample(f"{kind}-{batch}x{vocab}", dtype, batch, vocab, kind)
        yield sample("row-gaps", dtype, 24, 65, strides=(80, 1))
        yield sample("rows-reversed", dtype, 24, 65, strides=(-65, 1))
        yield sample("result-gaps", dtype, 24, 65, index=I64, result_stride=(3,))
        yield sample("no-rows", dtype, 0, 65)
    for index in INTEGERS:
        yield sample(f"result-{index.name}", F32, 24, 100, index=index)


_BAD_VALUES = (
    ("random_val", -0.5), ("random_val", 1.5), ("random_val", float("nan")), ("topp", -0.5), ("topp", float("nan")),
    ("topk", 0), ("temperature", -1.0), ("temperature", float("nan")),
)  # fmt: skip


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    attrs = {"random_val": 0.5, "topp": 0.9, "topk": 5, "temperature": 1.0}
    error = Errors({"result": empty((), I32), "probs": uniform(rng, (20,), F32)}, attrs)
    yield from error.nulls()
    yield error("result-floats", Status.BAD_TENSOR_DTYPE, "result", result=empty((), F32))
    yield error("probs-integers", Status.BAD_TENSOR_DTYPE, "probs", probs=empty((20,), I32))
    yield error("result-rank", Status.BAD_TENSOR_SHAPE, "result", result=empty((1,), I32))
    yield error("probs-rank", Status.BAD_TENSOR_SHAPE, "probs", probs=empty((1, 20), F32))
    yield error("probs-scalar", Status.BAD_TENSOR_SHAPE, "probs", probs=empty((), F32))
    yield error("probs-stride", Status.BAD_TENSOR_STRIDES, "probs", probs=empty((20,), F32, (2,)))
    yield error("no-vocabulary", Status.BAD_PARAM, "probs", probs=empty((0,), F32))
    for name, value in _BAD_VALUES:
        yield error(f"{name}-{value}", Status.BAD_PARAM, name, at="run", attrs={name: value})


def batch_error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = {"random_val": [0.5, 0.4], "topp": [0.9, 0.8], "temperature": [1.0, 0.7]}
    attrs = {n: np.array(v, np.float32) for n, v in good.items()} | {
        "topk": np.array([5, 6], np.int32),
        "batch_size": 2,
    }
    error = Errors({"result": empty((2,), I32), "probs": uniform(rng, (2, 20), F32)}, attrs)
    yield from error.nulls()
    yield error("result-floats", Status.BAD_TENSOR_DTYPE, "result", result=empty((2,), F16))
    yield error("probs-integers", Status.BAD_TENSOR_DTYPE, "probs", probs=empty((2, 20), I32))
    yield error("result-rank", Status.BAD_TENSOR_SHAPE, "result", result=empty((), I32))
    yield error("result-broadcast", Status.BAD_TENSOR_STRIDES, "result", result=empty((2,), I32, (0,)))
    yield error("probs-rank", Status.BAD_TENSOR_SHAPE, "probs", probs=empty((20,), F32))
    yield error("probs-rows", Status.BAD_TENSOR_SHAPE, "probs", probs=empty((3, 20), F32))
    yield error("probs-stride", Status.BAD_TENSOR_STRIDES, "probs", probs=empty((2, 20), F32, (40, 2)))
    yield error("no-vocabulary", Status.BAD_PARAM, "probs", probs=empty((2, 0), F32))
    for size in (1, 3, -1):
        yield error(f"batch-size-{size}", Status.BAD_PARAM, "batch_size", at="run", attrs={"batch_size": size})
    for name, value in _BAD_VALUES:
        values = np.array(attrs[name])
        values[1] = value
        yield error(f"{name}-{value}", Status.BAD_PARAM, name, at="run", attrs={name: values})


_RULES = (
    "Argmax, of which the lowest index wins, when random_val == 0, topp == 0, topk == 1 or temperature == 0.",
    "Else, with the logits in descending order (stable: lower index first), w_i = exp((l_i - l_0) / temperature) and "
    "prefix sums C: limit = min(C of the first topk, topp * C of all); the result is the first i with C_i >= "
    "random_val * limit, at the latest the last index.",
    "topk < 0 or >= vocab, and topp >= 1, limit nothing. Nothing is renormalised (not as transformers does; see "
    "sample).",
    "topk == 0 outside argmax mode, a random_val outside [0, 1] and a negative or NaN topp or temperature are "
    "BAD_PARAM.",
    "With a NaN among the logits the result is some valid index. An index that result's type cannot hold is truncated.",
    "Weights and sums are f32 or wider.",
)


def _attrs(length: str | None, *docs: str) -> tuple[Attr, ...]:
    names = (
        ("random_val", "float", REQUIRED), ("topp", "float", 1.0), ("topk", "int", -1), ("temperature", "float", 1.0),
    )  # fmt: skip
    return tuple(
        Attr(name, ctype, "run", REQUIRED if length else default, doc, length)
        for (name, ctype, default), doc in zip(names, docs, strict=True)
    )


_DOCS = ("uniform random number in [0, 1]", "share of the mass to keep", "entries to keep", "divides the logits")

random_sample = Operator(
    name="random_sample",
    symbol="RandomSample",
    summary="Draw a token from logits.",
    axes={"vocab": "tokens to choose from"},
    dtypes={"I": INTEGERS, "T": FLOATS64},
    tensors=(
        Tensor("result", Role.OUT, "", "I", doc="the token"),
        Tensor("probs", Role.IN, "vocab", "T", Strides.UNIT_LAST, "logits"),
    ),
    attrs=_attrs(None, *_DOCS),
    constraints=(
        Constraint("vocab > 0", "probs", "at least one token", Status.BAD_PARAM),
        Constraint("random_val >= 0 and random_val <= 1", "random_val", "a value from 0 to 1", Status.BAD_PARAM, "run"),
        Constraint("topp >= 0", "topp", "a value from 0 upwards", Status.BAD_PARAM, "run"),
        Constraint("temperature >= 0", "temperature", "a value from 0 upwards", Status.BAD_PARAM, "run"),
        Constraint(
            "topk != 0 or random_val == 0 or topp == 0 or temperature == 0", "topk", "a value other than 0",
            Status.BAD_PARAM, "run",
        ),
    ),
    infer={"I": "I32"},
    semantics=_RULES,
    reference=reference,
    compare=compare,
    samples=samples,
    error_samples=error_samples,
)  # fmt: skip

random_sample_batch = Operator(
    name="random_sample_batch",
    symbol="RandomSampleBatch",
    summary="Draw one token per row of logits.",
    axes={"batch": "rows", "vocab": "tokens to choose from"},
    dtypes={"I": INTEGERS, "T": FLOATS64},
    tensors=(
        Tensor("result", Role.OUT, "batch", "I", doc="the tokens"),
        Tensor("probs", Role.IN, "batch vocab", "T", Strides.UNIT_LAST, "logits"),
    ),
    attrs=(*_attrs("batch", *_DOCS), Attr("batch_size", "int", "run", doc="entries of the arrays: the rows of probs")),
    constraints=(
        Constraint("vocab > 0", "probs", "at least one token", Status.BAD_PARAM),
        Constraint("batch_size == batch", "batch_size", "the rows of probs", Status.BAD_PARAM, "run"),
    ),
    infer={"I": "I32"},
    semantics=(
        "Row i is drawn as random_sample does, with entry i of each array. The arrays are in host memory.",
        *_RULES,
    ),
    reference=batch_reference,
    compare=batch_compare,
    samples=batch_samples,
    error_samples=batch_error_samples,
    shares="random_sample",
    header="random_sample.h",
)
