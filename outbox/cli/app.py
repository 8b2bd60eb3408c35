"""The commands by name; each one's module is loaded when the command is typed."""

from __future__ import annotations

import gc
import os
import platform
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

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
            found.command(name, cls=_Command)(command)
        made = typer.main.get_command(found)
        if not gc.isenabled():  # by `main`; what is loaded stays, so nothing of it needs to be looked at again
            gc.freeze()
            gc.enable()
        return made

    def __contains__(self, name: object) -> bool:
        return name in _COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


def _value(parameter: Any, by_typer: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    """Return a parameter's value. typer makes each with pydantic, even None, which takes longer to load than the rest.

    So what needs no making is not handed to it: what nobody has given, and a path of which nothing is to be checked.
    """
    kind, check = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
    if parameter.nargs != 1 or parameter.multiple or (value is None and parameter.required):
        return by_typer(ctx, value)
    if value is not None and (value is not parameter.default or isinstance(value, str)):
        if kind is not Path or check.exists or check.readable or check.writable:
            return by_typer(ctx, value)
        value = Path(value)
    return value if parameter.callback is None else parameter.callback(ctx, parameter, value)


def _spared(parameters: Sequence[Any]) -> Any:
    """Return `parameters`, each of which takes its value from `_value`."""
    for each in parameters:
        known = hasattr(getattr(each, "type_descriptor", None), "parameter_info")  # typer 0.29; older need no pydantic
        if known and "process_value" not in vars(each):
            vars(each)["process_value"] = partial(_value, each, each.process_value)
    return parameters


class _Command(TyperCommand):
    """One command."""

    def get_params(self, ctx: Any) -> Any:
        return _spared(super().get_params(ctx))


class _Commands(TyperGroup):
    """`outbox FILE` is `outbox status FILE`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = _WhenTyped()

    def get_params(self, ctx: Any) -> Any:
        return _spared(super().get_params(ctx))

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
