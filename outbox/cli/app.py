"""The commands by name; each one's module is loaded when the command is typed."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from outbox import __version__

# Each command's module and function, in the order in which a person with a problem needs them.
_COMMANDS = {
    "status": "status_command.status",
    "tail": "tail.tail",
    "ls": "entries.ls",
    "find": "entries.find",
    "show": "entries.show",
    "outages": "outages.outages",
    "lives": "outages.lives",
    "dead": "dead_letters.dead",
    "requeue": "dead_letters.requeue",
    "edit": "edit.edit",
    "discard": "dead_letters.discard",
    "reload": "dead_letters.reload",
    "drain": "drain.drain",
    "put": "put.put",
    "resend": "resend.resend",
    "adopt": "dead_letters.adopt",
    "doctor": "doctor.doctor",
    "prune": "prune_backup.prune",
    "backup": "prune_backup.backup",
    "export": "export.export",
    "inspect": "inspection.inspect",
    "salvage": "salvage.salvage",
    "acknowledge": "salvage.acknowledge",
    "help": "pages.show_help",
    "import-legacy": "import_legacy.import_old",
    "schema": "schema.app",
}


class _WhenTyped(Mapping[str, Any]):
    """The commands; each is loaded when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        module, function = _COMMANDS[name].split(".")
        found = getattr(import_module(f"outbox.cli.{module}"), function)
        if not isinstance(found, typer.Typer):
            found, command = typer.Typer(add_completion=False, rich_markup_mode=None), found
            found.command(name)(command)
        return typer.main.get_command(found)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Commands(TyperGroup):
    """`outbox FILE` is `outbox status FILE`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = _WhenTyped()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-") and _is_file(args[0]):
            args = ["status", *args]
        return super().parse_args(ctx, args)


def _is_file(word: str) -> bool:
    return os.sep in word or Path(word).suffix in (".db", ".sqlite", ".sqlite3") or Path(word).is_file()


app: typer.Typer = typer.Typer(
    cls=_Commands,
    help="Look at an outbox file, and send what waits in it.\n\n"
    "Is something wrong? outbox status FILE says what, and outbox doctor --path FILE how to fix it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(given: bool) -> None:
    if given:
        typer.echo(f"outbox {__version__}, SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and exit.")
]


@app.callback()
def main(version: _Version = False) -> None:
    """Look at an outbox file, and send what waits in it."""
