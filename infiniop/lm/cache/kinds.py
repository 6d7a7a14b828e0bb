"""The kind of array that came in is the kind that goes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

if TYPE_CHECKING:
    from infiniop import Tensor


def kind_of(array: Any) -> Callable[[Tensor], Any]:
    """What turns a tensor into the kind of `array`: infiniop's, NumPy's or torch's, without a copy."""
    if isinstance(array, np.ndarray):
        return lambda tensor: tensor.to("cpu").numpy()
    if type(array).__module__.partition(".")[0] == "torch":
        import torch

        return torch.from_dlpack
    return lambda tensor: tensor


def as_pair(k: Any, v: Any, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """`as_tokens` of keys and values, which must have one shape."""
    keys, values = as_tokens("k", k, shape, like), as_tokens("v", v, shape, like)
    if keys.shape != values.shape:
        raise ValueError(f"k {list(keys.shape)} and v {list(values.shape)} must have one shape")
    return keys, values


def as_tokens(name: str, array: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An array of this shape on the memory's device and in its dtype; -1 takes any extent. Raises `ValueError` for
    another shape, `TypeError` for another dtype."""
    tensor = infiniop.asarray(array)
    if tensor.ndim != len(shape) or any(want not in (-1, got) for want, got in zip(shape, tensor.shape, strict=True)):
        wanted = ["any" if extent == -1 else extent for extent in shape]
        raise ValueError(f"{name} must have shape {wanted}, got {list(tensor.shape)}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype!r}, as the cache is, got {tensor.dtype!r}")
    return tensor.to(like.device)
