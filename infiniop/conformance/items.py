"""The kit's cases as pytest sees them: a collector for the package, one per operator, an item per case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infiniop.schema import Operator

from .call import Declined
from .cases import Case
from .session import Session


class Wrong(Exception):
    """What is wrong with the backend, a sentence each."""


class Kit(pytest.Collector):
    """The package."""

    def collect(self) -> Iterator[pytest.Collector]:
        session: Session = self.config.stash[SESSION]
        for operator in session.operators:
            yield OperatorNode.from_parent(self, name=operator.name, operator=operator)


class OperatorNode(pytest.Collector):
    """One operator."""

    def __init__(self, *, operator: Operator, **rest: Any):
        super().__init__(**rest)
        self.operator = operator

    def collect(self) -> Iterator[pytest.Item]:
        for case in self.config.stash[SESSION].cases(self.operator):
            yield CaseItem.from_parent(self, name=case.name, case=case)


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **rest: Any):
        super().__init__(**rest)
        self.case = case
        session: Session = self.config.stash[SESSION]
        self.entry = session.expected_failure(case)
        if self.entry is not None:
            reason = f"{self.entry.where}: {self.entry.reason}".rstrip(": ")
            self.add_marker(pytest.mark.xfail(raises=Wrong, strict=True, reason=reason))

    def runtest(self) -> None:
        try:
            wrong = self.case.run()
        except Declined as declined:
            pytest.skip(f"declined: {declined}")
        if wrong:
            raise Wrong("\n".join(wrong))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Wrong):
            return f"{excinfo.value}\nrepro: {self.config.stash[SESSION].repro(self.case)}"
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"{self.case.operator} {self.case.name}"


SESSION = pytest.StashKey[Session]()
