"""`infiniop new-backend`: a package for a backend of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infiniop.templates import LANGUAGES

Language = StrEnum("Language", [(name, name) for name in LANGUAGES])  # type: ignore[misc]  # computed


def register(app: typer.Typer) -> None:
    app.command("new-backend")(new_backend)


def new_backend(
    name: Annotated[str, typer.Argument(help="The backend's name, an identifier: acme.")],
    lang: Annotated[Language, typer.Option(help="What its kernels are written in.")],
    device: Annotated[
        str, typer.Option(help="A device that the backend brings: adds a complete runtime table over host memory.")
    ] = "cpu",
    output: Annotated[Path | None, typer.Option(help="The folder to make; default: infiniop-NAME.")] = None,
) -> None:
    """Write a complete package with one operator that passes the conformance kit: build, tests, CI."""
    from infiniop.templates import Template, check_device, check_name

    check_name(name)
    check_device(device)
    template = Template(name, lang.value, device)
    folder = Path(template.values["distribution"]) if output is None else output
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: name another folder with --output")
    template.write(folder)
    typer.echo(f"{folder} is ready; next:")
    typer.echo(f"  pip install ./{folder}" if not folder.is_absolute() else f"  pip install {folder}")
    typer.echo(f"  pytest --pyargs infiniop.conformance --backend {name}")
