"""`infiniop root`: the prefix for programs written against the C ABI."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("root")(root)


def root() -> None:
    """Print the folder that holds lib/ and include/: `INFINI_ROOT=$(infiniop root)`."""
    from infiniop._library import root as find

    typer.echo(find())
