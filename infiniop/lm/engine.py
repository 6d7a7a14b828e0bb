"""`InferEngine`: a model, its cache and its ranks behind one `forward`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

from .arrays import infini_to_numpy
from .auto import build
from .batch import ForwardBatch
from .cache import BlockCache, CacheConfig, StaticKVCacheConfig
from .config import LlamaConfig
from .distributed import DistConfig
from .generation import GenerationMixin
from .hooks import HookRegistry
from .ranks import spread
from .sampling import SamplingParams

if TYPE_CHECKING:
    from infiniop import Tensor

_OPTIONS: dict[str, Any] = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 1, "min_p": 0.0, "seed": None, "return_logits": False,
}  # fmt: skip


class Input:
    """One step's tokens. All fields are optional tensors (Tensor, NumPy, torch, sequences):

    - `input_ids`: `[batch, seq]`, or flat `[ntok]` (or `[1, ntok]`) with `input_offsets`;
    - `input_offsets` `[nreq + 1]`: where each request's tokens begin;
    - `position_ids` `[ntok]`, default: what follows from the past;
    - `past_sequence_lengths`, `total_sequence_lengths` `[nreq]`: tokens without and with this step's; either gives
      the other;
    - `cu_seqlens` `[nreq + 1]`: total lengths, accumulated: a third way to give them;
    - `block_tables` `[nreq, blocks]`, `slot_mapping` `[ntok]`: the caller's blocks in a paged cache. Without tables,
      request r has row r of a static cache.

    Sampling parameters are scalars or one per request. `top_k=1`, the default, is greedy.
    """

    def __init__(
        self,
        input_ids: Any = None,
        position_ids: Any = None,
        past_sequence_lengths: Any = None,
        total_sequence_lengths: Any = None,
        input_offsets: Any = None,
        cu_seqlens: Any = None,
        block_tables: Any = None,
        slot_mapping: Any = None,
        **options: Any,
    ):
        for name in options:
            if name not in _OPTIONS:
                raise ValueError(f"InferEngine.Input got an unexpected keyword argument '{name}'")
        self.input_ids, self.position_ids = input_ids, position_ids
        self.past_sequence_lengths, self.total_sequence_lengths = past_sequence_lengths, total_sequence_lengths
        self.input_offsets, self.cu_seqlens = input_offsets, cu_seqlens
        self.block_tables, self.slot_mapping = block_tables, slot_mapping
        chosen = {**_OPTIONS, **options}
        self.temperature, self.top_p, self.top_k = chosen["temperature"], chosen["top_p"], chosen["top_k"]
        self.min_p, self.seed, self.return_logits = chosen["min_p"], chosen["seed"], chosen["return_logits"]

    def sampling(self, count: int) -> list[SamplingParams]:
        """The sampling parameters of each of `count` requests."""
        names = ("temperature", "top_k", "top_p", "min_p", "seed")
        columns = [_per_request(name, getattr(self, name), count) for name in names]
        return [SamplingParams(**dict(zip(names, row, strict=True))).seeded() for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Output:
    """`output_ids` `[nreq]`: each request's next token; `logits` `[nreq, vocab]` when they were asked for."""

    output_ids: Tensor
    logits: Tensor | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(infini_to_numpy(self.output_ids), dtype=dtype, copy=copy)


class InferEngine(GenerationMixin):
    """A model of `config`'s family with a cache of its own. Parameters come by `load_param`.

    `forward` and `generate` share the cache: sequences that `forward` has put there do not outlive a `generate`.
    """

    Input = Input
    Output = Output

    def __init__(
        self,
        config: LlamaConfig,
        distributed_config: DistConfig | None = None,
        device_type: Any = "cpu",
        cache_config: CacheConfig | None = None,
        dtype: Any = None,
        quantize: str | None = None,
    ):
        self.distributed_config = ranks = distributed_config or DistConfig()
        self.config = config
        self.model: Any = spread(
            config, ranks, infiniop.Device(device_type).name, build, config, str(infiniop.Device(device_type)), dtype,
            quantize, ranks,
        )  # fmt: skip
        self.device = self.model.device
        self._cache: BlockCache | None = None
        self._cache_config = (cache_config or StaticKVCacheConfig()).unique_copy()

    def __repr__(self) -> str:
        return f"<InferEngine: {self.distributed_config!r}>"

    @property
    def generation_defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.model.generation_defaults

    # ------------------------------------------------------------------ parameters

    def load_param(self, name: str, param: Any) -> None:
        """Takes a full parameter; every rank keeps its shard."""
        self.model.load_param(name, param)

    def load_params(self, params: Mapping[str, Any]) -> None:
        for name, param in params.items():
            self.load_param(name, param)

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The parameters, one dictionary per rank; those of other ranks are copies on the host."""
        return self.model.rank_states()

    def set_hook_registry(self, hooks: HookRegistry | None) -> None:
        self.model.set_hook_registry(hooks)

    # ------------------------------------------------------------------ cache

    def reset_cache(self, config: CacheConfig | None = None) -> None:
        """Empties the cache; with a configuration, resizes it or switches between static and paged.

        A configuration that does not fit (`ValueError`, `MemoryError`) leaves the engine with the one it had.
        """
        wanted = (config or self._cache_config).unique_copy()
        wanted.geometry(self.model.local_config(), self.model.dtype)
        old_config, self._cache = self._cache_config, None  # the old memory goes first: both might not fit
        self._cache_config = wanted
        try:
            self._engine_cache()
        except MemoryError:
            self._cache_config = old_config
            raise

    def get_cache_config(self) -> CacheConfig:
        """A copy of the configuration in use."""
        return self._cache_config.unique_copy()

    def _engine_cache(self) -> BlockCache:
        if self._cache is None:
            self._cache = self.model.new_cache(self._cache_config)
        return self._cache

    # ------------------------------------------------------------------ running

    def forward(self, batch: Any) -> Any:
        """One step for every request of an `Input`; returns an `Output`."""
        if not isinstance(batch, Input):
            raise TypeError(f"forward takes an InferEngine.Input, got {type(batch).__name__}")
        cache = self._engine_cache()
        step = _plan(batch, cache)
        tokens, logits = self.next_tokens(step, cache, batch.sampling(step.size))
        kept = (
            infiniop.empty(logits.shape, dtype=logits.dtype, device=self.device).copy_(logits)
            if batch.return_logits
            else None
        )
        return Output(infiniop.from_numpy(tokens), kept)

    def generation_cache(self, lengths: Sequence[int], config: CacheConfig | None) -> BlockCache:
        if config is not None and config != self._cache_config:
            self.reset_cache(config)
        return self._engine_cache()

    def next_tokens(
        self, batch: ForwardBatch, cache: BlockCache, parameters: Sequence[SamplingParams]
    ) -> tuple[np.ndarray, Tensor]:
        return self.model.next_tokens(batch, cache, parameters)


def _per_request(name: str, value: Any, count: int) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} values for {count} requests")
    return list(value)


def _host(name: str, value: Any, dtype: Any) -> np.ndarray | None:
    if value is None:
        return None
    value = infini_to_numpy(value) if isinstance(value, infiniop.Tensor) else value
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    return array.astype(dtype, copy=False)


def _plan(given: Input, cache: BlockCache) -> ForwardBatch:
    """The step that an `Input` describes. Raises `ValueError` that names the field that does not fit."""
    ids = _host("input_ids", given.input_ids, np.int32)
    if ids is None or ids.ndim not in (1, 2) or ids.size == 0:
        raise ValueError("input_ids must be given, `[batch, seq]` or `[ntok]`, with at least one token")
    offsets = _offsets(ids, _host("input_offsets", given.input_offsets, np.int32))
    counts = np.diff(offsets).astype(np.int64)
    positions = _host("position_ids", given.position_ids, np.int32)
    past = _past(given, counts, None if positions is None else positions.reshape(-1), offsets)
    lengths = past + counts
    if positions is None:
        positions = np.concatenate([np.arange(p, n) for p, n in zip(past, lengths, strict=True)])
    positions = _sized("position_ids", positions.reshape(-1).astype(np.int32), ids.size)
    tables = _tables(given, cache, lengths)
    slots = _host("slot_mapping", given.slot_mapping, np.int64)
    if slots is None:
        slots = _slots(past, lengths, tables, cache)
    slots = _sized("slot_mapping", slots.reshape(-1), ids.size)
    most = cache.geometry.num_blocks * cache.geometry.block_size
    if (slots >= most).any():
        raise ValueError(f"slot_mapping must name slots below {most}, got {int(slots.max())}")
    if (positions < 0).any():
        raise ValueError(f"position_ids must be at least 0, got {int(positions.min())}")
    kept = lengths if cache.window is None else np.minimum(lengths, cache.window)
    return ForwardBatch(ids.reshape(-1), positions, offsets, lengths, kept.astype(np.int32), slots, tables)


def _sized(name: str, array: np.ndarray, size: int) -> np.ndarray:
    if len(array) != size:
        raise ValueError(f"{name} has {len(array)} entries, {size} are needed")
    return array


def _offsets(ids: np.ndarray, offsets: np.ndarray | None) -> np.ndarray:
    if offsets is None:
        rows, columns = ids.shape if ids.ndim == 2 else (1, ids.size)
        return np.arange(rows + 1, dtype=np.int32) * np.int32(columns)
    if (
        offsets.ndim != 1
        or len(offsets) < 2
        or offsets[0] != 0
        or offsets[-1] != ids.size
        or (np.diff(offsets) < 1).any()
    ):
        raise ValueError(f"input_offsets must rise from 0 to {ids.size}, the number of tokens, got {offsets.tolist()}")
    return offsets


def _past(given: Input, counts: np.ndarray, positions: np.ndarray | None, offsets: np.ndarray) -> np.ndarray:
    past = _host("past_sequence_lengths", given.past_sequence_lengths, np.int64)
    total = _host("total_sequence_lengths", given.total_sequence_lengths, np.int64)
    accumulated = _host("cu_seqlens", given.cu_seqlens, np.int64)
    if total is None and accumulated is not None:
        total = np.diff(_sized("cu_seqlens", accumulated, len(counts) + 1))
    if total is not None:
        _sized("total_sequence_lengths", total, len(counts))
    if past is None:
        past = total - counts if total is not None else None
    if past is None:
        past = np.zeros(len(counts), np.int64) if positions is None else positions[offsets[:-1]].astype(np.int64)
    _sized("past_sequence_lengths", past, len(counts))
    if (past < 0).any() or (total is not None and (total != past + counts).any()):
        raise ValueError(
            f"past_sequence_lengths {past.tolist()} and the tokens of each request {counts.tolist()} must add up to "
            f"total_sequence_lengths {(past + counts if total is None else total).tolist()}, all of at least 0"
        )
    return past


def _tables(given: Input, cache: BlockCache, lengths: np.ndarray) -> np.ndarray:
    geometry, window = cache.geometry, cache.window
    if window is not None and (lengths > window).any():
        raise ValueError(
            f"{int(lengths.max())} tokens exceed the sliding window of {window}; generate() goes beyond it"
        )
    tables = _host("block_tables", given.block_tables, np.int32)
    if tables is None:
        if not geometry.contiguous:
            raise ValueError("block_tables must be given with a paged cache")
        if len(lengths) > geometry.num_blocks:
            raise ValueError(
                f"{len(lengths)} requests, and the static cache takes max_batch_size={geometry.num_blocks}"
            )
        tables = np.arange(len(lengths), dtype=np.int32)[:, None]
    needed = -(-lengths // geometry.block_size)
    if tables.ndim != 2 or len(tables) != len(lengths) or (needed > tables.shape[1]).any():
        raise ValueError(
            f"{lengths.tolist()} tokens need tables of {needed.tolist()} blocks of {geometry.block_size}, "
            f"got block_tables of shape {list(tables.shape)}"
        )
    used = np.arange(tables.shape[1]) < needed[:, None]
    if ((tables < 0) | (tables >= geometry.num_blocks))[used].any():
        raise ValueError(f"block_tables must name blocks from 0 to {geometry.num_blocks - 1}")
    return np.where(used, tables, 0).astype(np.int32)


def _slots(past: np.ndarray, lengths: np.ndarray, tables: np.ndarray, cache: BlockCache) -> np.ndarray:
    size, slots = cache.geometry.block_size, []
    for row, (start, end) in enumerate(zip(past.tolist(), lengths.tolist(), strict=True)):
        rows = np.arange(start, end, dtype=np.int64)
        slots.append(tables[row].astype(np.int64)[rows // size] * size + rows % size)
    return np.concatenate(slots)
