"""`infiniop backends` and `infiniop ops`: who is there, and who can do what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._plugins import all_backends

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.command("backends")(list_backends)
    app.command("ops")(list_operators)


def list_backends(as_json: Json = False) -> None:
    """The backends found, with device, version, priority; why some failed to load, and what of others is not used."""
    from rich import box
    from rich.table import Table

    rows = sorted(all_backends(), key=lambda b: (bool(b.error), b.device, -b.priority))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("backend", "device", "version", "priority", "operators", "origin"):
        table.add_column(column, no_wrap=column not in ("version", "origin"), overflow="fold")
    for row in rows:
        origin = Path(row.origin).name  # --json prints the whole path
        if row.error:
            table.add_row(row.name, row.device, "-", "-", "-", f"{origin}: failed")
        else:
            device = row.device if row.device_count == 1 else f"{row.device} x {row.device_count}"
            priority = "when named" if row.explicit_only else str(row.priority)
            table.add_row(row.name, device, row.version, priority, str(row.kernels), origin)
    console = _console()
    console.print(table)
    for row in rows:
        if row.error or row.notes:
            console.print(f"{row.name}: {row.error or row.notes}", markup=False, highlight=False)


def list_operators(
    name: Annotated[str | None, typer.Argument(help="Only this one: what it means, takes and refuses.")] = None,
    as_json: Json = False,
) -> None:
    """The support matrix: operators, their dtypes, and the backends that have them; or all about one operator."""
    from rich.table import Column, Table

    from infiniop.operators import all_operators

    if name is not None:
        typer.echo(_description(name), nl=False)
        return
    loaded = [b for b in all_backends() if not b.error]
    rows = []
    for name, operator in all_operators().items():
        first = operator.outputs[0].dtype
        dtypes = [d.name for d in operator.dtypes.get(first, ())] or [first]
        rows.append({"operator": name, "dtypes": dtypes, "backends": [b.name for b in loaded if b.has(name)]})
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(Column("operator", no_wrap=True), "dtypes", *(b.name for b in loaded))
    for row in rows:
        marks = ("yes" if b.name in row["backends"] else "-" for b in loaded)
        table.add_row(str(row["operator"]), " ".join(row["dtypes"]), *marks)
    _console().print(table)


def _console() -> Console:
    """Of any width where nobody looks, and never so narrow that names are cut off."""
    from rich.console import Console

    console = Console()
    return Console(width=max(80, console.width) if console.is_terminal else 1000)


def _description(name: str) -> str:
    from infiniop.gen.docs import description
    from infiniop.operators import all_operators
    from infiniop.ops import SCHEMA_VERSIONS  # type: ignore[attr-defined]  # generated at build

    known = all_operators()
    if name not in known:
        raise typer.BadParameter(f"there is no operator named {name}: expected one of {', '.join(known)}")
    return description(known[name], SCHEMA_VERSIONS[name])
