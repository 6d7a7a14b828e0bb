"""`LlamaConfig`: the fields of Hugging Face's `config.json` that decoders of the Llama family need."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

from .rope import rope_problem

_TOKEN_ID_FIELDS = ("bos_token_id", "eos_token_id")
_POSITIVE_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "head_dim",
)  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `FileNotFoundError`, or `ValueError` that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def no_folder(folder: Path) -> str:
    """What to say where a model's folder is not there."""
    return f"there is no folder {folder}: a model is one with config.json and its weights"


def token_ids(name: str, value: object) -> list[int]:
    """What a field of token ids holds, as a list; null is none. Raises `TypeError`."""
    if value is None:
        return []
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be int or list of ints")
    return list(values)


@dataclass
class LlamaConfig:
    """Names and defaults are Hugging Face's. `bos_token_id` and `eos_token_id` take an int or a list, and read as a
    list.

    A subclass per model family changes defaults and adds fields. `rope_scaling` accepts the older `{"type": …}` form
    and the newer `rope_parameters`; `rope_parameters` reads as one dictionary, whichever came in.
    """

    family: ClassVar[str] = "llama"
    qkv_bias: ClassVar[bool | None] = None  # None: as `attention_bias` says

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = None  # type: ignore[assignment]  # None: as many as attention heads
    head_dim: int = None  # type: ignore[assignment]  # None: hidden_size // num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    original_max_position_embeddings: int | None = None
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: Any = 1
    eos_token_id: Any = 2
    pretraining_tp: int | None = 1
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    torch_dtype: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, token_ids(name, value) if name in _TOKEN_ID_FIELDS else value)

    def __post_init__(self) -> None:
        self._head_dim_given = self.head_dim is not None
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and _is_positive(self.hidden_size) and _is_positive(self.num_attention_heads):
            self.head_dim = self.hidden_size // self.num_attention_heads

    # ------------------------------------------------------------------ reading

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From the content of a `config.json`; keys that no field takes are kept in `extra`."""
        values = dict(values)
        values.setdefault("torch_dtype", values.pop("dtype", None))
        rope = values.pop("rope_parameters", None)
        values["rope_scaling"] = values.get("rope_scaling") or rope
        if isinstance(values["rope_scaling"], dict):
            values["rope_theta"] = values["rope_scaling"].get("rope_theta") or values.get("rope_theta")
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        # Hugging Face writes null for "the default", but null is a value where the field's default is not null as well.
        taken = {k: v for k, v in values.items() if k in known and (v is not None or k in _NULLABLE)}
        return cls(**taken, extra={k: v for k, v in values.items() if k not in known})

    @classmethod
    def from_pretrained(cls, path: str | PathLike[str]) -> Self:
        """From a model folder or a `config.json`; validated."""
        file = Path(path)
        values = read_json(file / "config.json" if file.is_dir() else file)
        model_type = values.get("model_type", cls.family)
        if model_type != cls.family:
            raise ValueError(
                f"{file} has model_type {model_type!r}, {cls.__name__} reads {cls.family!r}: "
                "infiniop.lm.load_config picks the class"
            )
        config = cls.from_dict(values)
        config.validate()
        return config

    # ------------------------------------------------------------------ what follows from the fields

    @property
    def model_type(self) -> str:
        return self.family

    def kv_dim(self) -> int:
        """Elements of one token's keys (or values) in one layer."""
        return self.num_key_value_heads * self.head_dim

    @property
    def has_qkv_bias(self) -> bool:
        return self.attention_bias if self.qkv_bias is None else self.qkv_bias

    @property
    def attention_window(self) -> int | None:
        """How many tokens back every layer sees; None: all."""
        return None

    @property
    def longest_context(self) -> int | None:
        """The context beyond which this engine would compute something else than the model means; None: no such
        bound."""
        return None

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """`rope_type`, `rope_theta` and the type's own parameters."""
        given = {k: v for k, v in (self.rope_scaling or {}).items() if k != "type"}
        given["rope_type"] = given.get("rope_type") or (self.rope_scaling or {}).get("type", "default")
        given["rope_theta"] = given.get("rope_theta") or self.rope_theta
        given["max_position_embeddings"] = self.max_position_embeddings
        original = self.original_max_position_embeddings or given.get("original_max_position_embeddings")
        given["original_max_position_embeddings"] = original or self.max_position_embeddings
        return given

    # ------------------------------------------------------------------ validation

    def validate(self) -> None:
        """Raises `ValueError` that names the violated constraint."""
        for problem in self._problems():
            raise ValueError(f"{type(self).__name__}: {problem}")

    def _problems(self) -> Iterator[str]:
        if not isinstance(self.rope_scaling, dict | None):
            yield f"rope_scaling must be an object or null, got {self.rope_scaling!r}"
        for name in _POSITIVE_FIELDS:
            if not _is_positive(getattr(self, name)):
                yield f"{name} must be a positive integer, got {getattr(self, name)!r}"
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if not self._head_dim_given and self.hidden_size % heads:
            yield f"hidden_size ({self.hidden_size}) must be divisible by num_attention_heads ({heads})"
        if heads % kv_heads:
            yield f"num_attention_heads ({heads}) must be divisible by num_key_value_heads ({kv_heads})"
        if self.head_dim % 2:
            yield f"head_dim ({self.head_dim}) must be even, because rotary embedding turns pairs"
        if not (isinstance(self.rms_norm_eps, float | int) and self.rms_norm_eps > 0):
            yield f"rms_norm_eps must be positive, got {self.rms_norm_eps!r}"
        if self.hidden_act != "silu":
            yield f"hidden_act must be 'silu', got {self.hidden_act!r}"
        if self.partial_rotary_factor != 1.0 or self.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
            yield "partial_rotary_factor must be 1.0"
        for window in (self.attention_window, self.longest_context):
            if window is not None and not _is_positive(window):
                yield f"sliding_window must be a positive integer or null, got {window!r}"
        problem = rope_problem(self.rope_parameters, self.head_dim)
        if problem:
            yield problem


_NULLABLE = {"bos_token_id", "eos_token_id", "pad_token_id", "sliding_window", "num_key_value_heads"}


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
