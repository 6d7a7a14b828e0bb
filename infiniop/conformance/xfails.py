"""The file of expected failures that a backend's author keeps.

    # operator  case                      reason
    gemm        sample F16-*              # sums are F16 so far
    rope        error position-*          # no check of positions yet

A case may be a pattern (`*`, `?`). What names nothing, and what passes, is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from infiniop.operators import all_operators

from .cases import Case


class BadFile(ValueError):
    """What is wrong with the file, and where."""


@dataclass(frozen=True)
class Entry:
    """One line."""

    where: str
    operator: str
    pattern: str
    reason: str

    def means(self, case: Case) -> bool:
        return fnmatchcase(case.operator, self.operator) and case.answers_to(self.pattern)


def read(path: Path) -> list[Entry]:
    """The entries of a file. Raises `BadFile`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: cannot be read: {error}") from None
    entries = []
    for number, line in enumerate(lines, 1):
        text, _, reason = line.partition("#")
        if not text.strip():
            continue
        operator, _, pattern = text.strip().partition(" ")
        if not pattern.strip():
            raise BadFile(f"{path}:{number}: expected an operator and a case, got {text.strip()!r}")
        if not any(fnmatchcase(name, operator) for name in all_operators()):
            raise BadFile(f"{path}:{number}: there is no operator {operator}")
        entries.append(Entry(f"{path}:{number}", operator, pattern.strip(), reason.strip()))
    return entries


def without_meaning(entries: Sequence[Entry], cases: Iterable[Case]) -> list[Entry]:
    """The entries that mean none of the cases."""
    silent = list(entries)
    for case in cases:
        silent = [entry for entry in silent if not entry.means(case)]
    return silent
