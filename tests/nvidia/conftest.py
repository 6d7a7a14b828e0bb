"""The NVIDIA backend on the emulator, loaded as backend "emulator"."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulation import library

from infiniop import registry


@pytest.fixture(scope="session")
def emulator_library() -> Path:
    """For processes of their own."""
    return library()


@pytest.fixture(scope="session")
def emulator() -> str:
    """The backend's name, loaded into this process."""
    if not any(b.name == "emulator" and not b.error for b in registry.backends()):
        registry.load_backend(library())
    return "emulator"
