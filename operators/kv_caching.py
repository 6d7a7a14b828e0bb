"""kv_caching: append new keys and values to a static KV cache, in place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS,
    I32,
    I64,
    BadValue,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, padded, uniform

from ._samples import Errors


def reference(k_cache, v_cache, k, v, past_kv_lengths) -> None:
    smax, snew = k_cache.shape[2], k.shape[2]
    if k.size == 0:
        return
    for b, past in enumerate(past_kv_lengths.tolist()):
        if past < 0 or past + snew > smax:
            raise BadValue(
                "past_kv_lengths", f"lengths that leave room for {snew} new tokens in {smax}", f"{past} at [{b}]"
            )
    for b, past in enumerate(past_kv_lengths.tolist()):
        k_cache[b, :, past : past + snew] = k[b]
        v_cache[b, :, past : past + snew] = v[b]


def _arguments(rng, dtype, batch, nkvh, smax, d, snew, strides=lambda shape: None, lengths=I64):
    def array(tokens):
        shape = (batch, nkvh, tokens, d)
        return uniform(rng, shape, dtype, strides=strides(shape))

    past = rng.integers(0, smax - snew, batch, endpoint=True).astype(lengths.numpy)
    return {"k_cache": array(smax), "v_cache": array(smax), "k": array(snew), "v": array(snew), "past_kv_lengths": past}


def complete(rng: np.random.Generator, sample: Sample) -> Sample | None:
    """Lengths that leave room."""
    room = sample.array("k_cache").shape[2] - sample.array("k").shape[2]
    if room < 0:
        return None
    lengths = sample.array("past_kv_lengths")
    lengths[...] = rng.integers(0, room, len(lengths), endpoint=True)
    return sample


def _token_major(shape):
    """Strides of [batch, token, head, element] memory."""
    _, nkvh, tokens, d = shape
    return (tokens * nkvh * d, d, nkvh * d, 1)


def _transposed(shape):
    """Strides of memory in which the tokens of one element are adjacent."""
    _, nkvh, tokens, d = shape
    return (nkvh * d * tokens, d * tokens, 1, tokens)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    sizes = (
        (1, 1, 8, 1, 1),
        (1, 8, 32, 32, 5),
        (8, 8, 64, 32, 17),
        (3, 2, 9, 33, 9),
        (2, 3, 7, 65, 1),
        (5, 1, 129, 8, 64),
    )
    layouts = {"rows": lambda s: None, "padded": padded, "token-major": _token_major, "transposed": _transposed}
    for dtype in FLOATS:
        for size in sizes:
            for lengths in (I32, I64):
                name = f"{dtype.name}-{lengths.name}-{'x'.join(map(str, size))}"
                yield Sample(name, _arguments(rng, dtype, *size, lengths=lengths))
        for name, strides in layouts.items():
            yield Sample(f"{dtype.name}-{name}", _arguments(rng, dtype, 3, 4, 31, 16, 6, strides))
        yield Sample(f"{dtype.name}-no-new-tokens", _arguments(rng, dtype, 2, 3, 8, 4, 0))
        yield Sample(f"{dtype.name}-no-batch", _arguments(rng, dtype, 0, 3, 8, 4, 2))
    broadcast = _arguments(rng, F32, 3, 4, 31, 16, 6)
    broadcast["k"] = uniform(rng, (3, 4, 6, 16), F32, strides=(0, 96, 16, 1))
    yield Sample("one-k-for-the-batch", broadcast)
    far = _arguments(rng, F16, 2, 1, 3, 5, 2)
    far["k_cache"] = uniform(rng, (2, 1, 3, 5), F16, strides=(2**30 + 3, 15, 5, 1))
    yield Sample("2-GiB-away", far, tags=frozenset({"large"}))
    yield Sample("long", _arguments(rng, F16, 1, 2, 2304, 128, 300), tags=frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, 2, 3, 8, 4, 3))
    yield from error.nulls()
    yield error("integers", Status.BAD_TENSOR_DTYPE, "k_cache", k_cache=empty((2, 3, 8, 4), I32))
    for name in ("v_cache", "k", "v"):
        shape = error.tensors[name].shape
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty(shape, F16)})
        for axis in (0, 1, 3):
            longer = tuple(n + (i == axis) for i, n in enumerate(shape))
            yield error(f"{name}-axis-{axis}", Status.BAD_TENSOR_SHAPE, name, **{name: empty(longer, F32)})
        yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: empty(shape[1:], F32)})
    yield error("v-tokens", Status.BAD_TENSOR_SHAPE, "v", v=empty((2, 3, 2, 4), F32))
    yield error("v-capacity", Status.BAD_TENSOR_SHAPE, "v_cache", v_cache=empty((2, 3, 9, 4), F32))
    yield error(
        "cache-broadcast", Status.BAD_TENSOR_STRIDES, "k_cache", k_cache=empty((2, 3, 8, 4), F32, (0, 32, 4, 1))
    )
    past = {"floats": empty((2,), F32), "short": empty((1,), I64), "rank": empty((2, 1), I64)}
    yield error("lengths-floats", Status.BAD_TENSOR_DTYPE, "past_kv_lengths", past_kv_lengths=past["floats"])
    yield error("lengths-short", Status.BAD_TENSOR_SHAPE, "past_kv_lengths", past_kv_lengths=past["short"])
    yield error("lengths-rank", Status.BAD_TENSOR_SHAPE, "past_kv_lengths", past_kv_lengths=past["rank"])
    yield error("lengths-gaps", Status.BAD_TENSOR_STRIDES, "past_kv_lengths", past_kv_lengths=empty((2,), I64, (2,)))
    for name, values in (("negative", [0, -1]), ("no-room", [6, 0]), ("huge", [0, 2**62])):
        yield error(f"length-{name}", Status.BAD_PARAM, "past_kv_lengths", at="run", past_kv_lengths=np.array(values))


_CACHE = "rows past_kv_lengths[b] to past_kv_lengths[b] + snew - 1 of each sequence; the rest is untouched"

kv_caching = Operator(
    name="kv_caching",
    symbol="KVCaching",
    summary="Append new keys and values to a static KV cache.",
    axes={
        "batch": "sequences",
        "nkvh": "key/value heads",
        "smax": "tokens that fit in the cache, per sequence",
        "snew": "new tokens, per sequence",
        "d": "head size",
    },
    dtypes={"T": FLOATS, "L": (I32, I64)},
    tensors=(
        Tensor("k_cache", Role.INOUT, "batch nkvh smax d", "T", Strides.ANY, "key cache", written=_CACHE),
        Tensor("v_cache", Role.INOUT, "batch nkvh smax d", "T", Strides.ANY, "value cache", written=_CACHE),
        Tensor("k", Role.IN, "batch nkvh snew d", "T", Strides.ANY, "new keys"),
        Tensor("v", Role.IN, "batch nkvh snew d", "T", Strides.ANY, "new values"),
        Tensor("past_kv_lengths", Role.IN, "batch", "L", Strides.CONTIGUOUS, "tokens that each sequence has cached"),
    ),
    semantics=(
        "cache[b, h, past_kv_lengths[b] + s] = new[b, h, s] for every sequence, head and new token, for keys and "
        "values.",
        "A negative length, or one that leaves no room for the new tokens, is BAD_PARAM on the CPU, before anything is "
        "written; other devices skip the rows that do not fit.",
        "Without new elements nothing is read.",
    ),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
)
