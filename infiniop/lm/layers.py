"""Parameters, and the few layers that carry them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import infiniop

if TYPE_CHECKING:
    from infiniop import Tensor

    from .functional import Functional
    from .groups import CommunicationGroup


class Parameter:
    """A weight: its full shape, the axis along which ranks split it (None: every rank has all), whether `linear` takes
    it (so that it may be packed), and its tensor once loaded."""

    __slots__ = ("packable", "shape", "shard_axis", "tensor")

    def __init__(self, shape: tuple[int, ...], shard_axis: int | None = None, packable: bool = False):
        self.shape = shape
        self.shard_axis = shard_axis
        self.packable = packable
        self.tensor: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor; a forward pass checks once that all are loaded."""
        return self.tensor  # type: ignore[return-value]


class Module:
    """Something with parameters; attribute names make up the parameters' names, as in the checkpoints."""

    def modules(self) -> Iterator[Module]:
        """This one and all below it."""
        yield self
        for value in vars(self).values():
            for module in value if isinstance(value, ModuleList) else [value]:
                if isinstance(module, Module):
                    yield from module.modules()

    def spread(self, tp: CommunicationGroup) -> None:
        """Keeps this rank's share only, of the ranks that share every layer."""

    def join(self) -> None:
        """Puts weights together that are used together, once all have values."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")
            elif isinstance(value, ModuleList):
                for index, module in enumerate(value):
                    yield from module.named_parameters(f"{prefix}{name}.{index}.")


class ModuleList(list):
    """Modules by number."""


class Linear(Module):
    """y = x · weightᵀ + bias. `split` says how ranks share it: "column" splits the outputs, "row" the inputs, whose
    products are then added up."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False, split: str | None = None):
        axis = {None: None, "column": 0, "row": 1}[split]
        self.out_features = out_features
        self.weight = Parameter((out_features, in_features), axis, packable=True)
        self.bias = Parameter((out_features,), 0 if axis == 0 else None) if bias else None
        self._sum: CommunicationGroup | None = None

    def spread(self, tp: CommunicationGroup) -> None:
        if self.weight.shard_axis == 0:
            self.out_features //= tp.size
        elif self.weight.shard_axis == 1:
            self._sum = tp

    def __call__(self, f: Functional, x: Tensor, out: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.value
        if self._sum is None:
            return f.linear(x, self.weight.value, bias, out)
        f.linear(x, self.weight.value, bias if self._sum.rank == 0 else None, out)
        self._sum.all_reduce(out)
        return out


class Joined:
    """Layers that share their input, as one product: a device then waits for one launch in place of several. Their
    weights move into one tensor, of which each layer keeps its rows."""

    def __init__(self, *layers: Linear):
        self.layers = layers
        self.weight: Tensor | None = None  # None: each layer computes for itself
        self.bias: Tensor | None = None

    def join(self) -> None:
        weights = [layer.weight for layer in self.layers]
        self.weight = self.bias = None
        if all(weight.tensor is not None and worth_joining(weight.tensor) for weight in weights):
            self.weight = _together(weights)
            biases = [layer.bias for layer in self.layers if layer.bias is not None]
            self.bias = _together(biases) if biases else None

    def __call__(self, f: Functional, x: Tensor, out: Tensor) -> Tensor:
        """The layers' outputs side by side."""
        assert self.weight is not None
        return f.linear(x, self.weight, self.bias, out)


def worth_joining(weight: Tensor) -> bool:
    """Not on the CPU, where weights stay in the files that are mapped; nor what is packed."""
    return weight.ndim == 2 and not weight.device.is_cpu


def _together(parameters: list[Parameter]) -> Tensor:
    tensors = [parameter.value for parameter in parameters]
    rows = sum(tensor.shape[0] for tensor in tensors)
    whole = infiniop.empty((rows, *tensors[0].shape[1:]), dtype=tensors[0].dtype, device=tensors[0].device)
    end = 0
    for parameter, tensor in zip(parameters, tensors, strict=True):
        begin, end = end, end + tensor.shape[0]
        parameter.tensor = whole[begin:end].copy_(tensor)
    return whole


class RMSNorm(Module):
    def __init__(self, size: int, epsilon: float):
        self.weight = Parameter((size,))
        self.epsilon = epsilon

    def __call__(self, f: Functional, x: Tensor, out: Tensor) -> Tensor:
        return f.rms_norm(x, self.weight.value, self.epsilon, out)

    def after_add(self, f: Functional, x: Tensor, residual: Tensor, out: Tensor) -> Tensor:
        """residual ← x + residual; returns its norm."""
        return f.add_rms_norm(x, residual, self.weight.value, self.epsilon, out)


class Embedding(Module):
    def __init__(self, count: int, size: int):
        self.weight = Parameter((count, size))

    def __call__(self, f: Functional, ids: Tensor, out: Tensor) -> Tensor:
        return f.embedding(ids, self.weight.value, out)
