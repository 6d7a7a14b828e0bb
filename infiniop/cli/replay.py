"""`infiniop replay`: a call that shadow mode has kept, once more."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from ._plugins import all_backends


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)


def replay(
    folder: Annotated[Path, typer.Argument(help="Folder that the report named.")],
    backend: Annotated[str | None, typer.Option(help="Make the call on this one instead of the reported one.")] = None,
    against: Annotated[str | None, typer.Option(help="Compare with this one (several: by comma).")] = None,
    tolerance: Annotated[float, typer.Option(help="Factor on the operator's tolerances.")] = 1.0,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Module or library (.so) that brings the backend, if not installed.")
    ] = None,
) -> None:
    """Make a call that INFINIOP_VERIFY has reported again, and compare it again; exit with 1 when it still differs."""
    from infiniop import load_backend, plugins, verify

    if not (folder / "call.json").exists():
        raise typer.BadParameter(f"{folder} holds no call.json")
    all_backends()
    for one in plugin or []:
        if one.endswith(".so"):
            load_backend(one)
        else:
            plugins.register(importlib.import_module(one), one)
    found = verify.replay(folder, backend=backend, against=against, tolerance=tolerance)
    typer.echo(found or "the call does not differ")
    if found:
        raise typer.Exit(1)
