"""Quantised checkpoints: the tensors of AWQ and GPTQ, read as integers with scales and zero points.

A quantised layer has `qweight`, `qzeros`, `scales` (and `g_idx`) where a plain one has `weight`. Both formats put
several integers into one int32: AWQ along the outputs in an order of its own, GPTQ along the inputs of the weight and
along the outputs of the zero points. (Layouts as in AutoAWQ's "gemm" version and in GPTQModel's "gptq" and "gptq_v2".)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checkpoint import Checkpoint, CheckpointError
from .distributed import get_tensor_parallel_shard

_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight neighbours each nibble holds, from the lowest


@dataclass(frozen=True)
class QuantizedWeight:
    """weight[n, k] = (integers[n, k] - zeros[n, group]) * scales[n, group], group = k // group_size.

    `integers` u8 `[n, k]`, `zeros` u8 and `scales` floats `[n, groups]`. With `column_groups` `[k]` (act order) a
    column's group is what it says instead.
    """

    bits: int
    integers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    column_groups: np.ndarray | None = None

    @property
    def group_size(self) -> int:
        return self.integers.shape[1] // self.scales.shape[1]

    def shard(self, axis: int | None, rank: int, size: int) -> QuantizedWeight:
        """What a rank keeps, as `get_tensor_parallel_shard`. Raises `ValueError` when that would divide a group."""
        part = functools.partial(get_tensor_parallel_shard, rank=rank, size=size)
        if axis != 1:
            rows = [np.ascontiguousarray(part(a, axis=axis)) for a in (self.integers, self.scales, self.zeros)]
            return QuantizedWeight(self.bits, rows[0], rows[1], rows[2], self.column_groups)
        integers, groups = np.ascontiguousarray(part(self.integers, axis=1)), self.scales.shape[1]
        if self.column_groups is not None:
            return QuantizedWeight(self.bits, integers, self.scales, self.zeros, part(self.column_groups, axis=0))
        if groups == 1:
            return QuantizedWeight(self.bits, integers, self.scales, self.zeros)
        scales, zeros = (np.ascontiguousarray(part(a, axis=1)) for a in (self.scales, self.zeros))
        return QuantizedWeight(self.bits, integers, scales, zeros)

    def dequantized(self) -> np.ndarray:
        """The weight in f32, `[n, k]`."""
        groups = self.column_groups
        if groups is None:
            groups = np.arange(self.integers.shape[1]) // self.group_size
        scales = self.scales.astype(np.float32)
        return (self.integers.astype(np.float32) - self.zeros.astype(np.float32)[:, groups]) * scales[:, groups]


@dataclass(frozen=True)
class _Awq:
    bits: int

    def shape(self, qweight: tuple[int, ...]) -> tuple[int, int]:
        """`[n, k]` of the weight."""
        return qweight[1] * 8, qweight[0]

    def integers(self, qweight: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._columns(qweight).T)

    def zeros(self, qzeros: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._columns(qzeros).T)

    def _columns(self, packed: np.ndarray) -> np.ndarray:
        """`[rows, 8 * columns]` of u8 from `[rows, columns]` of int32."""
        packed_bytes = _bytes(packed)
        out = np.empty((*packed.shape, 8), np.uint8)
        out[..., _AWQ_COLUMNS[0::2]] = packed_bytes & 15
        out[..., _AWQ_COLUMNS[1::2]] = packed_bytes >> 4
        return out.reshape(len(packed), -1)


@dataclass(frozen=True)
class _Gptq:
    bits: int
    offset: int  # the first format stores zero points less one

    def shape(self, qweight: tuple[int, ...]) -> tuple[int, int]:
        """`[n, k]` of the weight."""
        return qweight[1], qweight[0] * (32 // self.bits)

    def integers(self, qweight: np.ndarray) -> np.ndarray:
        return self._unpacked(qweight.T)

    def zeros(self, qzeros: np.ndarray) -> np.ndarray:
        stored = self._unpacked(qzeros)
        return np.ascontiguousarray(((stored + self.offset) & (2**self.bits - 1)).astype(np.uint8).T)

    def _unpacked(self, packed: np.ndarray) -> np.ndarray:
        """`[rows, columns * 32 / bits]` of u8 from `[rows, columns]` of int32, the lowest bits first."""
        packed_bytes = _bytes(packed)
        if self.bits == 8:
            return packed_bytes.reshape(len(packed), -1)
        out = np.empty((*packed.shape, 8), np.uint8)
        out[..., 0::2] = packed_bytes & 15
        out[..., 1::2] = packed_bytes >> 4
        return out.reshape(len(packed), -1)


def _bytes(packed: np.ndarray) -> np.ndarray:
    """`[rows, columns, 4]` of u8, the lowest first, from `[rows, columns]` of int32."""
    return np.ascontiguousarray(packed, "<i4").view(np.uint8).reshape(*packed.shape, 4)


class QuantizedCheckpoint:
    """A checkpoint with quantised layers, by the names of plain ones: `x.weight` where the files have `x.qweight`."""

    def __init__(self, files: Checkpoint, config: dict[str, Any]):
        """`config`: config.json's `quantization_config`. Raises `CheckpointError` for a method that is not supported,
        and for tensors that contradict each other, before anything is read."""
        self.path = files.path
        self._files = files
        self._scheme = _scheme(files, config)
        layers = [name.removesuffix(".qweight") for name in files if name.endswith(".qweight")]
        self._layers = {f"{layer}.weight": layer for layer in layers}
        self._parts = {f"{layer}.{part}" for layer in layers for part in ("qweight", "qzeros", "scales", "g_idx")}
        for layer in layers:
            self._check(layer)

    def _check(self, layer: str) -> None:
        for part in ("qweight", "qzeros", "scales"):
            if f"{layer}.{part}" not in self._files:
                raise CheckpointError(f"{self.path}: {layer}.qweight comes without {layer}.{part}")
            if len(self._files.shape(f"{layer}.{part}")) != 2:
                raise CheckpointError(f"{self.path}: {layer}.{part} must have two axes")
        for part in ("qweight", "qzeros", "g_idx"):
            name = f"{layer}.{part}"
            if name in self._files and self._files.dtype(name) != np.int32:
                raise CheckpointError(f"{self.path}: {name} must be int32, got {self._files.dtype(name).name}")
        n, k = self._scheme.shape(self._files.shape(f"{layer}.qweight"))
        groups, columns = self._files.shape(f"{layer}.scales")
        if columns != n or groups < 1 or k % groups:
            raise CheckpointError(
                f"{self.path}: {layer}.scales of shape {[groups, columns]} does not divide a weight of {[n, k]}"
            )
        zeros = groups, n * self._scheme.bits // 32
        if self._files.shape(f"{layer}.qzeros") != zeros:
            raise CheckpointError(
                f"{self.path}: {layer}.qzeros has shape {list(self._files.shape(f'{layer}.qzeros'))}, "
                f"its scales ask for {list(zeros)}"
            )
        if f"{layer}.g_idx" in self._files and self._files.shape(f"{layer}.g_idx") != (k,):
            raise CheckpointError(f"{self.path}: {layer}.g_idx must have {k} entries")

    def __iter__(self) -> Iterator[str]:
        yield from self._layers
        yield from (name for name in self._files if name not in self._parts)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._layers or (name in self._files and name not in self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._layers:
            return self._scheme.shape(self._files.shape(f"{self._layers[name]}.qweight"))
        return self._files.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """What the values mean: of a quantised layer, the dtype of its scales."""
        return self._files.dtype(f"{self._layers[name]}.scales" if name in self._layers else name)

    def array(self, name: str) -> np.ndarray | QuantizedWeight:
        """The tensor without a copy, or a quantised layer unpacked to one integer per byte."""
        if name not in self._layers:
            return self._files.array(name)
        layer = self._layers[name]
        qweight, qzeros, scales = (self._files.array(f"{layer}.{part}") for part in ("qweight", "qzeros", "scales"))
        integers = self._scheme.integers(qweight)
        return QuantizedWeight(
            self._scheme.bits,
            integers,
            np.ascontiguousarray(scales.T),
            self._scheme.zeros(qzeros),
            self._column_groups(layer, integers.shape[1], len(scales)),
        )

    def _column_groups(self, layer: str, k: int, groups: int) -> np.ndarray | None:
        """`g_idx`, unless it says that neighbours make up a group."""
        if f"{layer}.g_idx" not in self._files:
            return None
        found = self._files.array(f"{layer}.g_idx")
        if k and (found.min() < 0 or found.max() >= groups):
            raise CheckpointError(f"{self.path}: {layer}.g_idx must name groups from 0 to {groups - 1}")
        return None if np.array_equal(found, np.arange(k) // (k // groups)) else found


def _scheme(files: Checkpoint, config: dict[str, Any]) -> _Awq | _Gptq:
    method, bits = config.get("quant_method"), config.get("bits", config.get("w_bit"))
    if method == "awq" and bits == 4 and config.get("version", "gemm") == "gemm":
        return _Awq(4)
    if method == "gptq" and bits in (4, 8):
        return _Gptq(bits, 0 if config.get("checkpoint_format") == "gptq_v2" else 1)
    version = f" in version {config['version']!r}" if "version" in config else ""
    raise CheckpointError(
        f"{files.path} is quantised by {method!r} with {bits} bits{version}: "
        "supported are awq with 4 bits in version 'gemm', and gptq with 4 or 8 bits"
    )


def open_checkpoint(path: Any, quantization_config: Any) -> Checkpoint | QuantizedCheckpoint:
    """The checkpoint in a folder; `quantization_config` is config.json's entry of that name, or None."""
    files = Checkpoint(path)
    if quantization_config is None:
        return files
    if not isinstance(quantization_config, dict):
        raise CheckpointError(f"{files.path}: quantization_config must be an object, got {quantization_config!r}")
    return QuantizedCheckpoint(files, quantization_config)
