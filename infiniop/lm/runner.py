"""What every model family shares: parameters and their loading, a forward pass over a cache, generation."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import infiniop
from infiniop.schema import FLOATS64

from .arrays import available_operators, infini_to_numpy, resolve_dtype, token_rows
from .batch import DeviceBatch, ForwardBatch
from .buffers import Buffers
from .cache import BlockCache, CacheConfig, StaticKVCacheConfig
from .checkpoint import Checkpoint, CheckpointError
from .config import LlamaConfig
from .distributed import get_tensor_parallel_shard
from .functional import Functional
from .generation import GenerationMixin
from .hooks import HookRegistry
from .layers import Module, Parameter
from .operators import ALL_OPERATORS
from .packing import Packer
from .quantized import QuantizedCheckpoint, QuantizedWeight
from .ranks import Parallel, Place, Ranks
from .replay import DecodeGraphs
from .rope import RotaryTables
from .sampling import Sampler, SamplingParams

if TYPE_CHECKING:
    from infiniop import Tensor


logger = logging.getLogger(__name__)

_ALONE = Place()

_WEIGHT_DTYPES = {dtype.numpy for dtype in FLOATS64}


class Step:
    """One forward pass: the batch, the cache it runs over, and where results go."""

    __slots__ = ("batch", "buffers", "cache", "dtype", "f", "hook_error", "hooks", "ntok", "parallel", "place")

    def __init__(
        self,
        f: Functional,
        buffers: Buffers,
        batch: DeviceBatch,
        cache: BlockCache,
        dtype: Any,
        hooks: HookRegistry | None,
        parallel: Parallel | None,
    ):
        self.f, self.buffers, self.batch, self.cache, self.dtype = f, buffers, batch, cache, dtype
        self.hooks = hooks if hooks is not None and hooks.has_hooks() else None
        self.ntok = batch.host.ntok
        self.parallel = parallel
        self.place = _ALONE if parallel is None else parallel.place
        self.hook_error: Exception | None = None

    def scratch(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.buffers.get(name, shape, self.dtype)

    def hook(self, point: str, tensor: Tensor, layer_idx: int = -1) -> None:
        if self.hooks is None:
            return
        try:
            self.hooks.call_hook(point if layer_idx < 0 else f"layer{layer_idx}_{point}", tensor, layer_idx)
        except Exception as error:
            if self.parallel is None:
                raise
            self.hook_error = self.hook_error or error  # the other ranks wait for this one to go on

    def receive(self, x: Tensor, residual: Tensor) -> Tensor:
        """What the stage before passed on, into both; returns `x`."""
        assert self.parallel is not None
        for tensor in (x, residual):
            self.parallel.world.recv(tensor, self.parallel.previous)
        return x

    def pass_on(self, x: Tensor, residual: Tensor) -> None:
        """To the next stage."""
        assert self.parallel is not None
        for tensor in (x, residual):
            self.parallel.world.send(tensor, self.parallel.next)


class CausalLM(Module, GenerationMixin):
    """A decoder on one device, for one thread at a time. Parameters are empty until `load_param` or `load_checkpoint`
    gives them."""

    config_class: ClassVar[type[LlamaConfig]] = LlamaConfig

    def __init__(
        self,
        config: LlamaConfig,
        device: Any = "cpu",
        dtype: Any = None,
        quantize: str | None = None,
        parallel: Parallel | None = None,
    ):
        """`quantize`: "int8" or "int4" quantises the layers' weights as they are loaded; what may follow says
        `packing.Quantization`. `parallel`: this is one rank's part of the model (see `ranks.spread`).

        Raises `MissingOperatorsError` before anything is loaded when the device cannot run the model.
        """
        config.validate()
        self._parallel, self._place = parallel, _ALONE if parallel is None else parallel.place
        self._ranks: Ranks | None = None
        self._caches: dict[int, BlockCache] = {}  # of ranks that rank 0 leads
        self._numbers = itertools.count(1)
        self._dropped: list[int] = []
        self.config = config
        self.device = device
        self.dtype = resolve_dtype(dtype or config.torch_dtype or "float32")
        self.generation_defaults: dict[str, Any] = {}
        self.revision = 0  # of the parameters
        available = available_operators(device, ALL_OPERATORS)
        self._packer = Packer(device, available, quantize)
        self._tied_output: Tensor | None = None  # quantised, beside the embedding that it comes from
        self._buffers = Buffers(device)
        self._f = Functional(str(device), available, self._buffers, self._packer.activation_bits)
        self._sampler = Sampler(self._buffers, "sample" in available)
        self._graphs = DecodeGraphs(self._buffers, device)
        self._rope = RotaryTables(config.rope_parameters, config.head_dim, self.dtype, device)
        self._hooks: HookRegistry | None = None
        self._cache: BlockCache | None = None
        self._ready = False
        self.build(config)
        self._parameters = dict(self.named_parameters())
        own = {id(p) for part in self.parts(self._place) for _, p in part.named_parameters()}
        self._own = [name for name, parameter in self._parameters.items() if id(parameter) in own]
        if parallel is not None:
            for module in self.modules():
                module.spread(parallel.tp)

    # ------------------------------------------------------------------ what a family provides

    def build(self, config: LlamaConfig) -> None:
        """Creates the layers, as attributes whose names make up the checkpoint's names."""
        raise NotImplementedError

    def parts(self, place: Place) -> list[Module]:
        """The modules with which a rank computes."""
        raise NotImplementedError

    def hidden_states(self, step: Step) -> Tensor | None:
        """The normalised hidden states `[ntok, hidden]`; None in stages before the last."""
        raise NotImplementedError

    def output_weight(self) -> Tensor:
        """What turns hidden states into logits, `[vocab, hidden]`."""
        raise NotImplementedError

    # ------------------------------------------------------------------ parameters

    def load_param(self, name: str, param: Any) -> None:
        """Gives one parameter its full tensor (Tensor, NumPy, torch, DLPack); memory is shared where dtype and device
        allow."""
        parameter = self._parameters.get(name)
        if parameter is None:
            if self._is_redundant(name):
                return
            raise KeyError(f"{type(self).__name__} has no parameter {name!r}")
        tensor = infiniop.asarray(param)
        self._check_shape(name, parameter, tuple(tensor.shape))
        if self._ranks is not None:
            whole = infini_to_numpy(tensor)
            self._ranks.command("receive_param", name, whole.dtype, whole.shape)
            with self._ranks.guarded():
                self._ranks.parallel.world.broadcast(infiniop.from_numpy(np.array(whole, order="C")).to(self.device))
        self._keep(name, parameter, infini_to_numpy(tensor))
        self._changed()

    def receive_param(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """`load_param` in a rank other than 0."""
        assert self._parallel is not None
        whole = infiniop.empty(shape, dtype, self.device)
        self._parallel.world.broadcast(whole)
        self._keep(name, self._parameters[name], infini_to_numpy(whole))
        self._changed()

    def _keep(self, name: str, parameter: Parameter, whole: np.ndarray) -> None:
        if name in self._own:
            part = get_tensor_parallel_shard(whole, parameter.shard_axis, self._place.tp_rank, self._place.tp_size)
            parameter.tensor = self._packed(self._placed(infiniop.from_numpy(part)), parameter)

    def load_checkpoint(self, checkpoint: Checkpoint | QuantizedCheckpoint) -> None:
        """Takes every parameter from a checkpoint: views of the mapped files where dtype and device allow. Raises
        `CheckpointError` for missing, surplus or misshapen tensors, before anything is loaded."""
        missing = [name for name in self._parameters if name not in checkpoint]
        surplus = [name for name in checkpoint if name not in self._parameters and not self._is_redundant(name)]
        for names, what in (
            (missing, "lacks tensors that config.json asks for"),
            (surplus, "has tensors that config.json does not ask for"),
        ):
            if names:
                raise CheckpointError(f"{checkpoint.path} {what}: {_some(names)}")
        for name, parameter in self._parameters.items():
            self._check_shape(name, parameter, checkpoint.shape(name))
            if checkpoint.dtype(name) not in _WEIGHT_DTYPES:
                raise CheckpointError(
                    f"{name} is {checkpoint.dtype(name).name}; weights must be float32, bfloat16, float16 or float64"
                )
        for name in self._own:
            self._parameters[name].tensor = self._read(checkpoint, name, self._parameters[name])
        self._changed()

    def _changed(self) -> None:
        """Parameters have changed: what was made of them is made again."""
        self.revision += 1
        self._ready = False
        self._graphs.clear()

    def _read(self, checkpoint: Checkpoint | QuantizedCheckpoint, name: str, parameter: Parameter) -> Tensor:
        found = checkpoint.array(name)
        shard = parameter.shard_axis, self._place.tp_rank, self._place.tp_size
        if not isinstance(found, QuantizedWeight):
            found = get_tensor_parallel_shard(found, *shard)
        else:
            found = found.shard(*shard)
            if parameter.packable and self._packer.possible and found.column_groups is None:
                return self._packer.integers(found)
            logger.warning("%s is dequantised to %r: %s", name, self.dtype, _why_dequantised(found))
            found = found.dequantized()
        return self._packed(self._placed(infiniop.from_numpy(found)), parameter)

    def _packed(self, tensor: Tensor, parameter: Parameter) -> Tensor:
        return self._packer.floats(tensor) if parameter.packable else tensor

    def _is_redundant(self, name: str) -> bool:
        """Tensors that some checkpoints carry although they follow from others."""
        tied = self.config.tie_word_embeddings and name == "lm_head.weight"
        return tied or name.endswith("rotary_emb.inv_freq")

    def _check_shape(self, name: str, parameter: Parameter, shape: tuple[int, ...]) -> None:
        if shape != parameter.shape:
            raise CheckpointError(f"{name} has shape {list(shape)}, the configuration asks for {list(parameter.shape)}")

    def _placed(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != self.dtype:
            tensor = infiniop.from_numpy(infini_to_numpy(tensor).astype(self.dtype.numpy))
        return tensor.to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """The loaded parameters by name, without a copy; of several ranks, this one's."""
        return {name: p.tensor for name, p in self._parameters.items() if p.tensor is not None}

    def rank_states(self) -> list[dict[str, Tensor]]:
        """`state_dict` of every rank, in their order; those of the others are copies on the host."""
        if self._ranks is None:
            return [self.state_dict()]
        self._ranks.command("host_state")
        own, *others = self._ranks.gather(self.state_dict())
        return [own, *({name: infiniop.from_numpy(array) for name, array in other.items()} for other in others)]

    def host_state(self) -> dict[str, np.ndarray]:
        return {name: infini_to_numpy(tensor) for name, tensor in self.state_dict().items()}

    def _check_loaded(self) -> None:
        if not self._ready:
            absent = [name for name in self._own if self._parameters[name].tensor is None]
            if absent:
                raise RuntimeError(
                    f"{type(self).__name__} has no values yet for {_some(absent)}: load_param gives them"
                )
            if self._packer.quantizes and self.config.tie_word_embeddings and self._place.has_output:
                self._tied_output = self._packer.floats(self.output_weight(), tied_output=True)
            for module in self.modules():
                module.join()
            self._ready = True

    # ------------------------------------------------------------------ running

    def set_hook_registry(self, hooks: HookRegistry | None) -> None:
        """Attaches callbacks to the named points of the forward pass; None takes them away."""
        self._hooks = hooks

    def new_cache(self, config: CacheConfig) -> BlockCache:
        """Memory for a cache of this configuration."""
        first_layer = self._place.layers(self.config.num_hidden_layers).start
        cache = BlockCache(config, self.local_config(), self.dtype, self.device, first_layer)
        self._rope.ensure(min(cache.geometry.longest_sequence, self.config.max_position_embeddings))
        if self._ranks is not None:
            cache.number = next(self._numbers)
            dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
            weakref.finalize(cache, self._dropped.append, cache.number)
            self._ranks.command("follow_cache", cache.number, config, dropped)
        return cache

    def follow_cache(self, number: int, config: CacheConfig, dropped: list[int]) -> None:
        """`new_cache` in a rank other than 0; caches that rank 0 has dropped go before."""
        for old in dropped:
            del self._caches[old]
        self._caches[number] = self.new_cache(config)

    def local_config(self) -> LlamaConfig:
        """The configuration of a model of this rank's layers (as many as any stage has, so that caches are alike) and
        heads."""
        place, config = self._place, self.config
        if self._parallel is None:
            return config
        return dataclasses.replace(
            config,
            num_hidden_layers=place.most_layers(config.num_hidden_layers),
            num_attention_heads=config.num_attention_heads // place.tp_size,
            num_key_value_heads=config.num_key_value_heads // place.tp_size,
        )

    def lead(self, ranks: Ranks) -> None:
        """Makes this, rank 0's part, the one that the other ranks follow."""
        self._ranks = ranks

    def close(self) -> None:
        """Ends the other ranks, where there are any."""
        if self._ranks is not None:
            self._ranks.close()

    def forward(self, batch: ForwardBatch, cache: BlockCache, all_logits: bool = False) -> Tensor:
        """Logits `[nreq, vocab]` of each request's last token, or of every token `[ntok, vocab]`.

        The result is the model's own memory, valid until the next forward pass.
        """
        return self._run(self._step(batch, cache, all_logits), all_logits)

    def follow(self, batch: ForwardBatch, number: int, all_logits: bool) -> None:
        """`forward` in a rank other than 0."""
        self._compute(self._step(batch, self._caches[number], all_logits), all_logits)

    def _run(self, step: Step, all_logits: bool = False) -> Tensor:
        with contextlib.nullcontext() if self._ranks is None else self._ranks.guarded():
            logits = self._compute(step, all_logits)
        if step.hook_error is not None:
            raise step.hook_error
        return logits

    def next_tokens(
        self, batch: ForwardBatch, cache: BlockCache, parameters: Sequence[SamplingParams]
    ) -> tuple[np.ndarray, Tensor]:
        """The token i64 `[nreq]` that follows each request's last, and the logits `[nreq, vocab]` that it was drawn
        from (the model's own memory, valid until the next forward pass).

        A batch of single tokens without hooks is recorded when it comes a second time, and replayed from then on.
        """
        self._sampler.prepare(parameters, batch.lengths)
        step = self._step(batch, cache)

        def compute() -> None:
            self._sampler.draw(self._run(step))

        if step.batch.is_decode and step.hooks is None and self._parallel is None:
            self._graphs.run(compute, step.batch, cache)
        else:
            compute()
        logits = step.scratch("logits", (batch.size, self.config.vocab_size))
        return self._sampler.tokens(logits), logits

    def _step(self, batch: ForwardBatch, cache: BlockCache, all_logits: bool = False) -> Step:
        """A checked batch with its inputs on the device; the other ranks are told to run it."""
        self._check_loaded()
        batch.check_tokens(self.config.vocab_size)
        self._check_context(batch)
        if self._ranks is not None and not cache.number:
            raise ValueError("a model on several ranks takes caches of its own new_cache() only: all ranks have a part")
        device_batch = DeviceBatch(batch, self._rope, self._buffers)  # may fail: before the other ranks hear of it
        if self._ranks is not None:
            self._ranks.command("follow", batch, cache.number, all_logits)
        for source, target in batch.copies:
            cache.pool.copy_block(source, target)
        return Step(self._f, self._buffers, device_batch, cache, self.dtype, self._hooks, self._parallel)

    def _compute(self, step: Step, all_logits: bool = False) -> Tensor:
        """The logits, where they are computed and in rank 0; memory without meaning elsewhere."""
        hidden = self.hidden_states(step)
        logits = step.scratch("logits", (step.ntok if all_logits else step.batch.size, self.config.vocab_size))
        if hidden is not None and step.place.has_output:
            if not all_logits:
                hidden = self._f.last_tokens(hidden, step.batch)
            self._f.linear(hidden, self.logits_weight(), None, logits)
        if step.parallel is not None and step.place.pp_size > 1:
            if step.place.has_output:
                step.parallel.world.send(logits, 0)
            elif step.parallel.world.rank == 0:
                step.parallel.world.recv(logits, step.parallel.output)
        if step.hooks is not None:
            step.hook("logits", logits)
        return logits

    def logits_weight(self) -> Tensor:
        """What the output layer multiplies by: `output_weight`, or what was made of it when quantising."""
        return self.output_weight() if self._tied_output is None else self._tied_output

    def _check_context(self, batch: ForwardBatch) -> None:
        longest = self.config.longest_context
        if longest is not None and batch.size and int(batch.lengths.max()) > longest:
            raise ValueError(
                f"a sequence of {int(batch.lengths.max())} tokens exceeds {longest}: beyond it some layers of "
                "this model use a sliding window and others do not, which is not supported"
            )

    def __call__(self, input_ids: Any, kv_cache: BlockCache | None = None) -> Tensor:
        """Logits of all positions: `[batch, seq, vocab]` for a rectangular batch, `[ntok, vocab]` for rows of different
        lengths. With a cache, row r continues sequence r of it; without, nothing is kept."""
        rows = token_rows(input_ids)
        self._check_prompts(rows, 0)
        if not isinstance(kv_cache, BlockCache | None):
            raise TypeError(f"kv_cache must be a KVCache, a PagedKVCache or None, got {type(kv_cache).__name__}")
        cache = kv_cache or self.new_cache(StaticKVCacheConfig(len(rows), max(map(len, rows))))
        for row in range(len(rows)):
            if row not in cache.sequences:
                cache.sequences.add(row)
        for row, tokens in enumerate(rows):
            if cache.sequences.step_limit(row, len(tokens)) < len(tokens):
                raise ValueError(
                    f"row {row}: {len(tokens)} tokens at once go beyond the sliding window; use generate()"
                )
        before = [cache.sequences.length(row) for row in range(len(rows))]
        try:
            logits = self.forward(cache.batch(range(len(rows)), rows), cache, all_logits=True)
        except BaseException:
            for row, length in enumerate(before):
                cache.sequences.rewind(row, length)
            raise
        out = infiniop.empty(logits.shape, dtype=self.dtype, device=self.device).copy_(logits)
        lengths = {len(row) for row in rows}
        return out.reshape(len(rows), lengths.pop(), self.config.vocab_size) if len(lengths) == 1 else out

    # ------------------------------------------------------------------ what generation asks for

    def generation_cache(self, lengths: Sequence[int], config: CacheConfig | None) -> BlockCache:
        """A cache of this configuration, or of one for sequences that grow to these lengths; the one of the last call
        where it will do."""
        if self._cache is None or not _serves(self._cache, config, lengths):
            self._cache = None  # its memory goes before the new one comes
            self._cache = self.new_cache(config or StaticKVCacheConfig(len(lengths), max(lengths)))
        return self._cache


def _serves(cache: BlockCache, config: CacheConfig | None, lengths: Sequence[int]) -> bool:
    if config is not None:
        return cache.config == config
    geometry, longest = cache.geometry, max(lengths)
    enough = geometry.block_size >= min(longest, cache.window or longest)
    return geometry.contiguous and enough and geometry.num_blocks - len(cache.sequences) >= len(lengths)


def _why_dequantised(weight: QuantizedWeight) -> str:
    if weight.column_groups is not None:
        return "its groups are not neighbours (act order)"
    return "the device has no packed weights"


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
