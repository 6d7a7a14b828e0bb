"""How a model is spread over devices: `DistConfig`, and the shard of a parameter that a rank keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .config import LlamaConfig


class DistConfig:
    """Tensor-parallel ranks, as a number or as device ids, and pipeline stages."""

    def __init__(self, tp_size: int | None = None, tp_device_ids: Sequence[int] | None = None, pp_size: int = 1):
        if tp_size is not None and tp_device_ids is not None:
            raise ValueError("Provide either tp_size OR tp_device_ids, not both")
        self.tp_device_ids = _device_ids(tp_size, tp_device_ids)
        if _integer("pp_size", pp_size) < 1:
            raise ValueError(f"pp_size must be at least 1, got {pp_size}")
        self.pp_size = pp_size

    @property
    def tp_size(self) -> int:
        return len(self.tp_device_ids)

    @property
    def world_size(self) -> int:
        return self.tp_size * self.pp_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DistConfig) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((tuple(self.tp_device_ids), self.pp_size))

    def __repr__(self) -> str:
        stages = f", pp_size={self.pp_size}" if self.pp_size != 1 else ""
        return f"DistConfig(tp_device_ids={self.tp_device_ids}{stages})"


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return value


def _device_ids(tp_size: int | None, tp_device_ids: Sequence[int] | None) -> list[int]:
    if tp_size is not None:
        if _integer("tp_size", tp_size) < 1:
            raise ValueError(f"tp_size must be at least 1, got {tp_size}")
        return list(range(tp_size))
    ids = [_integer("tp_device_ids", value) for value in ([0] if tp_device_ids is None else tp_device_ids)]
    if not ids or len(set(ids)) != len(ids) or min(ids) < 0:
        raise ValueError(f"tp_device_ids must be distinct ids of at least 0, and at least one, got {ids}")
    return ids


def check_split(config: LlamaConfig, ranks: DistConfig) -> None:
    """Raises `ValueError`, which says what would do, when a model cannot be spread so."""
    size = ranks.tp_size
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        extent = getattr(config, name)
        if extent % size:
            would = _divisors(extent)
            raise ValueError(f"{name} ({extent}) cannot be split over {size} ranks; {would} would divide it")
    if ranks.pp_size > config.num_hidden_layers:
        raise ValueError(f"{config.num_hidden_layers} layers cannot be split into {ranks.pp_size} stages")


def _divisors(extent: int) -> list[int]:
    return [n for n in range(1, min(extent, 64) + 1) if extent % n == 0]


def get_tensor_parallel_shard(param: np.ndarray, axis: int | None, rank: int, size: int) -> np.ndarray:
    """The part of a full parameter that tensor-parallel rank `rank` of `size` keeps: a view; all of it for axis
    None."""
    if not 0 <= rank < size:
        raise ValueError(f"rank must be between 0 and {size - 1}, got {rank}")
    if axis is None or size == 1:
        return param
    extent = param.shape[axis]
    if extent % size:
        raise ValueError(
            f"{extent} along axis {axis} cannot be split over {size} ranks; {_divisors(extent)} would divide it"
        )
    part = extent // size
    return param[(slice(None),) * axis + (slice(rank * part, (rank + 1) * part),)]
