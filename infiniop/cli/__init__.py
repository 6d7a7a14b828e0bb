"""`infiniop`: one command per module in this folder; each has `register(app)`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import sys
from typing import Annotated

import typer

_EXTRAS = {"jinja2": "lm", "safetensors": "lm", "tokenizers": "lm", "torch": "torch"}  # which brings what


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("infiniop"))
        raise typer.Exit()


def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The same operators on any device."""


def build() -> typer.Typer:
    """The application with all commands."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        callback=_before_any_command,
    )  # fmt: skip
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        importlib.import_module(f"{__name__}.{module}").register(app)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run a command. What goes wrong is one sentence on stderr; INFINIOP_DEBUG=1 shows where it came from."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        result = build()(arguments or ["--help"], standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("INFINIOP_DEBUG") == "1":
            raise
        told = error.format_message() if hasattr(error, "format_message") else str(error)
        if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
            told += f": pip install 'infiniop[{_EXTRAS[error.name]}]'"
        if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands without a command
            print(told)
            return 2
        print(f"infiniop: {' '.join(told.split()) or type(error).__name__}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
