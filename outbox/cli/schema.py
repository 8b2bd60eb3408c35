"""`outbox schema apply`: creates the remote tables, or brings them up to date."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from outbox import remote_schema
from outbox.cli import format as formatting
from outbox.cli.common import AsJson, print_json
from outbox.errors import ConfigError, OutboxError
from outbox.remote_schema import Script

_DONE, _REFUSED = 0, 3
_LOCK_S = 10.0

app: typer.Typer = typer.Typer(name="schema", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()  # without a callback Typer turns a group with a single command into that command
def _schema() -> None:
    """The remote tables."""


@app.command()
def apply(
    dsn: Annotated[
        str | None,
        typer.Argument(
            metavar="[DSN]", envvar="SUPABASE_DB_URL", show_envvar=False, help="The database, else SUPABASE_DB_URL."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL and connect to nothing.")] = False,
    optional: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also this file of supabase_sql/optional; repeatable.")
    ] = None,
    lock_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.001, help="How long to keep trying to lock a table."),
    ] = _LOCK_S,
    as_object: AsJson = False,
) -> None:
    """Make the remote tables, or bring older ones up to date. Rows stay; apply it as often as you like.

    The DSN is the connection string of the project's database, as its dashboard shows it under "Connect". Other users
    of this machine can read a command's arguments: the variable keeps it from them. It is never printed.

    \b
    Examples:
      SUPABASE_DB_URL=postgresql://... outbox schema apply
      outbox schema apply --dry-run | less

    \b
    Exit codes:
      0  every file is applied
      3  no connection, or a file was refused: it was rolled back, those
         before it stay applied

    \b
    --json prints these fields:
      exit_code
      applied                 [{file, seconds}]
      error                   only if there was one
    """
    applied: list[dict[str, Any]] = []
    try:
        files = remote_schema.scripts(optional or ())
        if dry_run:
            for script in files:
                sys.stdout.write(f"-- ---- {script.name}\n\n{script.text}\n")
            return
        if not dsn:
            raise ConfigError("give the DSN of the database, or set SUPABASE_DB_URL; nothing was changed", field="dsn")

        def told(script: Script, seconds: float) -> None:
            applied.append({"file": script.name, "seconds": round(seconds, 3)})
            if not as_object:
                formatting.console().print(f"{script.name}  {seconds:.1f} s")

        remote_schema.apply(dsn, files, lock_timeout_s=lock_timeout, told=told)
    except OutboxError as error:
        if as_object:
            print_json({"exit_code": _REFUSED, "applied": applied, "error": str(error)})
        else:
            formatting.complain(formatting.quoted(str(error)))
        raise typer.Exit(_REFUSED) from None
    if as_object:
        print_json({"exit_code": _DONE, "applied": applied})
