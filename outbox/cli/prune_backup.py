"""`outbox prune` keeps the file small; `outbox backup` makes a checked copy of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from outbox.cli import format as formatting
from outbox.cli.common import AsJson, FilePath, check_outbox, complaints, print_json, read
from outbox.cli.filters import age_ms
from outbox.cli.send_command import TIMEOUT_S, Timeout, Yes, changing, file_of
from outbox.clock import SystemClock
from outbox.errors import ConfigError, InvalidRequest
from outbox.forensics import entries
from outbox.forensics.backup import back_up, name_in, remove_old
from outbox.settings import load

_DAY_MS = 86_400_000
_DEFAULT_DAYS = 7.0


def prune(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Such as 12h, 3d; 0d: all. Else OUTBOX_RETENTION_DAYS."),
    ] = None,
    yes: Yes = False,
    timeout: Timeout = TIMEOUT_S,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Remove old delivered and discarded entries, now. Works while a bot runs.

    A bot does this by itself each minute. Pending and dead entries stay.
    Removed ones stay counted, by day in outbox_daily. All but 4 MiB of the
    space goes back to the disk.

    \b
    Example:
      outbox prune --older-than 12h --yes

    \b
    Exit codes:
      0  pruned, even if none was old enough
      1  you said no
      2  a bot runs and has not answered in time; it will do it
      3  the file is missing or unreadable, or the age is invalid

    \b
    --json prints these fields:
      path, exit_code
      pruned                  how many entries
      by                      this command, or: the running bot; null: nobody,
                              you said no
      request                 its name, if it waits for an answer
      error                   only if it was refused
    """
    with changing(path, timeout, as_object=as_object) as command:
        before_ms = SystemClock().now_ms() - _retention_ms(older_than, path)
        found = read(command.where, lambda observer: entries.settled_before(observer, before_ms))
        if found and not yes:
            question = f"prune {found:,} that arrived or were given up before {formatting.moment(before_ms)}?"
            command.confirm(question, nothing={"pruned": 0})
        raise typer.Exit(command.change("prune", {"before_ms": before_ms}))


def _retention_ms(older_than: str | None, path: Path | None) -> int:
    if older_than is not None:
        return age_ms(older_than, field="older-than")
    try:
        return int(load(path=path).retention_days * _DAY_MS)
    except ConfigError as error:  # a bad URL does not matter here; a bad retention does
        if error.field == "retention_days":
            raise
        return int(_DEFAULT_DAYS * _DAY_MS)


def backup(
    target: Annotated[
        Path, typer.Argument(readable=False, metavar="DEST", help="The copy's name, or a folder. Overwrites nothing.")
    ],
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=1, help="In the folder DEST: remove all but the newest N.")
    ] = None,
    path: FilePath = None,
    as_object: AsJson = False,
) -> None:
    """Make a checked copy of the file. Works while a bot runs.

    `cp` would lose what is only in the WAL. This copy is read back: SQLite's
    integrity_check must pass, and it must hold as many entries as the file
    says. Only you can read it (0600). If a check fails, there is no copy. In a
    folder it is named after the file and the time in UTC,
    bot-20260102T030405.678Z.db. What a killed backup left in DEST's folder is
    removed.

    \b
    Examples:
      outbox backup bot-backup.db
      outbox backup /mnt/elsewhere --keep 48

    \b
    Exit codes:
      0  the copy is there and checked
      3  there is no copy: DEST exists, or the sentence says why

    \b
    --json prints these fields:
      path, exit_code
      backup                  the copy
      bytes, entries          of the copy
      seconds                 how long it took
      destinations            {name: {state: entries}}, counted in the copy
      removed                 the copies that --keep removed
      error                   only with exit code 3
    """
    with complaints(path, as_object=as_object):
        where = file_of(path)
        target = target.expanduser().absolute()
        folder = target if target.is_dir() else None
        if keep is not None and folder is None:
            raise InvalidRequest(f"needs a folder, and {target} is none; nothing was copied", field="keep")
        check_outbox(where)
        started_s = time.monotonic()
        copy = target if folder is None else name_in(folder, where, SystemClock().now_ms())
        with formatting.progress("copying") as told:
            made = back_up(where, copy, progress=told)
        seconds = round(time.monotonic() - started_s, 3)
        # Only now: the old copies are needed until the new one is there.
        removed = [] if keep is None or folder is None else remove_old(folder, where, keep)
        if as_object:
            facts = {"backup": made.path, "bytes": made.bytes, "entries": made.entries, "seconds": seconds}
            print_json({"path": where, "exit_code": 0, **facts, "destinations": made.counts, "removed": removed})
        else:
            size = formatting.size(made.bytes)
            formatting.say(f"{made.entries:,} entries, {size}, checked, in {seconds:.1f} s: {made.path}")
            for each in removed:
                formatting.say(f"removed {each}")
