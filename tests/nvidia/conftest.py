"""The NVIDIA backend on the emulator, loaded as backend "emulator", or with `--on nvidia` on a device."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulation import library

from infiniop import registry, runtime


@pytest.fixture(scope="session")
def emulator_library() -> Path:
    """For processes of their own."""
    return library()


@pytest.fixture(scope="session")
def nvidia(request: pytest.FixtureRequest) -> str:
    """The backend's name, loaded into this process."""
    name: str = request.config.getoption("--on")
    if name != "emulator":
        if runtime.device_count(name) == 0:
            pytest.skip("needs an NVIDIA device")
        return name
    if not any(b.name == "emulator" and not b.error for b in registry.backends()):
        registry.load_backend(library())
    return "emulator"
