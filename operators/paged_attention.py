"""paged_attention: one query token per sequence against a paged KV cache (decode)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS,
    I32,
    I64,
    U32,
    Attr,
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
from infiniop.schema.samples import empty, layout, uniform

from ._attention import EPSILON, TOLERANCES, attend, check_table, gather
from ._floats import store
from ._samples import Errors


def reference(out, q, k_cache, v_cache, block_tables, seq_lens, alibi_slopes, scale) -> None:
    nblocks, _, block_size, _ = k_cache.shape
    if out.size == 0:
        return
    for s in range(len(seq_lens)):
        check_table(block_tables, seq_lens, s, nblocks, block_size)
    for s, length in enumerate(seq_lens.tolist()):
        if length > 0:
            k, v = (gather(cache, block_tables[s], length) for cache in (k_cache, v_cache))
            visible = np.array([length])
            store(out[s], attend(q[s][:, None], k, v, scale, visible, alibi_slopes, EPSILON)[:, 0])


def paged_cache(rng, dtype: DType, nblocks: int, nkvh: int, block_size: int, d: int, gap: int = 0) -> np.ndarray:
    """A cache with `gap` unused elements after every row and every block."""
    row = d + gap
    strides = (nkvh * block_size * row + gap, block_size * row, row, 1)
    return uniform(rng, (nblocks, nkvh, block_size, d), dtype, strides=strides)


def block_table(rng, lengths, block_size: int, nblocks: int, width: int, index: DType, gap: int = 0) -> np.ndarray:
    """Distinct blocks for every sequence; unused entries hold values that no kernel may follow."""
    unused = 2**31 - 1 if index is U32 else -1
    table = layout((len(lengths), width), (width + gap, 1), index)
    table[...] = unused
    blocks = iter(rng.permutation(nblocks).tolist())
    for s, length in enumerate(lengths):
        for i in range(-(-max(length, 0) // block_size)):
            table[s, i] = next(blocks)
    return table


def _arguments(
    rng, dtype, lengths, nh, nkvh, d, block_size, dv=None, index=I64, slopes=False, gap=0, head_major=False, spare=3
):
    dv, nseq = dv or d, len(lengths)
    used = [-(-max(n, 0) // block_size) for n in lengths]
    nblocks, width = sum(used) + spare, max(used, default=0) + 1

    def heads(size):
        strides = (size, size * (nseq + 1), 1) if head_major else (nh * (size + gap) + gap, size + gap, 1)
        return uniform(rng, (nseq, nh, size), dtype, strides=strides)

    return {
        "out": heads(dv),
        "q": heads(d),
        "k_cache": paged_cache(rng, dtype, nblocks, nkvh, block_size, d, gap),
        "v_cache": paged_cache(rng, dtype, nblocks, nkvh, block_size, dv, 2 * gap),
        "block_tables": block_table(rng, lengths, block_size, nblocks, width, index, gap),
        "seq_lens": np.array(lengths, index.numpy),
        "alibi_slopes": uniform(rng, (nh,), F32, 0.01, 0.5) if slopes else None,
    }


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Lengths that the tables hold, and blocks that there are; unused entries lead nowhere."""
    fill_tables(rng, sample)
    return sample


def fill_tables(rng: np.random.Generator, sample: Sample) -> None:
    """Lengths, block tables and slopes of decode and prefill."""
    tables, lengths, cache = (sample.array(n) for n in ("block_tables", "seq_lens", "k_cache"))
    nblocks, _, block_size, _ = cache.shape
    most = tables.shape[1] * block_size if nblocks else 0
    lengths[...] = rng.integers(0, min(most, int(np.iinfo(lengths.dtype).max)), lengths.shape, endpoint=True)
    tables[...] = rng.integers(0, max(nblocks, 1), tables.shape)
    used = -(-lengths.astype(np.int64)[:, None] // max(block_size, 1))
    tables[np.arange(tables.shape[1]) >= used] = np.iinfo(np.int32).max
    slopes = sample.tensors["alibi_slopes"]
    if slopes is not None:
        slopes[...] = rng.uniform(0.01, 0.5, slopes.shape)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(name, dtype, lengths, nh, nkvh, d, block_size, scale=None, **more):
        tensors = _arguments(rng, dtype, lengths, nh, nkvh, d, block_size, **more)
        return Sample(f"{dtype.name}-{name}", tensors, {"scale": d**-0.5 if scale is None else scale})

    for dtype in FLOATS:
        for index in (I64, I32, U32):
            yield sample(f"{index.name}", dtype, [5, 16, 17, 1], 4, 2, 64, 16, index=index)
        for d in (1, 8, 31, 32, 33, 64, 65, 80, 96, 128, 192, 256):
            yield sample(f"head-{d}", dtype, [37, 9], 4, 2, d, 16)
        for block_size in (1, 8, 15, 16, 32, 256):
            yield sample(f"block-{block_size}", dtype, [1, 15, 16, 17, 33, 64, 65], 4, 1, 32, block_size)
        for nh, nkvh in ((1, 1), (5, 5), (8, 1), (12, 3), (28, 4), (40, 8)):
            yield sample(f"heads-{nh}-{nkvh}", dtype, [33, 7], nh, nkvh, 64, 16)
        yield sample("mla", dtype, [65, 3, 130], 16, 1, 576, 16, dv=512)
        yield sample("dv-larger", dtype, [12, 40], 4, 2, 24, 8, dv=40)
        yield sample("alibi", dtype, [1, 50, 33], 8, 2, 64, 16, slopes=True)
        yield sample("alibi-mla", dtype, [20], 4, 1, 576, 16, dv=512, slopes=True)
        yield sample("lengths-0", dtype, [0, 9, 0, 31], 4, 2, 32, 16)
        yield sample("length-negative", dtype, [7, -1, -40, -(2**31)], 4, 2, 32, 16)
        yield sample("gaps", dtype, [17, 40, 3], 4, 2, 48, 16, gap=8)
        yield sample("head-major", dtype, [17, 40, 3], 4, 2, 48, 16, head_major=True)
        yield sample("scale-0", dtype, [23], 2, 1, 16, 8, scale=0.0)
        yield sample("scale-large", dtype, [23, 90], 2, 1, 16, 8, scale=20.0)
        yield sample("no-sequences", dtype, [], 4, 2, 32, 16)
    shared = _arguments(rng, F32, [40, 40], 4, 2, 32, 16)
    shared["block_tables"][1] = shared["block_tables"][0]
    yield Sample("shared-blocks", shared, {"scale": 0.2})
    far = _arguments(rng, F16, [9], 2, 1, 8, 16, spare=1)
    far["v_cache"] = uniform(rng, (2, 1, 16, 8), F16, strides=(2**30 + 5, 128, 8, 1))
    yield Sample("2-GiB-away", far, {"scale": 0.4}, frozenset({"large"}))
    for dtype in FLOATS:
        long = sample("long", dtype, [1500, 2048, 1, 700], 8, 2, 128, 16)
        yield Sample(long.name, long.tensors, long.attrs, frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, [5, 17], 4, 2, 8, 16)
    slopes = uniform(rng, (4,), F32)
    error = Errors({n: t for n, t in good.items() if t is not None} | {"alibi_slopes": slopes}, {"scale": 0.3})
    yield from cache_errors(error, good)
    nblocks = len(good["k_cache"])
    for name, entry in (("negative", -1), ("beyond", nblocks), ("huge", 2**62)):
        table = np.array(good["block_tables"])
        table[1, 1] = entry
        yield error(f"block-{name}", Status.BAD_PARAM, "block_tables", at="run", block_tables=table)
    width = good["block_tables"].shape[1]
    for name, length in (("beyond", width * 16 + 1), ("huge", 2**62)):
        yield error(f"length-{name}", Status.BAD_PARAM, "seq_lens", at="run", seq_lens=np.array([5, length]))


def cache_errors(error: Errors, good) -> Iterator[ErrorSample]:
    """Errors that decode and prefill share."""
    required = [n for n in good if good[n] is not None]
    for name in required:
        yield error(f"null-descriptor-{name}", Status.NULL_POINTER, name, null=[name])
        yield error(f"null-pointer-{name}", Status.NULL_POINTER, name, at="run", null=[name])
    halves = {n: np.array(good[n], np.float16) for n in ("out", "q", "k_cache", "v_cache")}
    yield error("integers", Status.BAD_TENSOR_DTYPE, "out", out=empty(good["out"].shape, I32))
    for name in ("q", "k_cache", "v_cache"):
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: halves[name]})
    yield error("tables-i32-lengths-i64", Status.BAD_TENSOR_DTYPE, "seq_lens",
                block_tables=good["block_tables"].astype(np.int32))  # fmt: skip
    yield error("tables-floats", Status.BAD_TENSOR_DTYPE, "block_tables", block_tables=halves["q"][:, 0])
    yield error("slopes-dtype", Status.BAD_TENSOR_DTYPE, "alibi_slopes", alibi_slopes=empty((4,), F16))
    yield error("slopes-extent", Status.BAD_TENSOR_SHAPE, "alibi_slopes", alibi_slopes=empty((5,), F32))
    for name in required:
        if name == "cum_seq_lens_q":
            continue
        rank = good[name][None]
        yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: rank})
    nblocks, nkvh, block_size, d = good["k_cache"].shape
    tokens = good["q"].shape[0]
    yield error("head-size", Status.BAD_TENSOR_SHAPE, "k_cache", k_cache=empty((nblocks, nkvh, block_size, d + 1), F32))
    yield error("heads", Status.BAD_TENSOR_SHAPE, "q", k_cache=empty((nblocks, 3, block_size, d), F32),
                v_cache=empty((nblocks, 3, block_size, d), F32))  # fmt: skip
    yield error("v-heads", Status.BAD_TENSOR_SHAPE, "v_cache", v_cache=empty((nblocks, 1, block_size, d), F32))
    yield error("v-blocks", Status.BAD_TENSOR_SHAPE, "v_cache", v_cache=empty((nblocks + 1, nkvh, block_size, d), F32))
    yield error(
        "v-block-size", Status.BAD_TENSOR_SHAPE, "v_cache", v_cache=empty((nblocks, nkvh, block_size + 1, d), F32)
    )
    yield error(
        "v-head-size", Status.BAD_TENSOR_SHAPE, "v_cache", v_cache=empty((nblocks, nkvh, block_size, d + 1), F32)
    )
    yield error("tokens", Status.BAD_TENSOR_SHAPE, "q", q=empty((tokens + 1, 4, d), F32))
    nseq, width = good["block_tables"].shape
    yield error("lengths-extent", Status.BAD_TENSOR_SHAPE, "seq_lens", seq_lens=empty((nseq + 1,), I64))
    for name in ("out", "q"):
        yield error(f"{name}-last-stride", Status.BAD_TENSOR_STRIDES, name,
                    **{name: empty((tokens, 4, d), F32, (8 * d, 2 * d, 2))})  # fmt: skip
    for name in ("k_cache", "v_cache"):
        strides = (2 * nkvh * block_size * d, 2 * block_size * d, 2 * d, 2)
        yield error(f"{name}-last-stride", Status.BAD_TENSOR_STRIDES, name,
                    **{name: empty((nblocks, nkvh, block_size, d), F32, strides)})  # fmt: skip
    yield error("tables-last-stride", Status.BAD_TENSOR_STRIDES, "block_tables",
                block_tables=empty((nseq, width), I64, (2 * width, 2)))  # fmt: skip
    yield error("lengths-stride", Status.BAD_TENSOR_STRIDES, "seq_lens", seq_lens=empty((nseq,), I64, (2,)))
    yield error("out-broadcast", Status.BAD_TENSOR_STRIDES, "out", out=empty((tokens, 4, d), F32, (0, d, 1)))


CACHE_AXES = {
    "nh": "query heads",
    "nkvh": "key/value heads",
    "d": "key head size",
    "dv": "value head size",
    "nblocks": "blocks in the cache",
    "block_size": "tokens per block",
    "max_blocks": "entries of a block table",
}

CACHE_CONSTRAINTS = (
    Constraint("nkvh > 0 and nh % nkvh == 0", "q", "a multiple of the key/value heads"),
    Constraint("block_size > 0 or nblocks == 0", "k_cache", "a block size of at least 1"),
)

CACHE_SEMANTICS = (
    "Token t of sequence s lies in row t % block_size of block block_tables[s, t // block_size].",
    "Query head h uses key/value head h // (nh // nkvh).",
    "Scores, weights and sums are f32; the result is rounded to nearest even once.",
    "With slopes, ALiBi (Press, Smith, Lewis 2022, arXiv:2108.12409); a NULL pointer at run turns it off.",
    "A length beyond the table, or a used entry that is no block, is BAD_PARAM on the CPU, before anything is written; "
    "other devices skip the sequence. Unused entries are not looked at.",
    "F32, head sizes beyond InfiniCore's list and dv != d are infiniop's extensions.",
)

paged_attention = Operator(
    name="paged_attention",
    symbol="PagedAttention",
    summary="Attention of one query token per sequence against a paged KV cache (decode).",
    axes={"nseq": "sequences", **CACHE_AXES},
    dtypes={"T": FLOATS, "I": (I64, I32, U32)},
    tensors=(
        Tensor("out", Role.OUT, "nseq nh dv", "T", Strides.UNIT_LAST, "result",
               written="rows of sequences with a length of at least 1; the rest is untouched"),
        Tensor("q", Role.IN, "nseq nh d", "T", Strides.UNIT_LAST, "queries"),
        Tensor("k_cache", Role.IN, "nblocks nkvh block_size d", "T", Strides.UNIT_LAST, "key cache"),
        Tensor("v_cache", Role.IN, "nblocks nkvh block_size dv", "T", Strides.UNIT_LAST, "value cache"),
        Tensor("block_tables", Role.IN, "nseq max_blocks", "I", Strides.UNIT_LAST, "blocks of each sequence"),
        Tensor("seq_lens", Role.IN, "nseq", "I", Strides.CONTIGUOUS, "tokens of each sequence, with the current one"),
        Tensor("alibi_slopes", Role.IN, "nh", F32.name, Strides.CONTIGUOUS, "ALiBi slope of each head",
               optional=True, null_at_run=True),
    ),
    attrs=(Attr("scale", "float", doc="factor of the scores, usually 1 / sqrt(d)"),),
    constraints=CACHE_CONSTRAINTS,
    semantics=(
        "out[s, h] = Σ_t w_t v_t over t < seq_lens[s], with w_t = exp(x_t - max x) / (Σ_u exp(x_u - max x) + 1e-6) and "
        "x_t = scale * q[s, h] · k_t + alibi_slopes[h] * (t - (seq_lens[s] - 1)).",
        "The current token's key and value are in the cache already.",
        "A sequence with a length of 0 or less leaves its output rows untouched.",
        *CACHE_SEMANTICS,
    ),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
    tolerances=TOLERANCES,
)  # fmt: skip
