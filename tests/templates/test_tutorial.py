"""docs/your-first-backend.md: its files are written, its commands run, its outputs compared, from top to bottom.

A fence's words after the language: `setup` is what the test has done already (with --full it runs, too), `fails` must
fail; a block of another language is a file of that name. `…` in an output stands for anything.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from scratch import SOURCES, Scratch

PAGE = SOURCES / "docs" / "your-first-backend.md"
_FENCE = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.M)


def blocks() -> list[tuple[str, str, str]]:
    """Language, further words, text."""
    found = [(m[1], m[2], m[3]) for m in _FENCE.finditer(PAGE.read_text())]
    assert len(found) * 2 == PAGE.read_text().count("```")
    return found


def script(literally: bool) -> str:
    """One program, so that folders and variables last. Line `== n` stands before the output of block n."""
    parts = ["set -e"]
    for number, (language, words, text) in enumerate(blocks()):
        parts.append(f"echo '== {number}'")
        if language == "sh" and words == "fails":
            parts.append(f"if {text.strip()}; then echo 'this had to fail'; exit 1; fi")
        elif language == "sh" and (literally or words != "setup"):
            parts.append(text)
        elif language not in ("sh", "text"):
            parts.append(f"cat > {words} <<'END OF FILE'\n{text}END OF FILE")
    return "\n".join(parts)


def compare(printed: str) -> None:
    """Every `text` block against what the block before it printed."""
    outputs = dict(re.findall(r"^== (\d+)\n((?:(?!== \d).*\n)*)", printed, re.M))
    for number, (language, _, text) in enumerate(blocks()):
        if language == "text":
            pattern = ".*".join(map(re.escape, text.strip().split("…")))
            before = max(n for n in range(number) if blocks()[n][0] == "sh")
            assert re.search(f"^{pattern}$", outputs[str(before)], re.S | re.M), (text, outputs[str(before)])


def test_the_tutorial(tmp_path: Path):
    compare(Scratch(tmp_path).run(script(literally=False)))


@pytest.mark.full
def test_the_tutorial_literally(tmp_path: Path, wheel: Path):
    """In an environment that pip makes, from infiniop's wheel, with pip's isolated builds. What ci.sh says, too."""
    commands = f"{Path(sys.base_prefix) / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    scratch = Scratch(tmp_path)
    scratch.env |= {"PATH": commands, "PIP_FIND_LINKS": f"{wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}"}
    del scratch.env["PIP_NO_BUILD_ISOLATION"]
    compare(scratch.run(script(literally=True)))
    assert re.search(r"\d+ passed", scratch.run("infiniop-acme/ci.sh --op relu"))
