"""The language-model engine: models, caches and generation, on `infiniop.Tensor` and `infiniop.ops` alone."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "AutoLlamaModel": "auto",
    "CacheConfig": "cache",
    "CacheFullError": "cache",
    "CheckpointError": "checkpoint",
    "CommunicationGroup": "groups",
    "DistConfig": "distributed",
    "DynamicCache": "cache",
    "GenerationMixin": "generation",
    "GenerationOutput": "generation",
    "GenerationStatistics": "generation",
    "HookRegistry": "hooks",
    "InferEngine": "engine",
    "LLM": "llm",
    "LlamaConfig": "config",
    "LlamaForCausalLM": "models.llama",
    "LlamaModel": "models.llama",
    "MissingOperatorsError": "operators",
    "PagedKVCacheConfig": "cache",
    "REQUIRED_OPERATORS": "operators",
    "RequestOutput": "requests",
    "RequestParams": "requests",
    "SamplingParams": "sampling",
    "Scheduler": "scheduler",
    "ServingEngine": "serving",
    "StaticKVCacheConfig": "cache",
    "TokenEvent": "generation",
    "create_cache_config": "cache",
    "infini_to_numpy": "arrays",
    "load_config": "models",
    "load_tokenizer": "text",
    "register_cache_mode": "cache",
    "register_model": "models",
    "supported_models": "models",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
