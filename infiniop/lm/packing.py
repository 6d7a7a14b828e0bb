"""Weights in a device's own layout for `linear`, quantised to int8 or int4."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import infiniop
from infiniop import ops

if TYPE_CHECKING:
    from infiniop import Tensor

    from .quantized import QuantizedWeight

FORMATS = {"int8": 1, "int4": 2}
"""Names of the formats, and what `linear_pack` calls them."""

OPERATORS = ("linear", "linear_pack", "linear_packed_size")
"""What a device needs for packed weights."""

_LEAST_GROUP = 8  # below it the scales cost more than they are worth: the weight stays as it is


@dataclass(frozen=True)
class Quantization:
    """What `quantize` asks for. `group_size`: input features that share a scale; `output`: the format of an output that
    shares its weight with the embedding; `activation_bits`: what activations are rounded to before a product."""

    format: str
    group_size: int = 32
    output: str = "int8"
    activation_bits: int = 16

    @classmethod
    def parse(cls, text: str) -> Quantization:
        """`int8` or `int4`, then `-g` and a group size, `-o4` (int4 for a tied output as well), `-a8` (activations of 8
        bits), each where it is wanted and in this order."""
        found = re.fullmatch(r"(int8|int4)(?:-g([1-9]\d{0,5}))?(-o4)?(-a8)?", text)
        if found is None or int(found[2] or _LEAST_GROUP) < _LEAST_GROUP:
            raise ValueError(
                f"quantize must be int8 or int4, where wanted with -g and a group size of {_LEAST_GROUP} or more, -o4, "
                f"-a8 (as in int4-g128-o4-a8), or None; got {text!r}"
            )
        group_size = int(found[2] or cls.group_size)
        return cls(found[1], group_size, "int4" if found[3] else cls.output, 8 if found[4] else cls.activation_bits)


class Packer:
    """Packs weights on one device."""

    def __init__(self, device: Any, available: Iterable[str], quantize: str | None):
        """`quantize`: what `Quantization.parse` reads, for float weights, or None: they stay as they are.

        Raises `ValueError` for anything else, and for a device without packed weights.
        """
        self._quantization = None if quantize is None else Quantization.parse(quantize)
        self.possible = set(available).issuperset(OPERATORS)
        if quantize is not None and not self.possible:
            raise ValueError(f"device {str(device)!r} lacks {', '.join(OPERATORS)}, which quantize={quantize!r} needs")
        self._device = device

    @property
    def quantizes(self) -> bool:
        return self._quantization is not None

    @property
    def activation_bits(self) -> int:
        return 16 if self._quantization is None else self._quantization.activation_bits

    def integers(self, weight: QuantizedWeight) -> Tensor:
        """A quantised layer's weight, as exact as it came."""
        integers, scales, zeros = (
            infiniop.from_numpy(array).to(self._device) for array in (weight.integers, weight.scales, weight.zeros)
        )
        return _pack(integers, scales, zeros, f"int{weight.bits}", weight.group_size)

    def floats(self, weight: Tensor, tied_output: bool = False) -> Tensor:
        """A float weight `[n, k]` on the device, quantised; itself when it is not to be, or has no fitting groups."""
        wanted = self._quantization
        if wanted is None:
            return weight
        sizes = range(wanted.group_size, _LEAST_GROUP - 1, -1)
        group_size = next((g for g in sizes if weight.shape[1] % g == 0), None)
        if group_size is None:
            return weight
        return _pack(weight, None, None, wanted.output if tied_output else wanted.format, group_size)


def _pack(weight: Tensor, scales: Tensor | None, zeros: Tensor | None, format: str, group_size: int) -> Tensor:
    options = {"format": FORMATS[format], "group_size": group_size}
    size = int(ops.linear_packed_size(weight, scales, zeros, **options).to("cpu").numpy())
    packed = infiniop.empty((size,), dtype=infiniop.uint8, device=weight.device)
    return ops.linear_pack(weight, scales, zeros, **options, out=packed)
