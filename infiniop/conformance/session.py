"""What one run of the kit is about, from its command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infiniop.operators import all_operators
from infiniop.schema import Operator

from . import xfails
from .cases import Case, Options, cases, claimed, described
from .entry import PACKAGE
from .subject import Subject, UnknownBackend, subject


class Unusable(ValueError):
    """A command line that means nothing; the sentence says why."""


@dataclass(frozen=True)
class Session:
    """Backend, operators, cases and expected failures of a run."""

    tested: Subject
    operators: Sequence[Operator]
    patterns: Sequence[str]
    entries: Sequence[xfails.Entry]
    options: Options
    loaded: Sequence[str] = ()
    """Plugins that pytest was told to load: what brings a backend that is not installed."""
    mode: str | None = None
    """What to do instead of checking: "perf" or "support"."""

    @classmethod
    def of(
        cls, backend: str, ops: Sequence[str], patterns: Sequence[str], xfails_path: Path | None, options: Options,
        loaded: Sequence[str] = (), mode: str | None = None,
    ) -> Session:  # fmt: skip
        """Raises `Unusable`."""
        try:
            tested = subject(backend)
            entries = [] if xfails_path is None else xfails.read(xfails_path)
            session = cls(tested, _chosen(tested, ops), patterns, entries, options, loaded, mode)
            session._require_meaning(whole=not ops)
        except (UnknownBackend, xfails.BadFile) as error:
            raise Unusable(str(error)) from None
        return session

    def _require_meaning(self, whole: bool) -> None:
        """Patterns and entries that mean no case are errors; entries of operators that are not run are not."""
        mine = [e for e in self.entries if whole or any(e.operator == o.name for o in self.operators)]
        if not mine and not self.patterns:
            return
        every = self._every(self.options)
        silent = xfails.without_meaning(mine, every)
        if silent and not self.options.large:  # one file serves runs with and without large cases
            silent = xfails.without_meaning(silent, self._every(replace(self.options, large=True)))
        for entry in silent[:1]:
            raise Unusable(f"{entry.where}: no case is named {entry.operator} {entry.pattern}: remove the line")
        for pattern in self.patterns:
            if not any(case.answers_to(pattern) for case in every) and not self._described(pattern):
                where = "" if whole else f" of {', '.join(o.name for o in self.operators)}"
                raise Unusable(f"no case{where} is named {pattern!r}{self._hint(pattern)}")

    def _every(self, options: Options) -> list[Case]:
        return [case for operator in self.operators for case in cases(operator, self.tested, options)]

    def _hint(self, pattern: str) -> str:
        large = self._every(replace(self.options, large=True))
        return " without --large" if any(case.answers_to(pattern) for case in large) else ""

    def cases(self, operator: Operator) -> Iterator[Case]:
        """Those that the command line asks for."""
        for case in cases(operator, self.tested, self.options):
            if not self.patterns or any(case.answers_to(p) for p in self.patterns):
                yield case
        for pattern in self.patterns:
            made = described(operator, self.tested, pattern)
            if made is not None:
                yield made

    def _described(self, name: str) -> bool:
        try:
            return any(described(operator, self.tested, name) for operator in self.operators)
        except ValueError as error:
            raise Unusable(f"--case {name!r}: {error}") from None

    def repro(self, operator: str, name: str) -> str:
        """The command that runs one case alone."""
        ours = sorted((name, value) for name, value in os.environ.items() if name.startswith("INFINIOP_"))
        environment = "".join(f"{name}={shlex.quote(value)} " for name, value in ours)
        words = ["pytest", *(word for name in self.loaded for word in ("-p", name)), "--pyargs", PACKAGE]
        words += ["--backend", self.tested.backend, "--op", operator, "--case", name]
        for option in ("seed", "draws"):
            value = getattr(self.options, option)
            words += [f"--{option}", str(value)] if value != getattr(Options(), option) else []
        words += ["--large"] if self.options.large else []
        return environment + shlex.join(words)

    def expected_failure(self, case: Case) -> xfails.Entry | None:
        return next((entry for entry in self.entries if entry.means(case)), None)


def _chosen(tested: Subject, names: Sequence[str]) -> list[Operator]:
    known, found = all_operators(), claimed(tested)
    for name in names:
        if name not in known:
            raise Unusable(f"there is no operator named {name}: expected one of {', '.join(known)}")
        if not tested.has(name):
            raise Unusable(f"backend {tested.backend} has no kernel for {name}")
    if not found:
        raise Unusable(f"backend {tested.backend} has no kernels")
    return [operator for operator in found if not names or operator.name in names]
