"""Model families, one file each, found by `model_type`. Adding a family is adding a file here (or a `register_model`
elsewhere)."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import LlamaConfig, read_json

if TYPE_CHECKING:
    from .llama import LlamaForCausalLM

_FAMILIES: dict[str, type[LlamaForCausalLM]] = {}


def register_model(cls: type[LlamaForCausalLM]) -> type[LlamaForCausalLM]:
    """Class decorator: the model class serves its configuration's `model_type`."""
    _FAMILIES[cls.config_class.family] = cls
    return cls


@functools.cache
def _import_families() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


def supported_models() -> tuple[str, ...]:
    """The known values of `model_type`, in alphabetical order."""
    _import_families()
    return tuple(sorted(_FAMILIES))


def model_class(model_type: str) -> type[LlamaForCausalLM]:
    """The class of a `model_type`. Raises `ValueError` that names the supported ones."""
    _import_families()
    if model_type not in _FAMILIES:
        raise ValueError(f"unknown model_type {model_type!r}: supported are {', '.join(supported_models())}")
    return _FAMILIES[model_type]


def load_config(path: str | PathLike[str]) -> LlamaConfig:
    """The configuration in a model folder, of the class that its `model_type` asks for; validated."""
    file = Path(path) / "config.json"
    model_type = read_json(file).get("model_type")
    if not isinstance(model_type, str):
        raise ValueError(f"{file} has no model_type: supported are {', '.join(supported_models())}")
    return model_class(model_type).config_class.from_pretrained(path)


def __getattr__(name: str) -> Any:
    if name == "AutoLlamaModel":  # lazily: it is built on this module
        from ..auto import AutoLlamaModel

        return AutoLlamaModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
