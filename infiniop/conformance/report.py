"""What a run has covered and what not: per operator and group of cases, as a table in Markdown or JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import infiniop
from infiniop.operators import all_operators

from .cases import Options, groups
from .subject import Subject

FORMATS = (".md", ".json")
OUTCOMES = ("passed", "failed", "expected to fail", "declined")


@dataclass
class Matrix:
    """Outcomes by operator and group."""

    tested: Subject
    options: Options
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, operator: str, group: str, outcome: str) -> None:
        self.counts.setdefault(operator, {}).setdefault(group, Counter())[outcome] += 1

    def add_failure(self, operator: str, case: str, text: str, repro: str) -> None:
        self.failures.append({"operator": operator, "case": case, "wrong": text, "repro": repro})

    def operators(self) -> list[str]:
        return [name for name in all_operators() if name in self.counts]

    def groups(self) -> list[str]:
        """Of which cases ran."""
        return [group for group in groups() if any(group in self.counts[name] for name in self.operators())]

    def unused(self) -> list[str]:
        """Of which no case ran."""
        return [group for group in groups() if group not in self.groups()]

    def uncovered(self) -> dict[str, list[str]]:
        """What was not checked, under a heading each."""
        names = {"not claimed": self.unclaimed(), "claimed, but not run": self.not_run(), "no cases of": self.unused()}
        return {what: found for what, found in names.items() if found}

    def unclaimed(self) -> list[str]:
        return [name for name in all_operators() if not self.tested.has(name)]

    def not_run(self) -> list[str]:
        """Claimed, but left out by the command line."""
        return [name for name in all_operators() if self.tested.has(name) and name not in self.counts]

    def total(self, operator: str) -> Counter[str]:
        return sum(self.counts.get(operator, {}).values(), Counter())

    def write(self, path: Path) -> None:
        path.write_text(self.json() if path.suffix == ".json" else self.markdown(), encoding="utf-8")

    def json(self) -> str:
        operators = {
            name: {"claimed": self.tested.has(name), "groups": _plain(self.counts.get(name, {}))}
            for name in all_operators()
        }
        info = self.tested.info
        head = {"backend": info.name, "version": info.version, "device": info.device, "infiniop": infiniop.__version__}
        options = {"seed": self.options.seed, "draws": self.options.draws}
        found = {"operators": operators, "not covered": self.uncovered(), "failures": self.failures}
        return json.dumps({**head, **options, **found}, indent=1) + "\n"

    def markdown(self) -> str:
        info, groups = self.tested.info, self.groups()
        lines = [f"# Conformance of {info.name} {info.version}".rstrip(), ""]
        lines += [f"Device {info.device}, infiniop {infiniop.__version__}, seed {self.options.seed}, "
                  f"{self.options.draws} drawn calls per operator.", ""]  # fmt: skip
        lines += [f"| operator | {' | '.join(groups)} |", f"|---|{'---|' * len(groups)}"]
        for name in self.operators():
            lines.append(f"| {name} | {' | '.join(_cell(self.counts[name].get(group)) for group in groups)} |")
        lines += ["", "A number counts cases that passed; ✗ failed, ~ failed as expected, ? declined by the backend, "
                  "– not checked."]  # fmt: skip
        for what, names in self.uncovered().items():
            lines += ["", f"{what.capitalize()}: {', '.join(names)}."]
        if self.failures:
            lines += ["", "## Failures", ""]
            for failure in self.failures:
                text = "\n".join(["```", failure["wrong"], failure["repro"], "```"])
                lines += [f"- {failure['operator']} `{failure['case']}`", "", textwrap.indent(text, "  "), ""]
        return "\n".join(lines).rstrip() + "\n"

    def lines(self) -> list[str]:
        """For a terminal: a line per operator with its totals."""
        rows: list[tuple[str, ...]] = [("operator", *OUTCOMES, "not checked")]
        groups = self.groups()
        for name in self.operators():
            total, missing = self.total(name), [g for g in groups if g not in self.counts[name]]
            rows.append((name, *(str(total[o] or "") for o in OUTCOMES), ", ".join(missing)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return lines + [f"{what}: {', '.join(names)}" for what, names in self.uncovered().items()]


def _plain(groups: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(counter) for name, counter in groups.items()}


def _cell(counter: Counter[str] | None) -> str:
    if counter is None:
        return "–"
    signs = {"passed": "", "failed": "✗", "expected to fail": "~", "declined": "?"}
    return " ".join(f"{counter[o]}{signs[o]}" for o in OUTCOMES if counter[o]) or "–"
