"""`KVCache` and `DynamicCache`: keys and values in one piece per layer, batch axis first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import infiniop
from infiniop import ops

from ..arrays import resolve_dtype
from .blocks import CacheFullError
from .config import StaticKVCacheConfig
from .kinds import as_pair, as_tokens, kind_of
from .pool import BlockCache

if TYPE_CHECKING:
    from infiniop import Tensor

    from ..config import LlamaConfig


class KVCache(BlockCache):
    """The static cache of a model, which `model(input_ids, kv_cache=cache)` takes, with an `update` of its own.

    Row r of a batch is sequence r, one contiguous block.
    """

    def __init__(
        self, config: LlamaConfig, batch_size: int = 1, max_len: int = 0, dtype: Any = None, device: Any = "cpu"
    ):
        """`max_len` 0: the model's `max_position_embeddings`; `dtype` None: the configuration's, else float32."""
        dtype = resolve_dtype(dtype or config.torch_dtype or "float32")
        super().__init__(StaticKVCacheConfig(batch_size, max_len), config, dtype, device)
        self._lengths = [0] * config.num_hidden_layers

    def update(self, k: Any, v: Any, layer_idx: int) -> tuple[Any, Any]:
        """Appends `[batch, ntok, nkvh, dh]` to a layer and returns all of it, `[batch, length, nkvh, dh]`: views of the
        cache, of the kind that came in.

        Raises `CacheFullError` when there is no room, `ValueError` for another shape, `TypeError` for another dtype.
        """
        keys, values = self.pool.layer(layer_idx)
        rows, heads, size, dim = keys.shape
        start = self._lengths[layer_idx]
        parts = as_pair(k, v, (rows, -1, heads, dim), keys)
        end = start + parts[0].shape[1]
        if end > size:
            raise CacheFullError(f"layer {layer_idx} would hold {end} tokens, the cache holds {size} of each sequence")
        for memory, part in zip((keys, values), parts, strict=True):
            ops.rearrange(part.permute(0, 2, 1, 3), out=memory[:, :, start:end])
        self._lengths[layer_idx] = end
        give = kind_of(k)
        return tuple(give(memory[:, :, :end].permute(0, 2, 1, 3)) for memory in (keys, values))  # type: ignore[return-value]


class DynamicCache:
    """Keys and values per layer that grow as they come; it needs no configuration.

    `cache[layer]` is `(keys, values)`, `[batch, length, nkvh, dh]` each, of the kind that came in last.
    """

    def __init__(self, config: LlamaConfig | None = None):
        """`config` bounds the layers that there may be."""
        self._most = None if config is None else config.num_hidden_layers
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._give: dict[int, Any] = {}

    def __len__(self) -> int:
        """Layers so far."""
        return len(self._layers)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (self[layer] for layer in sorted(self._layers))

    def __getitem__(self, layer_idx: int) -> tuple[Any, Any]:
        if layer_idx not in self._layers:
            raise KeyError(f"the cache has no layer {layer_idx!r}")
        give = self._give[layer_idx]
        keys, values = self._layers[layer_idx]
        return give(keys), give(values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that a layer holds."""
        return self._layers[layer_idx][0].shape[1] if layer_idx in self._layers else 0

    def update(self, k: Any, v: Any, layer_idx: int) -> tuple[Any, Any]:
        """Appends `[batch, ntok, nkvh, dh]` to a layer and returns all of it. Raises `ValueError` for a shape,
        `TypeError` for a dtype that does not go with what is there."""
        if isinstance(layer_idx, bool) or not isinstance(layer_idx, int) or layer_idx < 0:
            raise ValueError(f"layer_idx must be an int of at least 0, got {layer_idx!r}")
        if self._most is not None and layer_idx >= self._most:
            raise ValueError(f"layer_idx must be below {self._most}, got {layer_idx}")
        known = self._layers.get(layer_idx)
        grown = []
        for n, (name, array) in enumerate((("k", k), ("v", v))):
            part = infiniop.asarray(array)
            if known is not None:
                batch, _, heads, dim = known[n].shape
                part = as_tokens(name, array, (batch, -1, heads, dim), known[n])
            elif part.ndim != 4:
                raise ValueError(f"{name} must be [batch, ntok, nkvh, dh], got shape {list(part.shape)}")
            grown.append(_joined(None if known is None else known[n], part))
        if grown[0].shape[:3] != grown[1].shape[:3]:
            raise ValueError(f"k {list(grown[0].shape)} and v {list(grown[1].shape)} must agree but for the last axis")
        self._layers[layer_idx] = grown[0], grown[1]
        self._give[layer_idx] = kind_of(k)
        return self[layer_idx]


def _joined(old: Tensor | None, part: Tensor) -> Tensor:
    """Both, along the second axis."""
    batch, count, heads, dim = part.shape
    length = 0 if old is None else old.shape[1]
    both = infiniop.empty((batch, length + count, heads, dim), dtype=part.dtype, device=part.device)
    if old is not None:
        ops.rearrange(old, out=both[:, :length])
    ops.rearrange(part, out=both[:, length:])
    return both
