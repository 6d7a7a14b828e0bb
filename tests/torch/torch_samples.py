"""The operator files' samples as arguments of `torch.ops.infiniop`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

import infiniop.torch
from infiniop import ops
from infiniop.conformance import runner
from infiniop.conformance.memory import Arguments
from infiniop.gen.torch import Overload, overloads
from infiniop.inference import Binding
from infiniop.operators import all_operators
from infiniop.schema import ErrorSample, Operator, Role, Sample
from infiniop.tensor import extent

assert infiniop.torch
EVERY = [overload for operator in all_operators().values() for overload in overloads(operator)]
_VIEWS = {ml_dtypes.bfloat16: (np.int16, torch.bfloat16), ml_dtypes.float8_e4m3fn: (np.uint8, torch.float8_e4m3fn)}


def as_torch(array: np.ndarray) -> torch.Tensor:
    """The same memory."""
    plain, dtype = _VIEWS.get(array.dtype.type, (None, None))
    return torch.from_numpy(array) if plain is None else torch.from_numpy(array.view(plain)).view(dtype)


def as_bytes(tensor: torch.Tensor) -> bytes:
    plain = {dtype: getattr(torch, np.dtype(plain).name) for plain, dtype in _VIEWS.values()}
    return (tensor.view(plain[tensor.dtype]) if tensor.dtype in plain else tensor).numpy().tobytes()


class Call:
    """One call of an overload on fresh memory that is laid out as the sample has it."""

    def __init__(self, overload: Overload, sample: Sample | ErrorSample):
        operator = self.operator = overload.operator
        packet = getattr(torch.ops.infiniop, operator.name)
        self.function = packet.out if overload.outs else packet.default
        self.memory = Arguments(operator, _prepared(sample))
        self.tensors = {n: as_torch(a) for n, a in self.memory.arrays().items() if a is not None}
        self.attrs = {a.name: _plain(a, sample.attrs.get(a.name, a.default)) for a in operator.attrs}
        given = {**self.tensors, **self.attrs}
        given |= {p.name: self._extra(p.name) for p in overload.parameters if p.kind == "SymInt?"}
        self.args = tuple(given.get(p.name) for p in overload.parameters)
        fresh = [t.name for t in operator.tensors if t.role is Role.OUT]
        self.kwargs = {p.name: self.tensors[name] for p, name in zip(overload.outs, fresh, strict=False)}

    def __call__(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    def plain(self) -> Any:
        """The same through `infiniop.ops`, on NumPy arrays."""
        arrays = {n: a for n, a in self.memory.arrays().items() if a is not None}
        run(self.operator, arrays, self.attrs)

    def _extra(self, name: str) -> int:
        """A keyword of the inference: what gives the sample's output."""
        axis = next(axis for axis, text in self.operator.infer.items() if text == name)
        output = self.operator.outputs[0]
        return self.tensors[output.name].shape[output.shape.split().index(axis)]


def run(operator: Operator, tensors: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
    """Through `infiniop.ops`; outputs are written in place."""
    outs = [tensors[t.name] for t in operator.tensors if t.role is Role.OUT]
    inputs = {t.name: tensors.get(t.name) for t in operator.inputs}
    out = {"out": outs[0] if len(outs) == 1 else outs} if outs else {}
    getattr(ops, operator.name)(**inputs, **attrs, **out)


def _prepared(sample: Sample | ErrorSample) -> Mapping[str, np.ndarray | None]:
    prepare = getattr(sample, "prepare", None)
    if prepare is None:
        return sample.tensors
    return {**sample.tensors, **prepare(lambda name, tensors, attrs: run(all_operators()[name], tensors, attrs))}


def _plain(attr: Any, value: Any) -> Any:
    """As torch takes it: lists, Python's numbers, enumerators by name."""
    if attr.length is not None:
        return np.asarray(value).tolist()
    if attr.enum and not isinstance(value, str):
        return attr.enum[value]
    return bool(value) if isinstance(attr.default, bool) else value


def fits(overload: Overload, sample: Sample | ErrorSample) -> bool:
    """Small, without negative strides; for new outputs: neither aliased nor read."""
    arrays = [a for a in sample.tensors.values() if a is not None]
    if runner.elements(sample) > 20_000 or any(s < 0 for a in arrays for s in a.strides):
        return False
    if any(extent(a.shape, a.strides)[1] > 1 << 20 for a in arrays):
        return False
    if not overload.made:
        return True
    sigs = {n: None if a is None else runner.signature(a) for n, a in sample.tensors.items()}
    binding = Binding(overload.operator, sigs, sample.attrs) if any(t.read_when for t in overload.made) else None
    read = binding is not None and any(binding.value(t.read_when) for t in overload.made if t.read_when)
    return not read and len({id(a) for a in arrays}) == len(arrays)


def handful(overload: Overload, count: int) -> Iterator[Sample]:
    """Samples that differ in dtypes, layout, emptiness, or in what is left out."""
    seen = set()
    for sample in itertools.islice(overload.operator.samples(np.random.default_rng(1)), 150):
        arrays = [a for a in sample.tensors.values() if a is not None]
        features = (
            arrays[0].dtype, all(a.flags.c_contiguous for a in arrays), all(a.size for a in arrays), len(arrays),
            sample.prepare is not None,
        )  # fmt: skip
        if features not in seen and fits(overload, sample):
            seen.add(features)
            yield sample
        if len(seen) == count:
            return
