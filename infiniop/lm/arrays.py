"""Between `infiniop.Tensor` and the host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop
from infiniop.schema import FLOATS, DType
from infiniop.schema import dtype as _as_dtype

if TYPE_CHECKING:
    from infiniop import Tensor


def infini_to_numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as a NumPy array: without a copy on the CPU (bfloat16 as `ml_dtypes.bfloat16`), else moved there
    first."""
    return tensor.to("cpu").numpy()


def resolve_dtype(dtype: Any) -> DType:
    """float32, bfloat16 or float16, from a name, an infiniop, NumPy or torch dtype. Raises `ValueError` for others."""
    name = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    if type(dtype).__module__ == "torch":
        name = str(dtype).removeprefix("torch.")
    try:
        found = _as_dtype(name)
    except TypeError:
        found = None
    if found not in FLOATS:
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    return found


def token_rows(input_ids: Any) -> list[list[int]]:
    """Token ids as one list per sequence, from a flat or nested sequence, or from any array of rank 1 or 2."""
    if not isinstance(input_ids, Iterable):
        raise TypeError(f"input_ids must be a sequence or an array of token ids, got {type(input_ids).__name__}")
    nested = input_ids.tolist() if hasattr(input_ids, "tolist") else list(input_ids)
    nested = [row.tolist() if hasattr(row, "tolist") else row for row in nested]
    rows = nested if nested and all(isinstance(row, list | tuple) for row in nested) else [nested]
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"input_ids: sequence {number} is empty")
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in row):
            raise TypeError(f"input_ids: sequence {number} must hold integers only")
    return [list(row) for row in rows]


def available_operators(device: Any, names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that a backend of the device has and that a call would use: `INFINIOP_BACKENDS` narrows them,
    and backends that are only chosen by name count where it names them."""
    where = infiniop.Device(device).name
    named = [name for name in os.environ.get("INFINIOP_BACKENDS", "").split(",") if name]
    usable = [b for b in infiniop.backends() if b.device == where and not b.error]
    usable = [b for b in usable if (b.name in named if named else not b.explicit_only)]
    return frozenset(name for name in names if any(b.has(name) for b in usable))


def free_bytes(device: Any) -> int | None:
    """Free memory of a device; None where it does not tell."""
    try:
        return infiniop.runtime.memory_info(device)[0]
    except infiniop.InfiniopError:
        return None
