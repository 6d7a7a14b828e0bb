"""What pytest loads in every session (entry point `pytest11`): nothing, unless the session names the kit.

Options of a `conftest.py` inside an installed package come too late for pytest's command line; options of a plugin
would meet those of other people's tests. So the plugin is registered only where it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

PACKAGE = "infiniop.conformance"


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    manager = early_config.pluginmanager
    if any(_names_the_kit(arg) for arg in args) and not manager.hasplugin(f"{PACKAGE}.plugin"):
        manager.import_plugin(f"{PACKAGE}.plugin")


def _names_the_kit(arg: str) -> bool:
    name = arg.partition("::")[0].rstrip("/")
    if name == PACKAGE:
        return True
    here = Path(__file__).parent
    return name.endswith(here.name) and Path(name).resolve() == here.resolve()
