"""softmax, log_softmax and causal_softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from .values import wide


def softmax(y: Tensor, x: Tensor, axis: int) -> None:
    y.copy_(torch.softmax(wide(x), axis))


def log_softmax(output: Tensor, input: Tensor, dim: int) -> None:
    output.copy_(torch.log_softmax(wide(input), dim))


def causal_softmax(y: Tensor, x: Tensor) -> None:
    s, t = x.shape[-2:]
    masked = torch.ones(s, t, dtype=torch.bool, device=x.device).triu(t - s + 1)
    probabilities = torch.softmax(wide(x).masked_fill(masked, -torch.inf), -1)
    y.copy_(probabilities.masked_fill(masked, 0))
