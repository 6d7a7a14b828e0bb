"""`--full` runs what is marked `full`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the long tests")
    parser.addoption("--on", default="emulator", metavar="BACKEND", help="where tests of the NVIDIA backend run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="long; needs --full"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """infiniop, built as a wheel."""
    folder, sources = tmp_path_factory.mktemp("wheel"), Path(__file__).resolve().parents[1]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
    ]
    done = subprocess.run([*pip, f"-Cbuild-dir={folder}/build", "-w", folder, sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("infiniop-*.whl")
    return built
