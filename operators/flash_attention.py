"""flash_attention: dense attention with a key/value length per sequence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS,
    I32,
    I64,
    Attr,
    BadValue,
    Constraint,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, padded, uniform

from ._attention import TOLERANCES, attend
from ._floats import store
from ._samples import Errors


def reference(out, q, k, v, total_kv_len, scale, is_causal) -> None:
    s, t = q.shape[2], k.shape[2]
    if out.size == 0:
        return
    for b, length in enumerate(total_kv_len.tolist()):
        if not 0 <= length <= t:
            raise BadValue("total_kv_len", f"lengths from 0 to {t}", f"{length} at [{b}]")
    for b, length in enumerate(total_kv_len.tolist()):
        visible = np.clip(length - s + 1 + np.arange(s), 0, length) if is_causal else np.full(s, length)
        store(out[b], attend(q[b], k[b, :, :length], v[b, :, :length], scale, visible))


def _arguments(rng, dtype, batch, nh, nkvh, s, d, t, lengths=None, index=I64, strides=lambda shape: None):
    def array(*shape):
        return uniform(rng, shape, dtype, strides=strides(shape))

    lengths = rng.integers(1, t, batch, endpoint=True) if lengths is None else lengths
    return {
        "out": array(batch, nh, s, d),
        "q": array(batch, nh, s, d),
        "k": array(batch, nkvh, t, d),
        "v": array(batch, nkvh, t, d),
        "total_kv_len": np.array(lengths, index.numpy),
    }


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Lengths up to the room that there is."""
    lengths = sample.array("total_kv_len")
    lengths[...] = rng.integers(0, sample.array("k").shape[2], lengths.shape, endpoint=True)
    return sample


def _token_major(shape):
    """Strides of [batch, token, head, element] memory."""
    _, heads, tokens, d = shape
    return (tokens * heads * d, d, heads * d, 1)


def _element_major(shape):
    """Strides of memory in which the tokens of one element are adjacent."""
    _, heads, tokens, d = shape
    return (heads * d * tokens, d * tokens, 1, tokens)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(name, dtype, *sizes, causal=True, scale=None, **more):
        attrs = {"scale": sizes[4] ** -0.5 if scale is None else scale, "is_causal": int(causal)}
        return Sample(f"{dtype.name}-{name}", _arguments(rng, dtype, *sizes, **more), attrs)

    for dtype in FLOATS:
        for d in (1, 8, 16, 31, 32, 33, 64, 65, 80, 128, 192, 256):
            yield sample(f"head-{d}", dtype, 2, 4, 2, 5, d, 37)
        for s, t in ((1, 1), (1, 64), (2, 8), (2, 256), (4, 32), (15, 17), (16, 16), (63, 65), (65, 129), (128, 128)):
            for causal in (False, True):
                yield sample(f"{s}-of-{t}-causal-{causal}", dtype, 1, 2, 1, s, 32, t, lengths=[t], causal=causal)
        for nh, nkvh in ((1, 1), (5, 5), (8, 1), (12, 3), (28, 4)):
            yield sample(f"heads-{nh}-{nkvh}", dtype, 2, nh, nkvh, 4, 64, 33)
        for causal in (False, True):
            yield sample(f"lengths-causal-{causal}", dtype, 5, 4, 2, 7, 32, 40, lengths=[0, 1, 3, 7, 40], causal=causal)
            yield sample(f"i32-causal-{causal}", dtype, 3, 4, 2, 7, 32, 40, index=I32, causal=causal)
        for name, strides in (("padded", padded), ("token-major", _token_major), ("element-major", _element_major)):
            yield sample(name, dtype, 2, 4, 2, 9, 24, 33, strides=strides)
        yield sample("scale-large", dtype, 2, 2, 1, 9, 16, 90, scale=20.0)
        yield sample("decode", dtype, 4, 8, 2, 1, 64, 130, lengths=[1, 64, 65, 130])
        yield sample("no-queries", dtype, 2, 4, 2, 0, 16, 8)
        yield sample("no-keys", dtype, 2, 4, 2, 3, 16, 0, lengths=[0, 0])
        yield sample("no-batch", dtype, 0, 4, 2, 3, 16, 8)
        large = sample("large", dtype, 2, 7, 1, 256, 128, 512)
        yield Sample(large.name, large.tensors, large.attrs, frozenset({"large"}))
    broadcast = _arguments(rng, F32, 3, 4, 2, 5, 16, 20)
    broadcast["k"] = uniform(rng, (3, 2, 20, 16), F32, strides=(0, 320, 16, 1))
    broadcast["v"] = uniform(rng, (3, 2, 20, 16), F32, strides=(0, 320, 16, 1))
    yield Sample("one-cache-for-the-batch", broadcast, {"scale": 0.25, "is_causal": 1})
    shared = _arguments(rng, F32, 3, 4, 2, 5, 16, 20, lengths=[17, 17, 17])
    shared["total_kv_len"] = np.broadcast_to(shared["total_kv_len"][:1], (3,))
    yield Sample("one-length-for-the-batch", shared, {"scale": 0.25, "is_causal": 0})


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, 2, 4, 2, 3, 8, 9)
    error = Errors(good, {"scale": 0.3, "is_causal": 1})
    yield from error.nulls()
    yield error("integers", Status.BAD_TENSOR_DTYPE, "out", out=empty((2, 4, 3, 8), I32))
    for name in ("q", "k", "v"):
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty(good[name].shape, F16)})
    for name in good:
        yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: good[name][None]})
    yield error("q-tokens", Status.BAD_TENSOR_SHAPE, "q", q=empty((2, 4, 4, 8), F32))
    yield error("q-heads", Status.BAD_TENSOR_SHAPE, "q", q=empty((2, 5, 3, 8), F32))
    yield error("k-batch", Status.BAD_TENSOR_SHAPE, "k", k=empty((1, 2, 9, 8), F32))
    yield error("k-head-size", Status.BAD_TENSOR_SHAPE, "k", k=empty((2, 2, 9, 7), F32))
    yield error("v-tokens", Status.BAD_TENSOR_SHAPE, "v", v=empty((2, 2, 8, 8), F32))
    yield error("v-heads", Status.BAD_TENSOR_SHAPE, "v", v=empty((2, 1, 9, 8), F32))
    yield error("v-head-size", Status.BAD_TENSOR_SHAPE, "v", v=empty((2, 2, 9, 16), F32))
    yield error("heads", Status.BAD_TENSOR_SHAPE, "q", k=empty((2, 3, 9, 8), F32), v=empty((2, 3, 9, 8), F32))
    yield error("out-broadcast", Status.BAD_TENSOR_STRIDES, "out", out=empty((2, 4, 3, 8), F32, (0, 24, 8, 1)))
    yield error("lengths-floats", Status.BAD_TENSOR_DTYPE, "total_kv_len", total_kv_len=empty((2,), F32))
    yield error("lengths-extent", Status.BAD_TENSOR_SHAPE, "total_kv_len", total_kv_len=empty((3,), I64))
    yield error("causal-2", Status.BAD_PARAM, "is_causal", attrs={"is_causal": 2})
    for name, values in (("negative", [4, -1]), ("beyond", [10, 4]), ("huge", [4, 2**62])):
        yield error(f"length-{name}", Status.BAD_PARAM, "total_kv_len", at="run", total_kv_len=np.array(values))


flash_attention = Operator(
    name="flash_attention",
    symbol="FlashAttention",
    summary="Dense attention with a key/value length per sequence.",
    axes={
        "batch": "sequences",
        "nh": "query heads",
        "nkvh": "key/value heads",
        "s": "query tokens",
        "t": "tokens that keys and values have room for",
        "d": "head size",
    },
    dtypes={"T": FLOATS, "L": (I32, I64)},
    tensors=(
        Tensor("out", Role.OUT, "batch nh s d", "T", doc="result"),
        Tensor("q", Role.IN, "batch nh s d", "T", doc="queries"),
        Tensor("k", Role.IN, "batch nkvh t d", "T", doc="keys"),
        Tensor("v", Role.IN, "batch nkvh t d", "T", doc="values"),
        Tensor("total_kv_len", Role.IN, "batch", "L", doc="keys that each sequence has"),
    ),
    attrs=(
        Attr("scale", "float", doc="factor of the scores, usually 1 / sqrt(d)"),
        Attr("is_causal", "char", default=False, doc="1: a query sees no later key; 0: it sees all"),
    ),
    constraints=(
        Constraint("nkvh > 0 and nh % nkvh == 0", "q", "a multiple of the key/value heads"),
        Constraint("is_causal in (0, 1)", "is_causal", "0 or 1", Status.BAD_PARAM),
    ),
    semantics=(
        "out[b, h, i] = Σ_j softmax_j(scale * q[b, h, i] · k_j) v_j over j < total_kv_len[b]; causal: and "
        "j <= i + total_kv_len[b] - s, so that the last query sees every key (bottom-right alignment).",
        "Query head h uses key/value head h // (nh // nkvh).",
        "A query that sees no key gives 0.",
        "Scores, weights and sums are f32; the result is rounded to nearest even once (Dao 2023, arXiv:2307.08691).",
        "A length that is negative or exceeds t is BAD_PARAM on the CPU, before anything is written; other devices "
        "skip the sequence.",
    ),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
    tolerances=TOLERANCES,
)
