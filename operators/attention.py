"""attention: append to a static KV cache, then attend causally."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    BF16,
    F16,
    F32,
    FLOATS,
    I32,
    Attr,
    Constraint,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, padded, uniform

from ._attention import attend
from ._floats import store
from ._samples import Errors


def reference(out, q, k, v, k_cache, v_cache, pos) -> None:
    s, d = q.shape[1:]
    k_cache[:, pos : pos + s] = k
    v_cache[:, pos : pos + s] = v
    if out.size == 0:
        return
    visible = pos + 1 + np.arange(s)
    result = attend(q, k_cache[:, : pos + s], v_cache[:, : pos + s], d**-0.5, visible)
    store(out, result.swapaxes(0, 1))


def _arguments(rng, dtype, nh, nkvh, s, d, pos, room=3, v_room=None, strides=lambda shape: None):
    def array(*shape):
        return uniform(rng, shape, dtype, -0.1, 0.1, strides(shape))

    return {
        "out": empty((s, nh, d), dtype),
        "q": array(nh, s, d),
        "k": array(nkvh, s, d),
        "v": array(nkvh, s, d),
        "k_cache": array(nkvh, pos + s + room, d),
        "v_cache": array(nkvh, pos + s + (room if v_room is None else v_room), d),
    }


def _token_major(shape):
    """Strides of [token, head, element] memory, as a projection of queries, keys and values together leaves it."""
    heads, _, d = shape
    return (d, heads * d + 2 * d, 1)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(name, dtype, nh, nkvh, s, d, pos, **more):
        tags = frozenset({"large"}) if nh * s * (s + pos) * d > 10_000_000 else frozenset()
        return Sample(f"{dtype.name}-{name}", _arguments(rng, dtype, nh, nkvh, s, d, pos, **more), {"pos": pos}, tags)

    for dtype in FLOATS:
        for d in (1, 8, 31, 32, 33, 64, 80, 128):
            yield sample(f"head-{d}", dtype, 4, 2, 5, d, 9)
        for s, pos in ((1, 0), (1, 1), (1, 64), (5, 0), (15, 2), (16, 16), (33, 31), (65, 0), (17, 112)):
            yield sample(f"{s}-at-{pos}", dtype, 4, 2, s, 32, pos)
        for nh, nkvh in ((1, 1), (5, 5), (8, 1), (12, 3), (28, 28)):
            yield sample(f"heads-{nh}-{nkvh}", dtype, nh, nkvh, 7, 64, 4)
        yield sample("prefill", dtype, 32, 4, 5, 64, 0, strides=_token_major)
        yield sample("decode", dtype, 32, 4, 1, 64, 3, strides=_token_major)
        yield sample("contiguous", dtype, 8, 4, 2, 16, 1, room=5)
        yield sample("padded", dtype, 8, 4, 6, 24, 11, strides=padded)
        yield sample("no-room-left", dtype, 8, 4, 6, 24, 11, room=0)
        yield sample("caches-differ", dtype, 8, 4, 6, 24, 11, room=4, v_room=9)
        yield sample("no-tokens", dtype, 4, 2, 0, 16, 5)
        yield sample("large", dtype, 8, 2, 100, 128, 156)


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, 4, 2, 3, 8, 2, room=0)
    error = Errors(good, {"pos": 2})
    yield from error.nulls()
    yield error("integers", Status.BAD_TENSOR_DTYPE, "out", out=empty((3, 4, 8), I32))
    for name in ("q", "k", "v", "k_cache", "v_cache"):
        shape = good[name].shape
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty(shape, F16)})
        gaps = empty(shape, F32, (2 * shape[1] * shape[2], 2 * shape[2], 2))
        yield error(f"{name}-last-stride", Status.BAD_TENSOR_STRIDES, name, **{name: gaps})
        yield error(f"{name}-head-size", Status.BAD_PARAM, name, **{name: empty((*shape[:2], 7), F32)})
        yield error(
            f"{name}-heads", Status.BAD_PARAM, name if name != "k" else "v", **{name: empty((3, *shape[1:]), F32)}
        )
    for name, array in good.items():
        yield error(f"{name}-rank-2", Status.BAD_TENSOR_SHAPE, name, **{name: empty(array.shape[1:], F32)})
        yield error(f"{name}-rank-4", Status.BAD_TENSOR_SHAPE, name, **{name: empty((1, *array.shape), F32)})
    yield error("out-gaps", Status.BAD_TENSOR_STRIDES, "out", out=empty((3, 4, 8), F32, (33, 8, 1)))
    yield error("out-head-major", Status.BAD_TENSOR_STRIDES, "out", out=empty((3, 4, 8), F32, (8, 24, 1)))
    for name in ("q", "k", "v"):
        heads = good[name].shape[0]
        yield error(f"{name}-tokens", Status.BAD_PARAM, name, **{name: empty((heads, 4, 8), F32)})
    for name in ("k_cache", "v_cache"):
        yield error(f"{name}-short", Status.BAD_PARAM, name, **{name: empty((2, 4, 8), F32)})
        yield error(f"{name}-broadcast", Status.BAD_TENSOR_STRIDES, name, **{name: empty((2, 5, 8), F32, (0, 8, 1))})
    yield error("pos-beyond", Status.BAD_PARAM, "k_cache", attrs={"pos": 3})
    yield error("pos-huge", Status.BAD_PARAM, "pos", attrs={"pos": 2**64 - 1})
    three = {n: empty((3, *good[n].shape[1:]), F32) for n in ("k", "v", "k_cache", "v_cache")}
    yield error("groups", Status.BAD_PARAM, "q", **three)


_CACHE = "rows pos to pos + s - 1; the rest is untouched"

attention = Operator(
    name="attention",
    symbol="Attention",
    summary="Append to a static KV cache, then attend causally.",
    axes={
        "s": "new tokens",
        "nh": "query heads",
        "nkvh": "key/value heads",
        "d": "head size",
        "lk": "tokens that fit in the key cache",
        "lv": "tokens that fit in the value cache",
    },
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("out", Role.OUT, "s nh d", "T", Strides.CONTIGUOUS, "result"),
        Tensor("q", Role.IN, "nh s d", "T", Strides.UNIT_LAST, "queries"),
        Tensor("k", Role.IN, "nkvh s d", "T", Strides.UNIT_LAST, "new keys"),
        Tensor("v", Role.IN, "nkvh s d", "T", Strides.UNIT_LAST, "new values"),
        Tensor("k_cache", Role.INOUT, "nkvh lk d", "T", Strides.UNIT_LAST, "key cache", written=_CACHE),
        Tensor("v_cache", Role.INOUT, "nkvh lv d", "T", Strides.UNIT_LAST, "value cache", written=_CACHE),
    ),
    attrs=(Attr("pos", "size_t", doc="tokens that the cache holds already"),),
    constraints=(
        Constraint("nkvh > 0 and nh % nkvh == 0", "q", "a multiple of the key/value heads", Status.BAD_PARAM),
        Constraint("pos >= 0", "pos", "a position that fits", Status.BAD_PARAM),
        Constraint("pos + s <= lk", "k_cache", "room for pos + s tokens", Status.BAD_PARAM),
        Constraint("pos + s <= lv", "v_cache", "room for pos + s tokens", Status.BAD_PARAM),
    ),
    semantics=(
        "k and v are copied to rows pos to pos + s - 1 of the caches; then "
        "out[i, h] = Σ_j softmax_j(q[h, i] · k_j / sqrt(d)) v_j over the cache rows j <= pos + i "
        "(Vaswani et al. 2017, arXiv:1706.03762).",
        "Query head h uses key/value head h // (nh // nkvh).",
        "Scores, weights and sums are f32; the result is rounded to nearest even once.",
        "The caches must not overlap q, k, v or out.",
        "Extents that contradict each other are BAD_PARAM, as in InfiniCore.",
    ),
    shape_status=Status.BAD_PARAM,
    reference=reference,
    samples=samples,
    error_samples=error_samples,
    tolerances={F16: (5e-5, 1e-3), BF16: (4e-4, 8e-3), F32: (5e-7, 1e-5)},
)
