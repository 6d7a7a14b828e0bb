"""The pages for readers: links that lead somewhere, examples that run, tables that are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def links(page: Path) -> list[tuple[Path, str]]:
    """(file, anchor) of each link to a file."""
    found = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    return [((page.parent / file).resolve() if file else page, anchor) for file, _, anchor in found]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in links(page):
        assert file.exists(), f"{page}: {file}"
        assert not anchor or anchor in anchors(file), f"{page}: {file}#{anchor}"


def test_every_page_is_reached_from_the_first() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in PAGES and page not in reached:
            reached.add(page)
            ahead += [file for file, _ in links(page)]
    assert reached == set(PAGES)


def test_every_variable_of_the_environment_is_in_the_table() -> None:
    sources = [p for folder in ("infiniop", "backends") for p in (ROOT / folder).rglob("*") if p.is_file()]
    texts = [p.read_text(encoding="utf-8") for p in sources if p.suffix in (".py", ".cc", ".cu", ".cuh", ".h", ".hpp")]
    used = {name for text in texts for name in re.findall(r'"(INFINIOP_[A-Z_0-9]+)"', text)}
    documented = re.findall(r"^\| `(INFINIOP_\w+)`", prose(ROOT / "docs" / "environment.md"), re.MULTILINE)
    assert len(documented) == len(set(documented)) and set(documented) == used


@pytest.mark.parametrize(
    "name",
    [
        "README", "docs/python", "docs/numpy", "docs/engine",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("docs/torch", "docs/jax")),  # these compile
    ],
)  # fmt: skip
def test_examples_run_as_they_stand(name: str, tmp_path: Path) -> None:
    """The Python of a page from top to bottom, as who copies it would; `path/to/model` is the demonstration model."""
    if name == "docs/torch":
        pytest.importorskip("transformers")
    if name == "docs/jax":
        pytest.importorskip("jax")
    text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert code
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(ROOT / "examples" / "demo_model" / "model")
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
