"""`--perf` and `--support`: instead of checks, an item per thing to find out, and a table at the end.

Rows travel as properties of the reports, so that they arrive from the workers of pytest-xdist and stand in JUnit files.
"""

from __future__ import annotations

import json
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
            row = perf.measure(operator, session.tested, phase, dtype)
            return [] if row is None else [row.cells()]

        name = f"perf {dtype.name} {phase.name}"
        yield Measurement.from_parent(parent, name=name, find=partial(measure, phase, dtype))


class Table:
    """Collects the rows, where reports arrive: not in a worker of pytest-xdist. Writes them in columns."""

    def __init__(self, mode: str):
        self.mode = mode
        self.headings: Cells = {"perf": perf.Row.HEADINGS, "support": support.Row.HEADINGS}[mode]
        self.rows: list[Cells] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.rows += [list(map(str, cells)) for name, cells in report.user_properties if name == _PROPERTY]  # type: ignore[call-overload]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for path in session.config.option.report:
            path.write_text(self.json() if path.suffix == ".json" else self.markdown(), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = [self.headings, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings) - 1)]
        terminalreporter.section(self.mode)
        for line in lines:
            terminalreporter.line("  ".join([*map(str.ljust, line, widths), line[-1]]).rstrip())

    def json(self) -> str:
        return json.dumps([dict(zip(self.headings, row, strict=True)) for row in self.rows], indent=1) + "\n"

    def markdown(self) -> str:
        lines = [self.headings, ["---"] * len(self.headings), *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
