"""`AutoLlamaModel`: a model folder in, a loaded model of the right family out."""

from __future__ import annotations

import logging
import time
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import infiniop

from .arrays import resolve_dtype
from .config import read_json, token_ids
from .distributed import DistConfig
from .models import load_config, model_class
from .quantized import open_checkpoint
from .ranks import Parallel, rank_device, spread
from .sampling import NEUTRAL

if TYPE_CHECKING:
    from .config import LlamaConfig
    from .models.llama import LlamaForCausalLM

logger = logging.getLogger(__name__)


class AutoLlamaModel:
    """Loads any supported family; `model_type` in config.json decides which."""

    def __init__(self) -> None:
        raise TypeError("AutoLlamaModel is not instantiated: use AutoLlamaModel.from_pretrained(path)")

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike[str],
        device: Any = "cpu",
        dtype: Any = None,
        quantize: str | None = None,
        distributed_config: DistConfig | None = None,
    ) -> LlamaForCausalLM:
        """Reads config.json, generation_config.json and (sharded) safetensors from a folder.

        `dtype`: float32, bfloat16 or float16; None takes the configuration's. Weights of that dtype stay
        memory-mapped on the CPU. AWQ (4 bits) and GPTQ (4 and 8 bits) checkpoints keep their integers; `quantize`
        ("int8", "int4") quantises the weights of other layers in groups of 32, and the tied output to int8;
        "int4-g128-o4-a8" would be groups of 128, int4 for that output, activations of 8 bits. Raises
        `CheckpointError` when the weights are damaged or contradict the configuration, `ValueError` for another dtype
        or an unknown model type, `MissingOperatorsError` when the device cannot run the model.

        `distributed_config` spreads the model over ranks, each of which reads its own shards from the files.
        """
        began = time.perf_counter()
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        if dtype is not None:
            dtype = resolve_dtype(dtype)
        config = load_config(folder)
        ranks, defaults = distributed_config or DistConfig(), _generation_defaults(folder)
        arguments = config, str(device), dtype, quantize, ranks
        model: Any = spread(config, ranks, infiniop.Device(device).name, _load, folder, *arguments)
        model.generation_defaults = defaults
        seconds = time.perf_counter() - began
        logger.info("loaded %s: device %s, dtype %r, %.2f seconds", folder, device, model.dtype, seconds)
        return model


def build(
    parallel: Parallel | None, config: LlamaConfig, device: str, dtype: Any, quantize: str | None, ranks: DistConfig
) -> Any:
    """One rank's part of a model, without values."""
    return model_class(config.model_type)(config, rank_device(device, ranks, parallel), dtype, quantize, parallel)


def _load(parallel: Parallel | None, folder: Path, config: LlamaConfig, *arguments: Any) -> LlamaForCausalLM:
    """One rank's part of the model in a folder; `arguments` as in `build`."""
    model = build(parallel, config, *arguments)
    model.load_checkpoint(open_checkpoint(folder, config.extra.get("quantization_config")))
    return model


def _generation_defaults(folder: Path) -> dict[str, Any]:
    file = folder / "generation_config.json"
    values = read_json(file) if file.is_file() else {}
    for name in NEUTRAL:
        value = values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{file}: {name} must be a number or null, got {value!r}")
    try:
        token_ids("eos_token_id", values.get("eos_token_id"))
    except TypeError as error:
        raise ValueError(f"{file}: {error}") from None
    return values
