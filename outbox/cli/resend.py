"""`outbox resend`: makes delivered entries pending again, here if no bot runs, else by the bot."""

from __future__ import annotations

import typer

from outbox.cli.common import AsJson, FilePath
from outbox.cli.filters import Chosen, DryRun, selecting
from outbox.cli.send_command import TIMEOUT_S, Timeout, Yes, changing, done


@selecting
def resend(
    chosen: Chosen,
    dry_run: DryRun = False,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Send again what was delivered, after a restore.

    For when Supabase was restored from a backup, or a table was emptied.
    Delivered entries that the file still holds (OUTBOX_RETENTION_DAYS) become
    pending with their old ids, so an insert that is there already stays one
    row. Only the newest upsert of each key is sent. Updates are left out and
    counted. --since and --until refer to the delivery. Works while a bot runs.

    \b
    Examples:
      outbox resend --since 2d --dry-run
      outbox resend --since 2026-01-31T06:00 --destination trades --yes

    \b
    Exit codes:
      0  done, even if none matches
      1  you said no
      2  a bot runs and has not answered in time; it will do it
      3  the file is missing or unreadable, or the request is invalid

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
    with changing(path, timeout, as_object=as_object) as command:
        which = chosen().as_json()
        if not (yes or dry_run):
            _, found = done(command.where, "resend", {**which, "dry_run": True}, timeout)
            if found.get("resent"):
                nothing = {"resent": 0, "superseded": 0, "updates": 0, "destinations": {}, "dry_run": False}
                command.confirm(f"send {found['resent']:,} again?", nothing)
        raise typer.Exit(command.change("resend", {**which, "dry_run": dry_run}))
