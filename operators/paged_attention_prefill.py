"""paged_attention_prefill: packed queries of several sequences against a paged KV cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import (
    F32,
    FLOATS,
    I32,
    I64,
    U32,
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
from infiniop.schema.samples import empty, uniform

from ._attention import EPSILON, TOLERANCES, attend, check_table, gather
from ._floats import store
from ._samples import Errors
from .paged_attention import (
    CACHE_AXES,
    CACHE_CONSTRAINTS,
    CACHE_SEMANTICS,
    block_table,
    cache_errors,
    fill_tables,
    paged_cache,
)


def reference(out, q, k_cache, v_cache, block_tables, seq_lens, cum_seq_lens_q, alibi_slopes, scale) -> None:
    nblocks, _, block_size, _ = k_cache.shape
    if out.size == 0:
        return
    starts = cum_seq_lens_q.tolist()
    _check_starts(starts, len(q))
    for s in range(len(seq_lens)):
        if starts[s + 1] > starts[s]:
            check_table(block_tables, seq_lens, s, nblocks, block_size)
    for s, length in enumerate(seq_lens.tolist()):
        rows = np.arange(starts[s], starts[s + 1])
        visible = length - len(rows) + 1 + np.arange(len(rows))
        rows, visible = rows[visible > 0], visible[visible > 0]
        if len(rows):
            k, v = (gather(cache, block_tables[s], length) for cache in (k_cache, v_cache))
            result = attend(q[rows].swapaxes(0, 1), k, v, scale, visible, alibi_slopes, EPSILON)
            out[rows] = _rounded(result.swapaxes(0, 1), out.dtype)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    result = np.empty(values.shape, dtype)
    store(result, values)
    return result


def _check_starts(starts: list[int], ntok: int) -> None:
    for s, start in enumerate(starts):
        if not (starts[s - 1] if s else 0) <= start <= ntok:
            raise BadValue("cum_seq_lens_q", f"increasing values from 0 to {ntok}", f"{start} at [{s}]")


def _arguments(
    rng,
    dtype,
    new,
    lengths,
    nh,
    nkvh,
    d,
    block_size,
    dv=None,
    index=I64,
    slopes=False,
    gap=0,
    head_major=False,
    extra=0,
):
    dv, ntok = dv or d, sum(new) + extra
    used = [-(-max(n, 0) // block_size) for n in lengths]
    nblocks, width = sum(used) + 3, max(used, default=0) + 1

    def heads(size):
        strides = (size, size * (ntok + 1), 1) if head_major else (nh * (size + gap) + gap, size + gap, 1)
        return uniform(rng, (ntok, nh, size), dtype, strides=strides)

    return {
        "out": heads(dv),
        "q": heads(d),
        "k_cache": paged_cache(rng, dtype, nblocks, nkvh, block_size, d, gap),
        "v_cache": paged_cache(rng, dtype, nblocks, nkvh, block_size, dv, 2 * gap),
        "block_tables": block_table(rng, lengths, block_size, nblocks, width, index, gap),
        "seq_lens": np.array(lengths, index.numpy),
        "cum_seq_lens_q": np.cumsum([0, *new]).astype(index.numpy),
        "alibi_slopes": uniform(rng, (nh,), F32, 0.01, 0.5) if slopes else None,
    }


def complete(rng: np.random.Generator, sample: Sample) -> Sample:
    """Increasing starts, and what decode needs."""
    fill_tables(rng, sample)
    starts = sample.array("cum_seq_lens_q")
    starts[...] = np.sort(rng.integers(0, len(sample.array("q")), len(starts), endpoint=True))
    return sample


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    def sample(name, dtype, new, lengths, nh, nkvh, d, block_size, scale=None, **more):
        tensors = _arguments(rng, dtype, new, lengths, nh, nkvh, d, block_size, **more)
        return Sample(f"{dtype.name}-{name}", tensors, {"scale": d**-0.5 if scale is None else scale})

    for dtype in FLOATS:
        for index in (I64, I32, U32):
            yield sample(f"{index.name}", dtype, [5, 16, 1], [5, 20, 17], 4, 2, 64, 16, index=index)
        for d in (1, 16, 31, 33, 64, 65, 80, 128, 192, 256):
            yield sample(f"head-{d}", dtype, [9, 2], [9, 37], 4, 2, d, 16)
        for block_size in (1, 8, 15, 16, 32, 256):
            yield sample(f"block-{block_size}", dtype, [1, 15, 17, 33], [1, 31, 17, 65], 4, 1, 32, block_size)
        for nh, nkvh in ((1, 1), (5, 5), (8, 1), (12, 3), (28, 4)):
            yield sample(f"heads-{nh}-{nkvh}", dtype, [7, 8], [7, 33], nh, nkvh, 64, 16)
        yield sample("mla", dtype, [3, 17], [20, 17], 16, 1, 576, 16, dv=512)
        yield sample("dv-larger", dtype, [12, 5], [12, 40], 4, 2, 24, 8, dv=40)
        yield sample("alibi", dtype, [1, 20, 33], [9, 50, 33], 8, 2, 64, 16, slopes=True)
        yield sample("no-new-tokens", dtype, [0, 9, 0], [12, 9, 0], 4, 2, 32, 16)
        yield sample("shorter-than-queries", dtype, [5, 7, 4], [3, 0, 12], 4, 2, 32, 16)
        yield sample("length-negative", dtype, [3, 2], [7, -5], 4, 2, 32, 16)
        yield sample("rows-without-sequence", dtype, [3, 2], [7, 2], 4, 2, 32, 16, extra=2)
        yield sample("gaps", dtype, [7, 40], [17, 40], 4, 2, 48, 16, gap=8)
        yield sample("head-major", dtype, [7, 40], [17, 40], 4, 2, 48, 16, head_major=True)
        yield sample("scale-large", dtype, [23, 9], [23, 90], 2, 1, 16, 8, scale=20.0)
        yield sample("one-token-each", dtype, [1, 1, 1, 1], [1, 16, 17, 40], 4, 2, 64, 16)
        yield sample("tile-borders", dtype, [63, 64, 65], [63, 128, 129], 2, 1, 64, 16)
        yield sample("no-tokens", dtype, [], [], 4, 2, 32, 16)
        large = sample("large", dtype, [300, 1], [812, 900], 8, 2, 128, 16)
        yield Sample(large.name, large.tensors, large.attrs, frozenset({"large"}))
    ignored = _arguments(rng, F32, [4, 0], [9, 40], 4, 2, 16, 8)
    ignored["block_tables"][1] = -7
    yield Sample("no-queries-bad-table", ignored, {"scale": 0.25})
    later = _arguments(rng, F32, [4, 3], [9, 3], 4, 2, 16, 8, extra=2)
    later["cum_seq_lens_q"] += 2
    yield Sample("starts-at-2", later, {"scale": 0.25})


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    good = _arguments(rng, F32, [5, 4], [5, 17], 4, 2, 8, 16)
    slopes = uniform(rng, (4,), F32)
    error = Errors({n: t for n, t in good.items() if t is not None} | {"alibi_slopes": slopes}, {"scale": 0.3})
    yield from cache_errors(error, good)
    cum = good["cum_seq_lens_q"]
    yield error("starts-i32", Status.BAD_TENSOR_DTYPE, "cum_seq_lens_q", cum_seq_lens_q=cum.astype(np.int32))
    yield error("starts-rank", Status.BAD_TENSOR_SHAPE, "cum_seq_lens_q", cum_seq_lens_q=cum[None])
    yield error("starts-stride", Status.BAD_TENSOR_STRIDES, "cum_seq_lens_q", cum_seq_lens_q=empty((3,), I64, (2,)))
    for extent in (2, 4):
        yield error(f"starts-{extent}", Status.BAD_PARAM, "cum_seq_lens_q", cum_seq_lens_q=empty((extent,), I64))
    for name, values in (
        ("negative", [-1, 4, 9]),
        ("decreasing", [0, 5, 4]),
        ("beyond", [0, 5, 10]),
        ("huge", [0, 2**62, 9]),
    ):
        yield error(f"starts-{name}", Status.BAD_PARAM, "cum_seq_lens_q", at="run", cum_seq_lens_q=np.array(values))
    for name, entry in (("negative", -1), ("beyond", len(good["k_cache"])), ("huge", 2**62)):
        table = np.array(good["block_tables"])
        table[1, 1] = entry
        yield error(f"block-{name}", Status.BAD_PARAM, "block_tables", at="run", block_tables=table)
    width = good["block_tables"].shape[1]
    for name, length in (("beyond", width * 16 + 1), ("huge", 2**62)):
        yield error(f"length-{name}", Status.BAD_PARAM, "seq_lens", at="run", seq_lens=np.array([5, length]))
    tables = good["block_tables"].astype(np.int32)
    yield error("tables-i32", Status.BAD_TENSOR_DTYPE, "seq_lens", block_tables=tables)


paged_attention_prefill = Operator(
    name="paged_attention_prefill",
    symbol="PagedAttentionPrefill",
    summary="Attention of packed queries of several sequences against a paged KV cache.",
    axes={"ntok": "query tokens of all sequences", "nseq": "sequences", "nstarts": "nseq + 1", **CACHE_AXES},
    dtypes={"T": FLOATS, "I": (I64, I32, U32)},
    tensors=(
        Tensor("out", Role.OUT, "ntok nh dv", "T", Strides.UNIT_LAST, "result",
               written="rows of queries that see at least one key; the rest is untouched"),
        Tensor("q", Role.IN, "ntok nh d", "T", Strides.UNIT_LAST, "queries of one sequence after the other"),
        Tensor("k_cache", Role.IN, "nblocks nkvh block_size d", "T", Strides.UNIT_LAST, "key cache"),
        Tensor("v_cache", Role.IN, "nblocks nkvh block_size dv", "T", Strides.UNIT_LAST, "value cache"),
        Tensor("block_tables", Role.IN, "nseq max_blocks", "I", Strides.UNIT_LAST, "blocks of each sequence"),
        Tensor("seq_lens", Role.IN, "nseq", "I", Strides.CONTIGUOUS, "tokens of each sequence, history included"),
        Tensor("cum_seq_lens_q", Role.IN, "nstarts", "I", Strides.CONTIGUOUS, "first query of each sequence; end"),
        Tensor("alibi_slopes", Role.IN, "nh", F32.name, Strides.CONTIGUOUS, "ALiBi slope of each head",
               optional=True, null_at_run=True),
    ),
    attrs=(Attr("scale", "float", doc="factor of the scores, usually 1 / sqrt(d)"),),
    constraints=(
        *CACHE_CONSTRAINTS,
        Constraint("nstarts == nseq + 1", "cum_seq_lens_q", "one entry more than sequences", Status.BAD_PARAM),
    ),
    semantics=(
        "Sequence s has the queries cum_seq_lens_q[s] <= r < cum_seq_lens_q[s + 1]; the i-th of its n sees the keys "
        "t <= last = seq_lens[s] - n + i.",
        "out[r, h] = Σ_t w_t v_t, with w_t = exp(x_t - max x) / (Σ_u exp(x_u - max x) + 1e-6) and "
        "x_t = scale * q[r, h] · k_t + alibi_slopes[h] * (t - last).",
        "The new tokens' keys and values are in the cache already.",
        "A query that sees no key (last < 0), and a row that belongs to no sequence, leave the output untouched. "
        "A sequence without queries is not looked at.",
        "Values of cum_seq_lens_q that are negative, decrease or exceed ntok are BAD_PARAM on the CPU.",
        *CACHE_SEMANTICS,
    ),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
    tolerances=TOLERANCES,
)  # fmt: skip
