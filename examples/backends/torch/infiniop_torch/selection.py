"""topk, random_sample, random_sample_batch and sample."""

from __future__ import annotations

import math

import torch
from numpy import ndarray
from torch import Tensor

from infiniop.schema import BadValue

from .values import check


def topk(
    values_output: Tensor, indices_output: Tensor, input: Tensor, k: int, dim: int, largest: bool, sorted: bool
) -> None:
    """A stable sort, because among equal entries the lower index wins; torch, too, takes NaN for the largest."""
    values, indices = input.sort(dim=dim, descending=largest, stable=True)
    values_output.copy_(values.narrow(dim, 0, k))
    indices_output.copy_(indices.narrow(dim, 0, k))


# ---- InfiniCore's sampling --------------------------------------------------------------------------------------


def random_sample(result: Tensor, probs: Tensor, random_val: float, topp: float, topk: int, temperature: float) -> None:
    result.copy_(_draw(probs, random_val, topp, topk, temperature))


def random_sample_batch(
    result: Tensor, probs: Tensor, random_val: ndarray, topp: ndarray, topk: ndarray, temperature: ndarray,
    batch_size: int,
) -> None:  # fmt: skip
    """The parameters lie in host memory."""
    columns = {"random_val": random_val, "topp": topp, "topk": topk, "temperature": temperature}
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    for i, row in enumerate(rows):
        for name, value in zip(columns, row, strict=True):
            if not _is_legal(name, value, row):
                raise BadValue(name, _LEGAL[name], f"{value} at [{i}]")
    for i, row in enumerate(rows):
        result[i].copy_(_draw(probs[i], *row))


_LEGAL = {
    "random_val": "values from 0 to 1", "topp": "values from 0 upwards", "topk": "values other than 0",
    "temperature": "values from 0 upwards",
}  # fmt: skip


def _is_legal(name: str, value: float, row: tuple) -> bool:
    if name == "topk":
        return value != 0 or _is_argmax(*row)
    return 0 <= value <= 1 if name == "random_val" else value >= 0


def _is_argmax(random_val: float, topp: float, topk: int, temperature: float) -> bool:
    return random_val == 0 or topp == 0 or topk == 1 or temperature == 0


def _draw(logits: Tensor, random_val: float, topp: float, topk: int, temperature: float) -> Tensor:
    if _is_argmax(random_val, topp, topk, temperature):
        return logits.argmax()
    ordered, tokens = logits.double().sort(descending=True, stable=True)
    sums = ((ordered - ordered[0]) / temperature).exp().cumsum(0)
    kept = len(sums) if topk < 0 else min(topk, len(sums))
    target = random_val * torch.minimum(sums[kept - 1], topp * sums[-1])
    first = torch.searchsorted(sums, target)
    return tokens[first.clamp(max=len(sums) - 1)]


# ---- infiniop's own ---------------------------------------------------------------------------------------------


def sample(
    tokens: Tensor, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seed: Tensor,
    position: Tensor,
) -> None:  # fmt: skip
    """All rows at once, without a look at the values, so that nothing waits for the device."""
    legal = check((temperature >= 0) & (temperature < math.inf), temperature, "temperature", "finite values from 0")
    legal = legal & check(top_p > 0, top_p, "top_p", "values above 0")
    legal = legal & check(min_p <= 1, min_p, "min_p", "values up to 1")
    x = logits.double()
    best = x.amax(-1, keepdim=True)
    greedy = (temperature == 0) | ~best.isfinite().squeeze(-1)
    mass = ((x - best) / temperature.double().unsqueeze(-1)).exp()
    mass = torch.where(_top_k(x, top_k), mass, 0.0)
    mass = torch.where(_top_p(mass, top_p), mass, 0.0)
    mass = torch.where(mass < min_p.double().unsqueeze(-1), 0.0, mass)
    sums = mass.cumsum(-1)
    target = _uniform(seed, position).unsqueeze(-1) * sums[:, -1:]
    drawn = torch.searchsorted(sums, target, right=True).squeeze(-1)
    tokens.copy_(torch.where(legal, torch.where(greedy, x.argmax(-1), drawn), -1))


def _top_k(x: Tensor, top_k: Tensor) -> Tensor:
    """Entries of at least the k-th largest."""
    vocab = x.shape[-1]
    everything = (top_k <= 0) | (top_k >= vocab)
    place = torch.where(everything, vocab, top_k).long() - 1
    least = x.sort(descending=True).values.gather(-1, place.unsqueeze(-1))
    return everything.unsqueeze(-1) | (x >= least)


def _top_p(mass: Tensor, top_p: Tensor) -> Tensor:
    """Entries before which, in descending order, less than top_p of the mass lies."""
    ordered, tokens = mass.sort(descending=True, stable=True)
    share = torch.where(top_p < 1, top_p.double(), math.inf).unsqueeze(-1)
    kept = ordered.cumsum(-1) - ordered < share * ordered.sum(-1, keepdim=True)
    return torch.zeros_like(kept).scatter(-1, tokens, kept)


def _uniform(seed: Tensor, position: Tensor) -> Tensor:
    """Numbers in [0, 1) of 24 bits: Philox4x32-10 with the seed for a key and the position for a counter."""
    word = 0xFFFFFFFF
    key, counter = seed.view(torch.int64), position
    k0, k1 = key & word, key >> 32 & word
    c0, c1 = counter & word, counter >> 32 & word
    c2 = c3 = torch.zeros_like(c0)
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # wraps around: all 64 bits are there
        c0, c1, c2, c3 = (right >> 32 & word) ^ c1 ^ k0, right & word, (left >> 32 & word) ^ c3 ^ k1, left & word
        k0, k1 = k0 + 0x9E3779B9 & word, k1 + 0xBB67AE85 & word
    return (c0 >> 8).double() * 2.0**-24
