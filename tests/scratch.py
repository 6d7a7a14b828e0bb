"""An environment of one's own in which a test builds and tries packages, as somebody else would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent
_CHANGES = ("INFINIOP_BACKENDS", "INFINIOP_BACKEND_PATH", "INFINIOP_FALLBACK", "PYTEST_ADDOPTS", "PYTHONPATH")


class Scratch:
    """A folder and a virtual environment that also sees what is installed here; no download, no build isolation."""

    def __init__(self, folder: Path):
        self.folder = folder / "scratch"
        self.folder.mkdir()
        made = [sys.executable, SOURCES / "scripts" / "scratch_venv.py", folder / "venv"]
        commands = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
        outside = {k: v for k, v in os.environ.items() if k not in _CHANGES and not k.startswith("PYTEST_XDIST")}
        path = f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{outside['PATH']}"  # cmake, ninja
        self.env = outside | {"PATH": path, "PIP_NO_BUILD_ISOLATION": "0"}  # pip's spelling of yes

    def run(self, command: str, **env: str) -> str:
        """The output of a command that must succeed."""
        done = self.attempt(command, **env)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def attempt(self, command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """stdout holds stderr too."""
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.env | env, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
