"""`--perf` and `--support`: instead of checks, an item per thing to find out, and a table at the end.

Rows travel as properties of the reports, so that they arrive from the workers of pytest-xdist and stand in JUnit files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from infiniop.schema import Operator

from . import perf, support
from .call import Declined, Failed
from .session import Session

Cells = Sequence[str]
_PROPERTY = "infiniop row"


class Measurement(pytest.Item):
    """Finds rows out; `find` raises `Declined` and `Failed`."""

    def __init__(self, *, find: Callable[[], list[Cells]], **rest: Any):
        super().__init__(**rest)
        self._find = find

    def runtest(self) -> None:
        try:
            self.user_properties += [(_PROPERTY, list(cells)) for cells in self._find()]
        except Declined as declined:
            pytest.skip(f"declined: {declined}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, Failed) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


def measurements(parent: pytest.Collector, mode: str, session: Session, operator: Operator) -> Iterator[pytest.Item]:
    """The items of one operator."""
    if mode == "support":

        def find() -> list[Cells]:
            return [row.cells() for row in support.rows(operator, session.tested, session.options.seed)]

        yield Measurement.from_parent(parent, name="support", find=find)
        return
    for phase, dtype in perf.points(operator):

        def measure(phase: Any, dtype: Any) -> list[Cells]:
            copy = perf.Copy(session.tested.device)
            try:
                row = perf.measure(operator, session.tested, phase, dtype, copy)
            finally:
                copy.free()
            return [] if row is None else [row.cells()]

        name = f"perf {dtype.name} {phase.name}"
        yield Measurement.from_parent(parent, name=name, find=partial(measure, phase, dtype))


class Table:
    """Writes the rows that arrive, in columns."""

    def __init__(self, mode: str):
        self.mode = mode

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        headings = {"perf": perf.Row.HEADINGS, "support": support.Row.HEADINGS}[self.mode]
        reports = [r for r in terminalreporter.stats.get("passed", []) if r.when == "call"]
        lines = [headings, *(value for r in reports for name, value in r.user_properties if name == _PROPERTY)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(headings) - 1)]
        terminalreporter.section(self.mode)
        for line in lines:
            terminalreporter.line("  ".join([*map(str.ljust, line, widths), line[-1]]).rstrip())
