"""`infiniop doctor`: what is installed, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from ._plugins import all_backends


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` is "" where nothing has to be done."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


_PACKAGES = {
    "safetensors": "pip install 'infiniop[lm]' to run language models",
    "tokenizers": "pip install 'infiniop[lm]' to run language models",
    "torch": "pip install 'infiniop[torch]' for torch arrays and several ranks",
}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at the installation; exit with 1 when something that is needed is missing."""
    findings = [f for look in (_python, _native, _backends, _packages, _tools) for f in _contained(look)]
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings]))
    else:
        for f in findings:
            mark = "ok     " if f.ok else "MISSING" if f.needed else "absent "
            remedy = f" -> {f.remedy}" if f.remedy and not f.ok else ""
            typer.echo(f"{mark} {f.name}: {f.found}{remedy}")
    if any(f.needed and not f.ok for f in findings):
        raise typer.Exit(1)


def _contained(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:
        yield Finding(look.__name__.strip("_"), False, " ".join(str(error).split()))


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding("python", good, f"{platform.python_version()} on {platform.machine()}", "use Python 3.11 or newer")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    remedy = f"apt install python3.{sys.version_info.minor}-dev for the faster cffi mode"
    yield Finding("Python.h", header.exists(), str(header), remedy, needed=False)


def _native() -> Iterator[Finding]:
    from infiniop import _library, runtime

    try:
        root = _library.root()
        version, abi = runtime.version(), ".".join(map(str, runtime.plugin_abi()))
    except Exception as error:
        yield Finding("native libraries", False, str(error), "pip install . or make build")
        return
    mode = "compiled extension" if _library.is_extension() else "cffi ABI mode"
    yield Finding("native libraries", True, f"{version} in {root}, plugin ABI {abi}, {mode}")


def _backends() -> Iterator[Finding]:
    rows = all_backends()
    for row in rows:
        told = row.error or f"device {row.device}, {row.kernels} operators"
        yield Finding(f"backend {row.name}", not row.error, told, f"see {row.origin}", needed=row.name == "cpu")
    if not any(row.device == "cpu" and not row.error and not row.explicit_only for row in rows):
        yield Finding("backend for the CPU", False, "none", "pip install . or make build")


def _packages() -> Iterator[Finding]:
    for name, remedy in _PACKAGES.items():
        try:
            yield Finding(name, True, importlib.metadata.version(name), needed=False)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", remedy, needed=False)


def _tools() -> Iterator[Finding]:
    for tool, remedy in (("c++", "apt install g++ to build from source"), ("make", "apt install make for `make demo`")):
        path = shutil.which(tool)
        yield Finding(tool, path is not None, path or "not on PATH", remedy, needed=False)
