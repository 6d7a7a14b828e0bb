"""The pytest plugin of the kit: options, collection, expected failures."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from .cases import Options
from .items import SESSION, CaseItem, Kit
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
    group.addoption("--seed", type=int, default=Options().seed, metavar="N", help="of values and drawn cases")


def pytest_configure(config: pytest.Config) -> None:
    options = config.option
    if options.backend is None:
        raise pytest.UsageError("--backend NAME is missing: `infiniop backends` lists what there is")
    try:
        config.stash[SESSION] = Session.of(
            options.backend, options.op, options.case, options.xfails, Options(seed=options.seed),
            [name for name in options.plugins if not name.startswith("no:")],
        )  # fmt: skip
    except Unusable as error:
        raise pytest.UsageError(str(error)) from None


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
