"""`outbox resend`: what was delivered becomes pending again, here if no bot runs, else by the bot."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outbox.admin.commands import Commands
from outbox.admin.resend import Resend
from outbox.cli.common import AsJson, FilePath, complaints
from outbox.cli.filters import OfDestination, OfSession, moment_ms
from outbox.cli.send_command import TIMEOUT_S, Timeout, Yes, change, confirm, done, file_of
from outbox.clock import SystemClock
from outbox.store.store import Store

_Since = Annotated[
    str | None, typer.Option("--since", metavar="WHEN", help="Delivered since: 90s, 30min, 2h, 3d, or ISO 8601.")
]
_Until = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Delivered before: as --since; UTC.")]


def resend(
    since: _Since = None,
    until: _Until = None,
    destination: OfDestination = None,
    session: OfSession = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Send again what was delivered, after a restore.

    Supabase was restored from a backup, or a table was emptied.
    What is still here (OUTBOX_RETENTION_DAYS) becomes pending under its old
    id, so that an insert which is there already stays one row. Of upserts the
    newest of each key is sent. Updates are left out and counted. Works while a
    bot runs.

    \b
    Examples:
      outbox resend --since 2d --dry-run
      outbox resend --since 2026-01-31T06:00 --destination trades --yes

    \b
    Exit codes:
      0  done, be it nothing
      1  you said no
      2  a bot runs and has not answered in time; it will do it
      3  the file is missing or unreadable, or the request makes no sense

    \b
    --json prints these fields:
      path, exit_code
      resent                  how many are pending again; after --dry-run:
                              would be
      superseded              upserts left out: a later one of their key says
                              all that they say
      updates                 left out
      destinations            {name: how many of resent}
      dry_run                 whether nothing was changed
      by                      this command, or: the running bot; null: nobody,
                              you said no
      request                 its name, if it waits for an answer
      error                   only if it was refused
    """
    with complaints(path, as_object=as_object):
        where, now_ms = file_of(path), SystemClock().now_ms()
        which = Resend.of(
            {
                "since_ms": None if since is None else moment_ms(since, now_ms=now_ms, field="since"),
                "until_ms": None if until is None else moment_ms(until, now_ms=now_ms, field="until"),
                "destination": destination,
                "session": session,
                "dry_run": dry_run,
            }
        )

        if not (yes or dry_run):
            counting = which.model_copy(update={"dry_run": True})
            _, found = done(where, "resend", counting.as_json(), _local(counting), timeout)
            if found.get("resent"):
                nothing = {"resent": 0, "superseded": 0, "updates": 0, "destinations": {}, "dry_run": False}
                confirm(where, f"send {found['resent']:,} again?", as_object=as_object, nothing=nothing)
        raise typer.Exit(change(where, "resend", which.as_json(), _local(which), timeout, as_object=as_object))


def _local(which: Resend) -> Any:
    async def local(store: Store) -> dict[str, Any]:
        return (await Commands(store, clock=SystemClock()).resend(which)).as_json()

    return local
