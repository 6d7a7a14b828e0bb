"""Makes a virtual environment in the folder given that also sees what this Python's environment has installed.

What is installed into it stays there: for building and trying packages in a second, without a download.
"""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path

TOOLS = ("pip", "pytest", "infiniop")


def make(folder: Path) -> Path:
    """The folder of its commands, for PATH."""
    venv.create(folder, symlinks=True)
    here = sysconfig.get_path("platlib")
    site = sysconfig.get_path("platlib", vars={"base": str(folder), "platbase": str(folder)})
    # addsitedir, unlike a path, also follows editable installs.
    Path(site, "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    commands = folder / "bin"
    for tool in TOOLS:
        script = commands / tool
        script.write_text(f'#!/bin/sh\nexec "{commands}/python" -P -m {tool} "$@"\n')
        script.chmod(0o755)
    return commands


if __name__ == "__main__":
    print(make(Path(sys.argv[1]).resolve()))
