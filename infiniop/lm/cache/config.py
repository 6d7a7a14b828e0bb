"""Cache configurations. A new kind is a subclass of `CacheConfig` and one `register_cache_mode`; the engine stays as
it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from infiniop.schema import DType

    from ..config import LlamaConfig

_UNLIMITED = 2**64 - 1


class CallableInt(int):
    """An integer that also answers a call: both `config.block_size` and `config.block_size()` read it."""

    def __call__(self) -> int:
        return int(self)


@dataclass(frozen=True)
class CacheGeometry:
    """What a configuration comes to for a model: blocks, their size in tokens, how many sequences may live at once
    (None: as many as the blocks allow), and whether each of them stays within one block."""

    num_blocks: int
    block_size: int
    max_sequences: int | None = None
    contiguous: bool = False

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence that an empty cache takes."""
        return self.block_size if self.contiguous else self.num_blocks * self.block_size


def _checked(name: str, value: object, minimum: int) -> CallableInt:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not minimum <= value <= _UNLIMITED:
        raise ValueError(f"{name} must be between {minimum} and 2**64 - 1, got {value}")
    return CallableInt(value)


class _CacheConfigType(type):
    def __repr__(cls) -> str:
        return "<CacheConfig (abstract)>" if cls.__name__ == "CacheConfig" else super().__repr__()


class CacheConfig(metaclass=_CacheConfigType):
    """How much KV cache an engine has, and in which form. Immutable; equal when all values are."""

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, *args: object, **kwargs: object):
        raise NotImplementedError("CacheConfig is abstract: use StaticKVCacheConfig or PagedKVCacheConfig")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("unique_copy", "geometry"):
            if getattr(cls, name) is getattr(CacheConfig, name):
                raise TypeError(f"{cls.__name__} must provide {name}()")

    def unique_copy(self) -> CacheConfig:
        """An equal, independent copy."""
        raise NotImplementedError

    def geometry(self, model: LlamaConfig, dtype: DType) -> CacheGeometry:
        """The blocks that this configuration gives a model whose cache has this dtype."""
        raise NotImplementedError

    def _set(self, **values: Any) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        values = object.__getattribute__(self, "_values") if not name.startswith("_") else {}
        if name in values:
            return values[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values == other._values  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), tuple(self._values.items())))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> Any:
        return _restore, (type(self), self._values)


def _restore(cls: type[CacheConfig], values: dict[str, Any]) -> CacheConfig:
    config = object.__new__(cls)
    config._set(**values)
    return config


class StaticKVCacheConfig(CacheConfig):
    """A contiguous cache of `max_cache_len` tokens for each of `max_batch_size` sequences.

    The default length, and 0, mean the model's `max_position_embeddings`.
    """

    __slots__ = ()
    max_batch_size: CallableInt
    max_cache_len: CallableInt

    def __init__(self, max_batch_size: int = 1, max_cache_len: int = _UNLIMITED):
        self._set(
            max_batch_size=_checked("max_batch_size", max_batch_size, 1),
            max_cache_len=_checked("max_cache_len", max_cache_len, 0),
        )

    def unique_copy(self) -> StaticKVCacheConfig:
        return StaticKVCacheConfig(self.max_batch_size(), self.max_cache_len())

    def geometry(self, model: LlamaConfig, dtype: DType) -> CacheGeometry:
        """One block per sequence: a block is contiguous, and the paged operators take sequences of different
        lengths."""
        length = self.max_cache_len() if 0 < self.max_cache_len < _UNLIMITED else model.max_position_embeddings
        rows = self.max_batch_size()
        return CacheGeometry(rows, min(length, model.attention_window or length), rows, contiguous=True)


class PagedKVCacheConfig(CacheConfig):
    """A pool of blocks of `block_size` tokens: as many as fit `max_kv_memory_bytes`, or `num_blocks`.

    `max_batch_size` bounds the sequences that live at once (None: the blocks do).
    """

    __slots__ = ()
    max_kv_memory_bytes: CallableInt | None
    num_blocks: CallableInt | None
    block_size: CallableInt
    max_batch_size: CallableInt | None

    def __init__(
        self,
        max_kv_memory_bytes: int | None = None,
        block_size: int = 16,
        *,
        num_blocks: int | None = None,
        max_batch_size: int | None = None,
    ):
        if (max_kv_memory_bytes is None) == (num_blocks is None):
            raise TypeError("PagedKVCacheConfig needs exactly one of max_kv_memory_bytes and num_blocks")
        self._set(
            max_kv_memory_bytes=_optional("max_kv_memory_bytes", max_kv_memory_bytes),
            num_blocks=_optional("num_blocks", num_blocks),
            block_size=_checked("block_size", block_size, 1),
            max_batch_size=_optional("max_batch_size", max_batch_size),
        )

    def unique_copy(self) -> PagedKVCacheConfig:
        return _restore(PagedKVCacheConfig, dict(self._values))  # type: ignore[return-value]

    def geometry(self, model: LlamaConfig, dtype: DType) -> CacheGeometry:
        block_bytes = 2 * model.kv_dim() * self.block_size() * model.num_hidden_layers * dtype.itemsize
        budget = self.max_kv_memory_bytes
        blocks = int(self.num_blocks or 0) if budget is None else budget // block_bytes
        if blocks == 0:
            raise ValueError(
                f"max_kv_memory_bytes={budget:d} holds no block: one block of {self.block_size()} tokens takes "
                f"{block_bytes} bytes, the smallest sufficient budget"
            )
        return CacheGeometry(blocks, self.block_size(), self.max_batch_size and self.max_batch_size())


def _optional(name: str, value: int | None) -> CallableInt | None:
    return None if value is None else _checked(name, value, 1)


_MODES: dict[str, Callable[[dict[str, Any]], CacheConfig]] = {}


def register_cache_mode(mode: str, create: Callable[[dict[str, Any]], CacheConfig]) -> None:
    """Makes `create_cache_config(mode, **options)` call `create(options)`."""
    _MODES[mode] = create


def create_cache_config(mode: str, **options: Any) -> CacheConfig:
    """`"static"` (batch_size=1, cache_len=4096), `"paged"` (memory_bytes, block_size=16), or a registered mode."""
    if mode not in _MODES:
        raise ValueError(f"Unknown mode: {mode}")
    return _MODES[mode](options)


def _take(options: dict[str, Any], allowed: set[str]) -> dict[str, Any]:
    for name in options.keys() - allowed:
        raise TypeError(f"create_cache_config got an unexpected option {name!r}; allowed are {sorted(allowed)}")
    return options


def _create_static(options: dict[str, Any]) -> CacheConfig:
    _take(options, {"batch_size", "cache_len"})
    return StaticKVCacheConfig(options.get("batch_size", 1), options.get("cache_len", 4096))


def _create_paged(options: dict[str, Any]) -> CacheConfig:
    _take(options, {"memory_bytes", "block_size"})
    return PagedKVCacheConfig(options["memory_bytes"], options.get("block_size", 16))


register_cache_mode("static", _create_static)
register_cache_mode("paged", _create_paged)


def pool_bytes(geometry: CacheGeometry, model: LlamaConfig, dtype: DType) -> int:
    """Bytes of keys and values in all layers."""
    return math.prod(
        (2, model.num_hidden_layers, geometry.num_blocks, geometry.block_size, model.kv_dim(), dtype.itemsize)
    )
