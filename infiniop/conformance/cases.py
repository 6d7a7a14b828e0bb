"""Cases: what the kit runs, one by one.

A module in `checks/` has a function `cases(operator, tested, options)`; there is no list of them anywhere else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from infiniop.operators import all_operators
from infiniop.schema import Operator

from . import checks
from .subject import Subject


@dataclass(frozen=True)
class Options:
    """What the command line says about all cases."""

    seed: int = 1


@dataclass(frozen=True)
class Case:
    """One thing to find out. `name` begins with the kind: "sample F32-17x33"."""

    operator: str
    name: str
    run: Callable[[], list[str]]
    """What is wrong, a sentence each. Raises `Declined` where the backend does not take the call."""

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]

    def answers_to(self, pattern: str) -> bool:
        """Whether `--case` or an expected failure means it: its name, its kind, or a pattern with `*` and `?`."""
        return pattern in (self.name, self.kind) or fnmatchcase(self.name, pattern)


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    """All cases of one operator."""
    for module in sorted(m.name for m in pkgutil.iter_modules(checks.__path__)):
        yield from importlib.import_module(f"{checks.__name__}.{module}").cases(operator, tested, options)


def claimed(tested: Subject) -> list[Operator]:
    """The operators that the backend has kernels for."""
    return [operator for name, operator in all_operators().items() if tested.has(name)]
