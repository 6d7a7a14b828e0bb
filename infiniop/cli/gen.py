"""`infiniop gen`: derive headers, code and documentation from the operator files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("gen")(gen)


def gen(
    check: Annotated[bool, typer.Option("--check", help="Fail when a committed file is stale; write nothing.")] = False,
    bump: Annotated[list[str] | None, typer.Option(metavar="OP", help="Give OP a new schema version.")] = None,
    build: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the files of a build below DIR.")] = None,
) -> None:
    """Bring everything that is derived from the operator files up to date."""
    from infiniop.gen.__main__ import main

    arguments = [*(["--check"] if check else []), *(word for op in bump or [] for word in ("--bump", op))]
    arguments += ["--build", str(build)] if build else []
    if code := main(arguments):
        raise typer.Exit(code)
