"""The command `outbox status`; status.py produces what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, complaints, file_and_warnings, print_json
from outbox.cli.status import Status, as_json, read_status, show
from outbox.snapshot import STALLED_AFTER_S

# The longest pause after failures, unless set otherwise: older entries have had their attempt.
_STALLED_AFTER_MIN = STALLED_AFTER_S / 60
_WATCH_EVERY_S = 2.0


def status(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="As --path.", readable=False)] = None,
    path: FilePath = None,
    as_object: AsJson = False,
    stalled_after: Annotated[
        float,
        typer.Option("--stalled-after", metavar="MINUTES", min=0, help="Pending for longer than this is stalled."),
    ] = _STALLED_AFTER_MIN,
    again: Annotated[bool, typer.Option("--watch", "-w", help="Repeat, with rates, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often, with --watch.")
    ] = _WATCH_EVERY_S,
) -> None:
    """Show what is pending, dead or paused, and who writes. Works while a bot runs; changes nothing.

    \b
    Examples:
      outbox status bot.db
      outbox status --stalled-after 10
      outbox status --json

    \b
    Exit codes, the worst that applies; 5 outranks 2, and 2 outranks 4 and 1:
      0  healthy
      1  dead letters: the server refused entries for good; they are kept
      2  stalled: something is paused, or pending for more than --stalled-after,
         or nobody sends what is pending: no flusher has ever run, no URL is set
      3  the file is missing, unreadable or no outbox
      4  hindered: the disk is full, a reader keeps the WAL from shrinking, or
         files were removed under the bot
      5  damaged: a damaged file was set aside, or entries are lost

    \b
    --json prints these fields:
      path, health, exit_code
      pending, delivered, dead, discarded, pruned, removed    entries
      oldest_pending_age_s    seconds, or null
      postponed               pending entries that wait for a row of their own
                              or are stuck; 1,000 is that many or more
      unsent                  why nobody sends what is pending, a sentence, or null
      strict_order            whether a dead entry holds back its key
      destinations            {name: {pending, delivered, dead, ...}}
      pauses                  [{scope, subject, reason, status, code, message,
                              failures, since, next_try}]
      last_refusal            {at, event, destination, id, status, code,
                              message}: the server's latest refusal of an
                              entry, or null
      writer                  {pid, since, running}; not running: the last one;
                              null: not known, the lock file is another user's
      flusher                 {started, running, since, last_look, last_delivery,
                              last_error, last_error_at}: of the writer, which
                              sends; last_look is at most a minute old unless
                              it rests after errors; last_error: the bot's own,
                              not the server's words; null: not known
      tasks                   {name: {running, failures, last_error}}: the writer's
                              other background tasks; {}: none runs, or not known
      sqlite                  {version, exposed_to_wal_reset_bug}, this command's
      db_bytes, wal_bytes, pending_bytes    the last one: of pending payloads
      reserve_released        since when the disk is full and puts are refused,
                              or null
      checkpoint_held         since when a reader keeps the WAL from shrinking,
                              or null
      files_lost              since when files are known to be removed or replaced
                              under the bot, or null
      second_name             since when the file has a hard link, or null
      quarantined             [path]: damaged files that were set aside
      damage, loss            sentences, or null
      warnings                [sentence]: what hinders the file, and what keeps
                              entries from arriving
      error                   only with exit code 3, beside path, health, exit_code

    \b
    With --watch one such object for each look, and
      at                      UTC
      put_per_s, delivered_per_s    over the last ten looks, or null
      empty_in_s              until nothing is pending, or null
    """
    path = path if file is None else file
    with complaints(path, as_object=as_object):
        where, warnings = file_and_warnings(path)

        def read() -> Status:
            return read_status(where, warnings=warnings, stalled_after_s=stalled_after * 60)

        if again:
            from outbox.cli.watch import watch

            raise typer.Exit(watch(read, every, as_object=as_object))
        found = read()
        if as_object:
            print_json(as_json(found))
        else:
            show(found, formatting.console())
        raise typer.Exit(found.health)
