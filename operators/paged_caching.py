"""paged_caching: scatter new keys and values into a paged KV cache."""

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
    Constraint,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Strides,
    Tensor,
)  # fmt: skip
from infiniop.schema.samples import empty, uniform


def reference(k_cache, v_cache, k, v, slot_mapping) -> None:
    block_size = k_cache.shape[2]
    nslots = k_cache.shape[0] * block_size
    for n, slot in enumerate(slot_mapping.tolist()):
        if slot >= nslots:
            raise BadValue("slot_mapping", f"values below {nslots}", f"{slot} at [{n}]")
    for n, slot in enumerate(slot_mapping.tolist()):
        if slot >= 0:
            k_cache[slot // block_size, :, slot % block_size] = k[n]
            v_cache[slot // block_size, :, slot % block_size] = v[n]


def _arguments(rng, dtype, ntok, nkvh, dh, dv, nblocks=5, block_size=4, token_gap=0, cache_gap=0):
    slots = rng.permutation(nblocks * block_size)[:ntok].astype(np.int64)

    def cache(d):
        row = d + cache_gap
        return uniform(rng, (nblocks, nkvh, block_size, d), dtype,
                       strides=(nkvh * block_size * row + cache_gap, block_size * row, row, 1))  # fmt: skip

    def source(d):
        return uniform(rng, (ntok, nkvh, d), dtype, strides=(nkvh * (d + token_gap) + token_gap, d + token_gap, 1))

    return {"k_cache": cache(dh), "v_cache": cache(dv), "k": source(dh), "v": source(dv), "slot_mapping": slots}


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Distinct slots, some of them padding."""
    slots, cache = sample.array("slot_mapping"), sample.array("k_cache")
    known = rng.permutation(cache.shape[0] * cache.shape[2])[: len(slots)]
    slots[...] = -1
    slots[: len(known)] = known
    slots[rng.random(len(slots)) < 0.1] = -1
    return sample


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for ntok, nkvh, dh, dv in [(1, 1, 1, 1), (7, 2, 8, 8), (16, 8, 64, 64), (17, 3, 33, 31), (9, 1, 576, 512)]:
            yield Sample(f"{dtype.name}-{ntok}x{nkvh}x{dh}x{dv}", _arguments(rng, dtype, ntok, nkvh, dh, dv))
        yield Sample(f"{dtype.name}-strided", _arguments(rng, dtype, 11, 2, 16, 24, token_gap=5, cache_gap=3))
        yield Sample(f"{dtype.name}-no-tokens", _arguments(rng, dtype, 0, 2, 8, 8))
        padding = _arguments(rng, dtype, 8, 2, 8, 8)
        padding["slot_mapping"][::3] = -1
        yield Sample(f"{dtype.name}-padding", padding)
    far = _arguments(rng, F16, 6, 2, 8, 8, nblocks=3)
    far |= {name: empty((3, 2, 4, 8), F16, (2**30 + 8, 32, 8, 1)) for name in ("k_cache", "v_cache")}
    yield Sample("F16-blocks-2-Gi-elements-away", far, tags=frozenset({"large"}))
    yield Sample("many-tokens", _arguments(rng, F32, 70_000, 1, 2, 2, nblocks=9000, block_size=8))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    def arguments(**changed):
        return {**_arguments(rng, F32, 6, 2, 8, 8), **changed}

    def error(name, status, argument, at="create", null=(), **changed):
        return ErrorSample(name, status, argument, arguments(**changed), at=at, null=frozenset(null))

    good = arguments()
    for name in good:
        yield error(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
        yield error(f"null-pointer-{name}", Status.NULL_POINTER, name, at="run", null=[name])
    yield error("slots-i32", Status.BAD_TENSOR_DTYPE, "slot_mapping", slot_mapping=np.zeros(6, np.int32))
    yield error("v-other-dtype", Status.BAD_TENSOR_DTYPE, "v", v=np.zeros((6, 2, 8), np.float16))
    yield error("k-integers", Status.BAD_TENSOR_DTYPE, "k_cache", k_cache=empty((5, 2, 4, 8), I32))
    yield error("k-rank", Status.BAD_TENSOR_SHAPE, "k", k=np.zeros((6, 16), np.float32))
    yield error("heads", Status.BAD_TENSOR_SHAPE, "v", v=np.zeros((6, 3, 8), np.float32))
    yield error("block-size", Status.BAD_TENSOR_SHAPE, "v_cache", v_cache=empty((5, 2, 3, 8), F32))
    yield error("slots-length", Status.BAD_TENSOR_SHAPE, "slot_mapping", slot_mapping=np.zeros(5, np.int64))
    yield error("k-last-stride", Status.BAD_TENSOR_STRIDES, "k", k=empty((6, 2, 8), F32, (32, 16, 2)))
    yield error(
        "cache-last-stride", Status.BAD_TENSOR_STRIDES, "k_cache", k_cache=empty((5, 2, 4, 8), F32, (128, 64, 16, 2))
    )
    yield error(
        "cache-broadcast", Status.BAD_TENSOR_STRIDES, "k_cache", k_cache=empty((5, 2, 4, 8), F32, (0, 32, 8, 1))
    )
    yield error(
        "slot-out-of-range", Status.BAD_PARAM, "slot_mapping", at="run", slot_mapping=np.array([0, 1, 20, 2, 3, 4])
    )


_CACHE = "rows of tokens that a slot names; the rest is untouched"

paged_caching = Operator(
    name="paged_caching",
    symbol="PagedCaching",
    summary="Scatter new keys and values into a paged KV cache.",
    axes={
        "ntok": "tokens in this call",
        "nkvh": "key/value heads",
        "dh": "key head size",
        "dv": "value head size",
        "nblocks": "blocks in the cache",
        "block_size": "tokens per block",
    },
    dtypes={"T": FLOATS},
    tensors=(
        Tensor(
            "k_cache", Role.INOUT, "nblocks nkvh block_size dh", "T", Strides.UNIT_LAST, "key cache", written=_CACHE
        ),
        Tensor(
            "v_cache", Role.INOUT, "nblocks nkvh block_size dv", "T", Strides.UNIT_LAST, "value cache", written=_CACHE
        ),
        Tensor("k", Role.IN, "ntok nkvh dh", "T", Strides.UNIT_LAST, "new keys"),
        Tensor("v", Role.IN, "ntok nkvh dv", "T", Strides.UNIT_LAST, "new values"),
        Tensor("slot_mapping", Role.IN, "ntok", I64.name, Strides.CONTIGUOUS, "slot of each token"),
    ),
    constraints=(Constraint("block_size > 0 or nblocks == 0", "k_cache", "a block size of at least 1"),),
    semantics=(
        "Token n goes to row slot_mapping[n] % block_size of block slot_mapping[n] // block_size, for every head.",
        "A negative slot is padding: the token is skipped.",
        "A slot of nblocks * block_size or more is BAD_PARAM on the CPU, before anything is written; other "
        "devices skip it.",
        "When two tokens name one slot, it is not defined which of them wins.",
    ),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
)
