"""`--support`: which calls of each operator a backend takes, by dtype. Descriptors are made, nothing is computed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from infiniop.schema import Operator, dtype

from .call import Declined, Descriptor, Failed
from .memory import Arguments
from .subject import Subject


@dataclass(frozen=True)
class Row:
    """Of `calls` samples of these dtypes the backend takes `taken`; `refusals`: names and a reason for the others."""

    op: str
    dtypes: str
    taken: int
    calls: int
    refusals: str

    HEADINGS = ("operator", "dtypes", "taken", "not taken")

    def cells(self) -> tuple[str, ...]:
        return (self.op, self.dtypes, f"{self.taken} of {self.calls}", self.refusals)


def rows(operator: Operator, tested: Subject, seed: int) -> Iterator[Row]:
    """One row for each combination of dtypes among the operator's samples."""
    calls: Counter[str] = Counter()
    refused: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for sample in operator.samples(np.random.default_rng(seed)):
        if "large" in sample.tags or sample.prepare is not None:
            continue
        arguments = Arguments(operator, sample.tensors)
        kinds = _dtypes(operator, arguments)
        calls[kinds] += 1
        try:
            Descriptor(operator, tested, arguments, sample.attrs).destroy()
        except (Declined, Failed) as error:
            refused[kinds][sample.name] = str(error)
    for kinds, count in calls.items():
        yield Row(operator.name, kinds, count - len(refused[kinds]), count, _summary(refused[kinds]))


def _dtypes(operator: Operator, arguments: Arguments) -> str:
    """The dtypes that the schema leaves open, in order of the tensors: "F16 weight F32"."""
    found: dict[str, str] = {}
    for tensor in operator.tensors:
        if tensor.dtype in operator.dtypes and tensor.name in arguments.blocks:
            found.setdefault(tensor.dtype, dtype(arguments.blocks[tensor.name].array.dtype).name)
    return " ".join(name if variable == "T" else f"{variable}={name}" for variable, name in found.items())


def _summary(refused: dict[str, str]) -> str:
    """Which, and why the first of them."""
    if not refused:
        return ""
    names = ", ".join(list(refused)[:3]) + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")
    return f"{names}: {next(iter(refused.values()))}"
