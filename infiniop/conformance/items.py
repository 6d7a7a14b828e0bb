"""The kit's cases as pytest sees them: a collector for the package, one per operator, an item per case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infiniop.schema import Operator

from . import watch
from .call import Declined
from .cases import Case, Found
from .modes import measurements
from .session import Session


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
        session = self.config.stash[SESSION]
        if session.mode is not None:
            yield from measurements(self, session.mode, session, self.operator)
            return
        for case in session.cases(self.operator):
            yield CaseItem.from_parent(self, name=case.name, case=case)


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **rest: Any):
        super().__init__(**rest)
        self.case = case
        self.user_properties.append((GROUP, case.column))
        session: Session = self.config.stash[SESSION]
        self.entry = session.expected_failure(case)
        if self.entry is not None:
            reason = f"{self.entry.where}: {self.entry.reason}".rstrip(": ")
            self.add_marker(pytest.mark.xfail(raises=Found, strict=True, reason=reason))

    def runtest(self) -> None:
        watch.begin(self.repro, self.case.name)
        try:
            wrong = self.case.run()
        except Declined as declined:
            pytest.skip(f"declined: {declined}")
        finally:
            watch.end()
        if wrong:
            raise Found(self.case.name, wrong)

    def repro(self, name: str) -> str:
        """The command that runs a case of this operator alone."""
        return self.config.stash[SESSION].repro(self.case.operator, name)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Found):
            return f"{excinfo.value}\n{REPRO}{self.repro(excinfo.value.name)}"
        return f"{super().repr_failure(excinfo)}\n{REPRO}{self.repro(self.case.name)}"

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"{self.case.operator} {self.case.name}"


GROUP = "infiniop group"
REPRO = "repro: "
SESSION = pytest.StashKey[Session]()
