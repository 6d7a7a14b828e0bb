"""Cases: what the kit runs, one by one.

A module in `checks/` has a function `cases(operator, tested, options)`, the names of the `GROUPS` that its cases count
to, and `case_of(operator, tested, name)` where it knows cases by name that it does not list; there is no list of these
modules anywhere else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import ModuleType

from infiniop.operators import all_operators
from infiniop.schema import Operator

from . import checks
from .subject import Subject


@dataclass(frozen=True)
class Options:
    """What the command line says about all cases."""

    seed: int = 1
    draws: int = 100
    large: bool = False
    """Also cases that take GiB of memory."""


class Found(Exception):
    """What is wrong with one of many calls that a case makes; `name` is the case that makes this call alone."""

    def __init__(self, name: str, wrong: list[str]):
        super().__init__("\n".join(wrong))
        self.name, self.wrong = name, wrong


@dataclass(frozen=True)
class Case:
    """One thing to find out. `name` begins with the kind: "sample F32-17x33"."""

    operator: str
    name: str
    run: Callable[[], list[str]]
    """What is wrong, a sentence each. Raises `Found`, and `Declined` where the backend does not take the call."""

    group: str = ""
    """What it counts as in the report, where that is not its kind."""

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def column(self) -> str:
        return self.group or self.kind

    def answers_to(self, pattern: str) -> bool:
        """Whether `--case` or an expected failure means it: its name, its kind, or a pattern with `*` and `?`."""
        return pattern in (self.name, self.kind) or fnmatchcase(self.name, pattern)


def cases(operator: Operator, tested: Subject, options: Options) -> Iterator[Case]:
    """All cases of one operator."""
    for check in _checks():
        yield from check.cases(operator, tested, options)


def described(operator: Operator, tested: Subject, name: str) -> Case | None:
    """A case that is in no list because its name says all there is to it. Raises `ValueError` for a bad name."""
    makers = [check.case_of for check in _checks() if hasattr(check, "case_of")]
    return next((case for case in (make(operator, tested, name) for make in makers) if case is not None), None)


def groups() -> list[str]:
    """What the kit checks: every group that a case may count to, in order."""
    return [group for check in _checks() for group in check.GROUPS]


def _checks() -> list[ModuleType]:
    names = sorted(m.name for m in pkgutil.iter_modules(checks.__path__))
    return [importlib.import_module(f"{checks.__name__}.{name}") for name in names]


def claimed(tested: Subject) -> list[Operator]:
    """The operators that the backend has kernels for."""
    return [operator for name, operator in all_operators().items() if tested.has(name)]
