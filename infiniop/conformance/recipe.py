"""A call in one line: dtype, shape, strides and sharing of every tensor, attributes, and the seed of the values.

    c=F32:3x5:10,1 a=F32:3x4:4,1 b=F32:4x5:5,1 alpha=0.5 beta=0.0 seed:17

`b=-` leaves an optional tensor out, `c=@a` is the memory of another one, `shift:1` moves every tensor off its natural
alignment by that many elements, `special` puts infinities and NaN among the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from infiniop._call import element_type
from infiniop.inference import Binding
from infiniop.schema import Attr, Operator, Sample, Tensor, dtype
from infiniop.schema.dtypes import DType
from infiniop.schema.samples import layout, uniform

from .call import signature

_SPECIAL = (np.nan, np.inf, -np.inf, -0.0)
_HOST_REALS = (0.5, 1.0, 0.9, 0.3)


@dataclass(frozen=True)
class Spec:
    """One tensor."""

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    def __str__(self) -> str:
        return f"{self.dtype.name}:{'x'.join(map(str, self.shape))}:{','.join(map(str, self.strides))}"

    @classmethod
    def parse(cls, text: str) -> Spec:
        kind, shape, strides = text.split(":")
        numbers = [tuple(int(n) for n in part.split(by) if n) for part, by in ((shape, "x"), (strides, ","))]
        return cls(dtype(kind), *numbers)

    def span(self) -> int:
        """Elements between the first and the last one in memory."""
        return sum(abs(s) * (n - 1) for n, s in zip(self.shape, self.strides, strict=True)) + 1


@dataclass(frozen=True)
class Recipe:
    """One call. A tensor is a `Spec`, the name of the one whose memory it is, or None."""

    tensors: Mapping[str, Spec | str | None]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    shift: int = 0
    special: bool = False

    def __str__(self) -> str:
        words = [f"{n}={'-' if t is None else f'@{t}' if isinstance(t, str) else t}" for n, t in self.tensors.items()]
        words += [f"{name}={value}" for name, value in self.attrs.items()]
        words += [f"shift:{self.shift}"] if self.shift else []
        return " ".join([*words, f"seed:{self.seed}", *(["special"] if self.special else [])])

    @classmethod
    def parse(cls, operator: Operator, text: str) -> Recipe:
        """Raises `ValueError` for a line that is none of this operator's."""
        words = text.split()
        values = dict(word.split("=", 1) for word in words if "=" in word)
        modifiers = dict(word.partition(":")[::2] for word in words if "=" not in word)
        if not set(modifiers) <= {"seed", "shift", "special"}:
            raise ValueError(f"expected seed:N, shift:N, special or NAME=VALUE, got {text!r}")
        try:
            tensors = {t.name: _parse_tensor(t.name, values.pop(t.name)) for t in operator.tensors}
            attrs = {a.name: _parse_attr(a, values.pop(a.name)) for a in operator.attrs if a.length is None}
        except KeyError as missing:
            raise ValueError(f"{missing.args[0]} is missing") from None
        if values:
            raise ValueError(f"{operator.name} has no {next(iter(values))}")
        return cls(
            tensors, attrs, int(modifiers.get("seed", 0)), int(modifiers.get("shift", 0)), "special" in modifiers
        )

    def sample(self, operator: Operator) -> Sample | None:
        """With values; None when the operator's file says that this call has none that mean anything."""
        rng = np.random.default_rng(self.seed)
        tensors: dict[str, np.ndarray | None] = {}
        for schema in operator.tensors:
            spec = self.tensors[schema.name]
            if not isinstance(spec, str):
                tensors[schema.name] = None if spec is None else self._array(rng, spec, schema)
        for name, source in self.tensors.items():
            if isinstance(source, str):
                tensors[name] = tensors[source]
        ordered = {schema.name: tensors[schema.name] for schema in operator.tensors}
        attrs = {**self.attrs, **self._host_arrays(rng, operator, ordered)}
        sample = Sample(f"drawn {self}", ordered, attrs, shift=self.shift)
        if operator.complete is not None:
            completed = operator.complete(rng, sample)
            return None if completed is None else replace(completed, name=sample.name, shift=self.shift)
        return sample

    def _array(self, rng: np.random.Generator, spec: Spec, schema: Tensor) -> np.ndarray:
        if schema.opaque:
            return layout(spec.shape, spec.strides, spec.dtype)
        if spec.dtype.is_float:
            array = uniform(rng, spec.shape, spec.dtype, -1.0, 1.0, spec.strides)
            if self.special and not schema.is_output and array.size:
                for _ in range(rng.integers(0, 4)):
                    array[tuple(rng.integers(array.shape))] = rng.choice(_SPECIAL)
            return array
        return uniform(rng, spec.shape, spec.dtype, 0, max(max(spec.shape, default=0) // 2, 1), spec.strides)

    def _host_arrays(
        self, rng: np.random.Generator, operator: Operator, tensors: Mapping[str, np.ndarray | None]
    ) -> dict[str, np.ndarray]:
        arrays = [a for a in operator.attrs if a.length is not None]
        if not arrays:
            return {}
        binding = Binding(operator, {n: None if a is None else signature(a) for n, a in tensors.items()}, self.attrs)
        found = {}
        for attr in arrays:
            kind, count = element_type(attr), int(binding.value(attr.length or "0"))
            real = np.issubdtype(kind, np.floating)
            found[attr.name] = rng.choice(_HOST_REALS if real else (1, 2, 3, 40), count).astype(kind)
        return found


def _parse_tensor(name: str, text: str) -> Spec | str | None:
    if text == "-":
        return None
    try:
        return text[1:] if text.startswith("@") else Spec.parse(text)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected DTYPE:SHAPE:STRIDES, @NAME or -, got {text!r}") from None


def _parse_attr(attr: Attr, text: str) -> Any:
    if attr.enum and text in attr.enum:
        return text
    try:
        return float(text) if attr.ctype in ("float", "double") else int(text)
    except ValueError:
        raise ValueError(f"{attr.name}: expected a number, got {text!r}") from None
