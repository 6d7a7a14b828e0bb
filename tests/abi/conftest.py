from __future__ import annotations

from pathlib import Path

import pytest
from toolchain import VARIANTS, Toolchain, installed_prefix


@pytest.fixture(scope="session")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    return Toolchain(installed_prefix(), tmp_path_factory.mktemp("abi"))


@pytest.fixture(scope="session")
def plugins(toolchain: Toolchain) -> Path:
    """The folder of the test plugins."""
    for variant in VARIANTS:
        toolchain.plugin(variant)
    return toolchain.folder
