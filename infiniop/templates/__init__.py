"""New backends from templates: the folders beside this file.

A file's path and text may hold placeholders, `@name@`. A line that begins with marks of variants, `@native@@own@`,
stands only in packages of all those variants, without its marks.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path

LANGUAGES = ("c", "cpp", "python")
_VARIANTS = ("own", "cpu", "native", *LANGUAGES)
_HERE = Path(__file__).parent
_MARK = re.compile(r"@(\w+)@")


class Template:
    """A package for the backend `name`. `device` is "cpu", or the name of a device that the backend brings itself."""

    def __init__(self, name: str, language: str, device: str = "cpu"):
        import infiniop

        self.kind = "python" if language == "python" else "native"
        own = device != "cpu"
        folders = ["common", self.kind, language, *([f"{self.kind}-device"] if own else [])]
        self.folders = list(dict.fromkeys(folders))
        self.values = {
            "name": name, "device": device, "distribution": f"infiniop-{name.replace('_', '-')}",
            "version": infiniop.__version__,
        }  # fmt: skip
        self.variants = {self.kind, language, "own" if own else "cpu"}

    def files(self) -> Iterator[tuple[str, str]]:
        """Relative paths and texts."""
        for folder in self.folders:
            for source in sorted((_HERE / folder).rglob("*.in")):
                path = source.relative_to(_HERE / folder).as_posix().removesuffix(".in")
                yield self._fill(path), self._text(source.read_text())

    def write(self, folder: Path) -> None:
        """Into a folder that must not exist."""
        for path, text in self.files():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            if target.suffix == ".sh":
                target.chmod(0o755)

    def _text(self, text: str) -> str:
        lines = []
        for line in text.splitlines(keepends=True):
            marks = set()
            while (mark := _MARK.match(line)) and mark[1] in _VARIANTS:
                marks.add(mark[1])
                line = line[mark.end() :]
            if marks <= self.variants:
                lines.append(self._fill(line))
        return "".join(lines)

    def _fill(self, text: str) -> str:
        return _MARK.sub(lambda mark: self.values[mark[1]], text)


def check_name(name: str) -> None:
    """Raises ValueError when no new backend can have this name."""
    from infiniop.registry import backends

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or len(name) > 63:
        raise ValueError(f"a backend's name is an identifier of lower-case letters, digits and '_', got {name!r}")
    for backend in backends():
        if backend.name == name:
            raise ValueError(f"there is a backend {name!r} already, from {backend.origin}")


def check_device(device: str) -> None:
    """Raises ValueError when a new backend cannot bring this device."""
    from infiniop.registry import backends

    if not re.fullmatch(r"[a-z0-9_.-]{1,63}", device):
        raise ValueError(f"a device's name consists of lower-case letters, digits, '_', '-' and '.', got {device!r}")
    if device == "cpu":
        return
    for backend in backends():
        if backend.device == device and not backend.error:
            raise ValueError(f"the device {device!r} is brought by the backend {backend.name!r} already")
