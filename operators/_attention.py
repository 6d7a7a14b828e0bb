"""What the references of the attention operators share."""

from __future__ import annotations

import numpy as np

from infiniop.schema import BF16, F16, F32, BadValue

from ._floats import f64

# Weights may be rounded to the storage type before they meet the values (tensor cores): half a unit in the last place
# of values up to 1, besides the rounding of the result.
TOLERANCES = {F16: (5e-4, 1e-3), BF16: (4e-3, 8e-3), F32: (5e-6, 1e-5)}

EPSILON = 1e-6
"""What InfiniCore's paged kernels add to the sum of weights, which is at least 1."""


def attend(q, k, v, scale: float, visible: np.ndarray, slopes: np.ndarray | None = None, epsilon: float = 0.0):
    """softmax(scale q kᵀ + bias) v in float64: q [nh, s, d], k [nkvh, t, d], v [nkvh, t, dv] -> [nh, s, dv].

    Query i sees the first visible[i] keys; one that sees none gives 0. The ALiBi bias is
    slope * (t - (visible[i] - 1)).
    """
    (nh, s, d), (nkvh, t, dv) = q.shape, v.shape
    group = nh // max(nkvh, 1)
    scores = scale * (f64(q).reshape(nkvh, group, s, d) @ f64(k).reshape(nkvh, 1, t, d).swapaxes(-1, -2))
    distance = np.arange(t) - (np.asarray(visible)[:, None] - 1)
    if slopes is not None:
        scores = scores + f64(slopes).reshape(nkvh, group, 1, 1) * distance
    scores = np.where(distance <= 0, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / np.where(total == 0, 1.0, total + epsilon)
    return (weights @ f64(v).reshape(nkvh, 1, t, dv)).reshape(nh, s, dv)


def check_table(block_tables, seq_lens, sequence: int, nblocks: int, block_size: int) -> None:
    """Raises `BadValue` for a length beyond the table or a used entry that is no block."""
    length, width = int(seq_lens[sequence]), block_tables.shape[1]
    if length <= 0:
        return
    if length > width * block_size:
        raise BadValue("seq_lens", f"lengths up to {width * block_size}", f"{length} at [{sequence}]")
    for i, block in enumerate(block_tables[sequence, : -(-length // max(block_size, 1))].tolist()):
        if not 0 <= block < nblocks:
            raise BadValue("block_tables", f"blocks below {nblocks}", f"{block} at [{sequence}, {i}]")


def gather(cache: np.ndarray, table: np.ndarray, length: int) -> np.ndarray:
    """The first `length` rows of a sequence as [nkvh, length, d]."""
    _, nkvh, block_size, d = cache.shape
    blocks = cache[table[: -(-length // block_size)].astype(np.int64)]
    return blocks.swapaxes(0, 1).reshape(nkvh, len(blocks) * block_size, d)[:, :length]
