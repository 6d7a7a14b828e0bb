"""`infiniop backends` and `infiniop ops`: who is there, and who can do what."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ._plugins import all_backends

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.command("backends")(list_backends)
    app.command("ops")(list_operators)


def list_backends(as_json: Json = False) -> None:
    """The backends found, with device, version, priority; why some failed to load, and what of others is not used."""
    from rich.console import Console
    from rich.table import Table

    rows = sorted(all_backends(), key=lambda b: (bool(b.error), b.device, -b.priority))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    table = Table("backend", "device", "devices", "version", "priority", "operators", "origin")
    for row in rows:
        priority = f"{row.priority}, when named" if row.explicit_only else str(row.priority)
        if row.error:
            table.add_row(row.name, row.device, "-", "-", "-", "-", f"{row.origin}: failed")
        else:
            table.add_row(
                row.name, row.device, str(row.device_count), row.version, priority, str(row.kernels), row.origin
            )
    console = Console()
    console.print(table)
    for row in rows:
        if row.error or row.notes:
            console.print(f"{row.name}: {row.error or row.notes}", markup=False, highlight=False)


def list_operators(as_json: Json = False) -> None:
    """The support matrix: operators, their dtypes, and the backends that have them."""
    from rich.console import Console
    from rich.table import Table

    from infiniop.operators import all_operators

    loaded = [b for b in all_backends() if not b.error]
    rows = []
    for name, operator in all_operators().items():
        first = operator.outputs[0].dtype
        dtypes = [d.name for d in operator.dtypes.get(first, ())] or [first]
        rows.append({"operator": name, "dtypes": dtypes, "backends": [b.name for b in loaded if b.has(name)]})
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("operator", "dtypes", *(b.name for b in loaded))
    for row in rows:
        marks = ("yes" if b.name in row["backends"] else "-" for b in loaded)
        table.add_row(str(row["operator"]), " ".join(row["dtypes"]), *marks)
    Console().print(table)
