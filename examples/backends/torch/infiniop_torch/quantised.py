"""linear_pack and linear_packed_size, and what linear makes of a packed weight.

After the 64 bytes that every backend writes (`linear_pack`'s page): the weight's rows as they are; or, of int8 and int4
scales and zeros in f32, then the codes: one per byte, or of int4 two, the first in the low half.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor
from torch.nn import functional

from infiniop.arrays import torch_dtypes
from infiniop.schema import BadValue

HEADER = struct.Struct("<8sIIqqqII16x")  # magic, version, format, n, k, group size, dtype, layout
MAGIC, VERSION = b"INFINIPK", 1
OWN_DTYPE, INT8, INT4 = range(3)
LAYOUT = 0x544F5243  # "TORC": nobody else's


def linear_packed_size(
    size: Tensor, weight: Tensor, scales: Tensor | None, zeros: Tensor | None, format: int, group_size: int
) -> None:
    n, k = weight.shape
    size.fill_(HEADER.size + sum(_sizes(n, k, weight.itemsize, format, group_size)))


def linear_pack(
    packed: Tensor, weight: Tensor, scales: Tensor | None, zeros: Tensor | None, format: int, group_size: int
) -> None:
    n, k = weight.shape
    sizes = _sizes(n, k, weight.itemsize, format, group_size)
    end = HEADER.size + sum(sizes)
    if len(packed) < end:
        raise BadValue("packed", f"{end} bytes, as linear_packed_size says", f"{len(packed)}")
    code = torch_dtypes()[0][weight.dtype].code
    if format == OWN_DTYPE:
        parts = [weight.contiguous()]
    else:
        if scales is None:
            weight, scales = _quantise(weight, format, group_size)
        zeros = torch.zeros_like(scales) if zeros is None else zeros
        codes = weight if format == INT8 else _nibbles(weight)
        parts = [scales.float().contiguous(), zeros.float().contiguous(), codes.contiguous()]
    header = HEADER.pack(MAGIC, VERSION, format, n, k, group_size, code, LAYOUT)
    parts.insert(0, torch.frombuffer(bytearray(header), dtype=torch.uint8).to(packed.device))
    packed[:end].copy_(torch.cat([part.flatten().view(torch.uint8) for part in parts]))


def unpack(packed: Tensor, n: int, k: int, dtype: torch.dtype) -> Tensor:
    """The weight [n, k] of y [m, n] and x [m, k] of `dtype`; f32 where quantised."""
    own = torch_dtypes()[0][dtype].code
    format, group_size, code = _read_header(packed, n, k, own)
    parts = packed[HEADER.size :].split_with_sizes(_fill(packed, _sizes(n, k, dtype.itemsize, format, group_size)))
    if format == OWN_DTYPE:
        return parts[0].view(dtype).view(n, k)
    groups = _groups(k, group_size)
    scales, zeros = (part.view(torch.float32).view(n, groups, 1) for part in parts[:2])
    unsigned = code == torch_dtypes()[0][torch.uint8].code
    codes = parts[2]
    if format == INT4:
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten()[: n * k]
        codes = codes if unsigned else (codes ^ 8) - 8
    codes = codes if unsigned else codes.view(torch.int8)
    return ((codes.float().view(n, groups, k // max(groups, 1)) - zeros) * scales).view(n, k)


def _read_header(packed: Tensor, n: int, k: int, own: int) -> tuple[int, int, int]:
    """Format, group size and dtype, on the host."""

    def require(condition: bool, expected: str, got: object) -> None:
        if not condition:
            raise BadValue("weight", expected, str(got))

    require(len(packed) >= HEADER.size, f"a packed weight of at least {HEADER.size} bytes", f"{len(packed)} bytes")
    magic, version, format, *extents, group_size, code, layout = HEADER.unpack(bytes(packed[: HEADER.size].tolist()))
    require((magic, version) == (MAGIC, VERSION), f"a packed weight of version {VERSION}", f"{magic!r}, {version}")
    require(layout == LAYOUT, "a layout of this backend", f"layout {layout}, packed by another one")
    require(format in (OWN_DTYPE, INT8, INT4), "a format from 0 to 2", format)
    require(extents == [n, k], f"a packed weight of {[n, k]}", extents)
    if format == OWN_DTYPE:
        require(code == own and group_size == 0, "a packed weight with the dtype of x, without groups", code)
    divides = group_size == 0 or (group_size > 0 and k % group_size == 0)
    require(divides, "a group size that divides the input features", group_size)
    known = [made.code for dtype, made in torch_dtypes()[0].items() if dtype in _PACKABLE]
    require(code in known, "a dtype that linear_pack takes", code)
    return format, group_size, code


_PACKABLE = (torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.uint8)


def _fill(packed: Tensor, sizes: list[int]) -> list[int]:
    """`sizes` and what is left of the buffer behind them."""
    rest = len(packed) - HEADER.size - sum(sizes)
    if rest < 0:
        raise BadValue("weight", f"{HEADER.size + sum(sizes)} bytes", f"{len(packed)}")
    return [*sizes, rest]


def _groups(k: int, group_size: int) -> int:
    """Scales per row."""
    return k // group_size if group_size else 1


def _sizes(n: int, k: int, itemsize: int, format: int, group_size: int) -> list[int]:
    """Bytes of the parts behind the header."""
    if format == OWN_DTYPE:
        return [n * k * itemsize]
    numbers = 4 * n * _groups(k, group_size)
    return [numbers, numbers, n * k if format == INT8 else (n * k + 1) // 2]


def _nibbles(weight: Tensor) -> Tensor:
    low, high = (0, 15) if weight.dtype == torch.uint8 else (-8, 7)
    if ((weight < low) | (weight > high)).any():
        raise BadValue("weight", f"elements from {low} to {high}", f"{weight.min()} to {weight.max()}")
    flat = weight.flatten().view(torch.uint8) & 15
    flat = functional.pad(flat, (0, flat.numel() % 2))
    return flat[0::2] | flat[1::2] << 4


def _quantise(weight: Tensor, format: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Codes [n, k] and bf16 scales [n, groups] of a float weight, as linear_pack's page says."""
    n, k = weight.shape
    groups = _groups(k, group_size)
    w = weight.float().reshape(n, groups, k // max(groups, 1))
    if not w.isfinite().all():
        raise BadValue("weight", "finite elements, to be quantised", "an infinity or NaN")
    low, high = functional.pad(w, (0, 1)).aminmax(dim=-1)  # the padding: rows without elements
    if format == INT8:
        scales, least, most = torch.maximum(-low, high) / 127, -127, 127
    else:
        scales, least, most = torch.where(-low >= high, low, high) / -8, -8, 7
    scales = scales.bfloat16()
    divisor = scales.float().unsqueeze(-1)
    steps = torch.where(divisor == 0, 0.0, w / divisor)
    return steps.clamp(least, most).round().to(torch.int8).view(n, k), scales
