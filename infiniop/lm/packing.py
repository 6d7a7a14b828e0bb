"""Weights in a device's own layout for `linear`, quantised to int8 or int4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import infiniop
from infiniop import ops

if TYPE_CHECKING:
    from infiniop import Tensor

    from .quantized import QuantizedWeight

FORMATS = {"int8": 1, "int4": 2}
"""Names of the formats, and what `linear_pack` calls them."""

QUANTIZATIONS = (*FORMATS, *(f"{name}-a8" for name in FORMATS))
"""What `quantize` may be. With -a8 activations are rounded to 8 bits before a product, else to 16."""

OPERATORS = ("linear", "linear_pack", "linear_packed_size")
"""What a device needs for packed weights."""

_GROUP_SIZE = 32  # input features that share a scale
_LEAST_GROUP = 8  # below it the scales cost more than they are worth: the weight stays as it is


class Packer:
    """Packs weights on one device."""

    def __init__(self, device: Any, available: Iterable[str], quantize: str | None):
        """`quantize`: one of `QUANTIZATIONS` for float weights, or None: they stay as they are.

        Raises `ValueError` for another one, and for a device without packed weights.
        """
        if quantize is not None and quantize not in QUANTIZATIONS:
            raise ValueError(f"quantize must be one of {', '.join(QUANTIZATIONS)} or None, got {quantize!r}")
        self.possible = set(available).issuperset(OPERATORS)
        if quantize is not None and not self.possible:
            raise ValueError(f"device {str(device)!r} lacks {', '.join(OPERATORS)}, which quantize={quantize!r} needs")
        self._device = device
        self.quantize = None if quantize is None else quantize.removesuffix("-a8")
        self.activation_bits = 8 if quantize != self.quantize else 16

    def integers(self, weight: QuantizedWeight) -> Tensor:
        """A quantised layer's weight, as exact as it came."""
        integers, scales, zeros = (
            infiniop.from_numpy(array).to(self._device) for array in (weight.integers, weight.scales, weight.zeros)
        )
        return _pack(integers, scales, zeros, f"int{weight.bits}", weight.group_size)

    def floats(self, weight: Tensor, format: str | None = None) -> Tensor:
        """A float weight `[n, k]` on the device, quantised; itself when it is not to be, or has no fitting groups."""
        format = format or self.quantize
        group_size = next((g for g in range(_GROUP_SIZE, _LEAST_GROUP - 1, -1) if weight.shape[1] % g == 0), None)
        if format is None or group_size is None:
            return weight
        return _pack(weight, None, None, format, group_size)


def _pack(weight: Tensor, scales: Tensor | None, zeros: Tensor | None, format: str, group_size: int) -> Tensor:
    options = {"format": FORMATS[format], "group_size": group_size}
    size = int(ops.linear_packed_size(weight, scales, zeros, **options).to("cpu").numpy())
    packed = infiniop.empty((size,), dtype=infiniop.uint8, device=weight.device)
    return ops.linear_pack(weight, scales, zeros, **options, out=packed)
