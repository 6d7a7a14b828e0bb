"""What adding an operator, or a backend, touches: measured, as a table.

An operator: its files (examples/operator) are laid into a clone of the last commit, `infiniop gen` runs there, and git
says what changed. A backend: `infiniop new-backend` writes its package elsewhere, and its sources are counted; git says
what that changed here. A package of examples/backends: the lines of the core that name it.

    .venv/bin/python scripts/touched.py            prints the table
    .venv/bin/python scripts/touched.py --write    puts it into docs/adding-an-operator.md
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPERATOR = ROOT / "examples" / "operator"
PAGE = ROOT / "docs" / "adding-an-operator.md"
BEGIN, END = "<!-- scripts/touched.py -->\n", "<!-- end -->\n"
CORE = ("CMakeLists.txt", "backends", "include", "infiniop", "operators", "pyproject.toml", "registry.yaml")
SOURCES = (".c", ".cc", ".cpp", ".cu", ".h", ".hpp", ".py")


@dataclass(frozen=True)
class Row:
    """One change. Lines are all lines, blank ones and comments too."""

    what: str
    new_files: int
    changed_files: int
    generated_files: int
    lines_here: int
    package_lines: int | None = None  # sources of a package elsewhere

    def text(self) -> str:
        package = "-" if self.package_lines is None else str(self.package_lines)
        numbers = (self.new_files, self.changed_files, self.generated_files, self.lines_here)
        return f"| {self.what} | {' | '.join(map(str, numbers))} | {package} |\n"


HEAD = (
    "| change | new files here | existing files changed | generated | lines here | lines of the package |\n"
    "|---|--:|--:|--:|--:|--:|\n"
)


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def status(folder: Path) -> set[tuple[str, str]]:
    """(state, path) of everything that differs from the last commit."""
    lines = git(folder, "status", "--porcelain", "--untracked-files=all").splitlines()
    return {(line[:2].strip(), line[3:]) for line in lines}


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def clone(folder: Path) -> Path:
    """The last commit, with the new operator's files in it."""
    copy = folder / "clone"
    git(folder, "clone", "-q", "--shared", str(ROOT), str(copy))
    shutil.copytree(OPERATOR, copy, dirs_exist_ok=True)
    return copy


def generate(copy: Path) -> None:
    """`infiniop gen` of the clone: without `site`, which would find an editable install of this tree first."""
    command = [sys.executable, "-SP", "-m", "infiniop.gen"]
    paths = f"{copy}{os.pathsep}{sysconfig.get_path('platlib')}"
    subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE)


def operator(folder: Path) -> Row:
    copy = clone(folder)
    by_hand = status(copy)
    generate(copy)
    new = [copy / path for state, path in by_hand if state == "??"]
    backends = sorted(path.parts[1] for path in (p.relative_to(copy) for p in new) if path.parts[0] == "backends")
    what = f"an operator for two backends, {' and '.join(backends)}"
    return Row(what, len(new), len(by_hand) - len(new), len(status(copy) - by_hand), lines(new))


def backend(folder: Path, language: str, device: str) -> Row:
    """A new package's sources: for one with a device of its own, the runtime too."""
    before = status(ROOT)
    package = folder / f"{language}-{device}"
    command = [sys.executable, "-m", "infiniop", "new-backend", "acme", "--lang", language, "--device", device]
    subprocess.run([*command, "--output", package], check=True, capture_output=True)
    here = status(ROOT) - before
    where = "python" if language == "python" else "src"
    sources = [path for path in (package / where).rglob("*") if path.suffix in SOURCES]
    what = {"c": "C", "cpp": "C++", "python": "Python"}[language]
    own = "" if device == "cpu" else ", with a device of its own"
    new = [path for state, path in here if state == "??"]
    changed = lines([ROOT / path for _, path in here])
    return Row(f"a backend in {what}{own}", len(new), len(here) - len(new), 0, changed, lines(sources))


def modules(package: Path) -> set[str]:
    """The Python modules that bring a package's backends."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return {
        value.partition(":")[0].partition(".")[0] for value in project["entry-points"]["infiniop.backends"].values()
    }


def examples() -> Row:
    """The packages under examples/backends: the lines of the core that say a name of theirs."""
    packages = [path.parent for path in (ROOT / "examples" / "backends").glob("*/pyproject.toml")]
    words = [argument for package in packages for name in modules(package) for argument in ("-e", name)]
    found = subprocess.run(["git", "grep", "-n", "-w", *words, "--", *CORE], cwd=ROOT, capture_output=True, text=True)
    named = found.stdout.splitlines()
    return Row("the packages of `examples/backends`", 0, len({line.partition(":")[0] for line in named}), 0, len(named))


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new = [backend(folder, language, d) for language in ("c", "cpp", "python") for d in ("cpu", "card")]
        return [operator(folder), *new, examples()]


def table() -> str:
    return HEAD + "".join(row.text() for row in rows())


def main(arguments: list[str]) -> int:
    made = table()
    if arguments == ["--write"]:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2])
    else:
        print(made, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
