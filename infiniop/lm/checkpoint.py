"""Reading safetensors: one file or shards with an index, mapped into memory.

The header is read here rather than through the safetensors package, because that one copies every tensor for NumPy; a
view of the mapped file costs no memory, and the pages of an unused tensor are never read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .config import read_json

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_EXTENT, _MAX_RANK = 2**48, 32  # beyond any file, and within what NumPy takes
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32":
    np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32,
    "F64": np.float64, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that is damaged, incomplete, or not the one that its configuration describes."""


@dataclass(frozen=True)
class _Entry:
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the data section
    end: int


class SafetensorsFile:
    """One `.safetensors` file. The whole header is checked on opening; tensors are views of the mapped file."""

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        try:
            # Copy-on-write: arrays are writable, which array exchange protocols ask for, and the file stays as it is.
            self._bytes = np.memmap(self.path, np.uint8, "c")
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} does not exist") from None
        except (OSError, ValueError) as error:
            raise self._broken(f"it cannot be mapped: {error}") from None
        self._data_start, header = self._read_header()
        self._entries = {name: self._entry(name, value) for name, value in header.items() if name != "__metadata__"}
        self._check_layout()

    def _broken(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is truncated or corrupt: {what}")

    def _read_header(self) -> tuple[int, dict[str, Any]]:
        size = len(self._bytes)
        if size < 8:
            raise self._broken(f"it has {size} bytes, a header needs at least 8")
        (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise self._broken(f"the header claims {length} bytes, the file has {size - 8} after the length")
        try:
            header = json.loads(self._bytes[8 : 8 + length].tobytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._broken(f"the header is not valid JSON ({error})") from None
        if not isinstance(header, dict):
            raise self._broken("the header is not a JSON object")
        return 8 + length, header

    def _entry(self, name: str, value: Any) -> _Entry:
        try:
            dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
            legal = all(type(n) is int and 0 <= n < _MAX_EXTENT for n in (*shape, begin, end))
            if not isinstance(dtype, str) or not legal or len(shape) > _MAX_RANK:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise self._broken(f"the entry of {name!r} is malformed") from None
        if dtype not in _DTYPES:
            raise CheckpointError(f"{self.path}: {name!r} has dtype {dtype!r}; known are {', '.join(_DTYPES)}")
        entry = _Entry(np.dtype(_DTYPES[dtype]), tuple(shape), begin, end)
        if end - begin != math.prod(shape) * entry.dtype.itemsize:
            raise self._broken(f"{name!r} of shape {shape} and dtype {dtype} does not take {end - begin} bytes")
        return entry

    def _check_layout(self) -> None:
        position, available = 0, len(self._bytes) - self._data_start
        for name, entry in sorted(self._entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin < position:
                raise self._broken(f"{name!r} overlaps the tensor before it")
            if entry.end > available:
                raise self._broken(f"{name!r} ends at byte {entry.end} of the data, the file has {available}")
            position = entry.end

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._entries[name].dtype

    def array(self, name: str) -> np.ndarray:
        """The tensor, without a copy (with one where the file places it off its natural alignment)."""
        entry = self._entries[name]
        raw = self._bytes[self._data_start + entry.begin : self._data_start + entry.end]
        if raw.ctypes.data % entry.dtype.itemsize:
            raw = raw.copy()
        return raw.view(np.ndarray).view(entry.dtype).reshape(entry.shape)


class Checkpoint:
    """All tensors of a model folder, by name."""

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        self._files: dict[str, SafetensorsFile] = {}
        if (self.path / INDEX_NAME).is_file():
            self._open_shards(self.path / INDEX_NAME)
        elif (self.path / SINGLE_NAME).is_file():
            file = SafetensorsFile(self.path / SINGLE_NAME)
            self._files = dict.fromkeys(file.names, file)
        else:
            raise CheckpointError(f"{self.path} has neither {SINGLE_NAME} nor {INDEX_NAME}")

    def _open_shards(self, index: Path) -> None:
        try:
            weight_map = read_json(index).get("weight_map")
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map from tensor names to file names")
        opened: dict[str, SafetensorsFile] = {}
        for name, file in weight_map.items():
            if Path(file).name != file:
                raise CheckpointError(f"{index}: {name!r} lies in {file!r}, which is not in the model's own folder")
            if file not in opened:
                opened[file] = SafetensorsFile(self.path / file)
            if name not in opened[file].names:
                raise CheckpointError(f"{index} places {name!r} in {file}, which does not have it")
            self._files[name] = opened[file]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def dtype(self, name: str) -> np.dtype:
        return self._files[name].dtype(name)

    def array(self, name: str) -> np.ndarray:
        return self._files[name].array(name)
