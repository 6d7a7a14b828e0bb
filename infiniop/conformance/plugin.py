"""The pytest plugin of the kit: options, collection, expected failures."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

import pytest

from . import watch
from .cases import Options
from .entry import PACKAGE
from .items import GROUP, REPRO, SESSION, CaseItem, Kit
from .modes import Table
from .report import FORMATS, Matrix
from .session import Session, Unusable

_HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("infiniop.conformance", "infiniop's conformance kit")
    group.addoption("--backend", metavar="NAME", help="the backend to test, as `infiniop backends` lists it")
    group.addoption("--op", action="append", default=[], metavar="NAME", help="only this operator (may be repeated)")
    group.addoption(
        "--case", action="append", default=[], metavar="NAME", help="only this case: a name, a kind or a pattern"
    )
    group.addoption("--xfails", type=Path, metavar="FILE", help="cases that are expected to fail")
    group.addoption(
        "--report", type=Path, action="append", default=[], metavar="FILE", help="what was covered, as .md or .json"
    )
    group.addoption("--seed", type=int, default=Options().seed, metavar="N", help="of values and drawn cases")
    group.addoption("--draws", type=int, default=Options().draws, metavar="N", help="drawn calls per operator")
    group.addoption("--large", action="store_true", help="also cases of more than 2^31 elements, up to 16 GiB each")
    mode = {"action": "store_const", "dest": "infiniop_mode"}
    group.addoption("--perf", const="perf", **mode, help="measure times instead: at decode and prefill shapes")
    group.addoption("--support", const="support", **mode, help="list what the backend takes instead: no numerics")


def pytest_configure(config: pytest.Config) -> None:
    options = config.option
    if options.backend is None:
        raise pytest.UsageError("--backend NAME is missing: `infiniop backends` lists what there is")
    for path in options.report:
        if path.suffix not in FORMATS or not path.absolute().parent.is_dir():
            raise pytest.UsageError(f"--report {path}: expected a file in a folder that exists, ending in .md or .json")
    try:
        session = Session.of(
            options.backend, options.op, options.case, options.xfails,
            Options(options.seed, options.draws, options.large),
            [name for name in options.plugins if not name.startswith("no:")], options.infiniop_mode,
        )  # fmt: skip
    except Unusable as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SESSION] = session
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(
            Table(session.mode) if session.mode else Recorder(Matrix(session.tested, session.options))
        )


def pytest_sessionstart(session: pytest.Session) -> None:
    """The second process writes to the terminal, not to what pytest captures."""
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        watch.start()


def pytest_unconfigure() -> None:
    watch.stop()


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if path.resolve() != _HERE.resolve():
        return None
    return Kit.from_parent(parent, name="infiniop.conformance", path=path, nodeid="infiniop.conformance")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A case that should fail and is declined instead did not fail."""
    report = yield
    expected = item.entry if isinstance(item, CaseItem) else None
    if expected is not None and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{expected.where}: the backend declines this case instead of failing it: remove the line"
    return report


class Recorder:
    """Fills the matrix, where reports arrive: not in a worker of pytest-xdist."""

    def __init__(self, matrix: Matrix):
        self.matrix = matrix

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.nodeid.startswith(PACKAGE) or (report.when != "call" and report.passed):
            return
        _, operator, case = report.nodeid.split("::", 2)
        group = dict(report.user_properties).get(GROUP, case.partition(" ")[0])
        expected = hasattr(report, "wasxfail")
        outcome = "failed" if report.failed else "passed" if report.passed else "declined"
        self.matrix.add(operator, str(group), "expected to fail" if expected and report.skipped else outcome)
        if report.failed:
            text, _, repro = str(report.longrepr).partition(REPRO)
            self.matrix.add_failure(operator, case, text.strip(), repro.strip())

    @pytest.hookimpl(tryfirst=True)  # before pytest writes its JUnit file
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for path in session.config.option.report:
            self.matrix.write(path)
        for plugin in session.config.pluginmanager.get_plugins():
            if hasattr(plugin, "add_global_property"):  # the writer of that file
                for what, names in self.matrix.uncovered().items():
                    plugin.add_global_property(what, ", ".join(names))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.matrix.counts:
            return
        info = self.matrix.tested.info
        terminalreporter.section(f"conformance of {info.name} on {info.device}")
        for line in self.matrix.lines():
            terminalreporter.line(line)
        for failure in self.matrix.failures:
            terminalreporter.line(f"{REPRO}{failure['repro']}" if failure["repro"] else "")
