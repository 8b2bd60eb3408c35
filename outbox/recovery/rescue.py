"""Rewrites a database file that vanished under the running bot, from what its connection still holds.

A deleted file lives on as long as it is open. SQLite's backup reads it through the open connection, -wal included;
the copy is checked and synced before it gets a name.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import aiosqlite

from outbox.errors import StoreError
from outbox.recovery import quarantine
from outbox.store import files
from outbox.threads import in_thread


async def rescue(
    path: Path, connection: aiosqlite.Connection, leftovers: Sequence[Path] | None, *, now_ms: int
) -> Path:
    """Write all that `connection` sees to a new file, 0600, and return its name: `path` if that is free.

    leftovers: our files at the path, useless without the database: removed before the new file takes it; None: the new
    file must get a name beside it. The old files stay in the kernel as long as this process lives, whatever is raised:
    StoreError, OSError, the engine's errors.
    """
    part = path.with_name(path.name + ".rescue")
    await in_thread(_fresh, part)
    try:
        copy = sqlite3.connect(files.uri(part, "rw"), uri=True, isolation_level=None, check_same_thread=False)
        try:
            await connection.backup(copy)
            await in_thread(_finish, copy, part)
        finally:
            await in_thread(copy.close)
        return await in_thread(_named, part, path, leftovers, now_ms)
    finally:
        await in_thread(_tidy, part)


def _fresh(part: Path) -> None:
    _tidy(part)  # what a killed process left
    files.create_file(part)
    files.give(part, like=part.parent)


def _finish(copy: sqlite3.Connection, part: Path) -> None:
    # The copy was never in use: with the flag, opening it would report a missing -wal.
    copy.execute("delete from outbox_meta where name = 'open'")
    found = copy.execute("pragma quick_check(1)").fetchall()
    if found != [("ok",)]:
        raise StoreError(f"what is left of it is damaged: {found[0][0]}", path=part)


def _named(part: Path, path: Path, leftovers: Sequence[Path] | None, now_ms: int) -> Path:
    files.sync_file(part)
    if leftovers is not None and not path.exists():
        for each in leftovers:
            each.unlink(missing_ok=True)
        if not files.wal_path(path).exists():  # else it is a foreign one, and the file must not get it
            with contextlib.suppress(FileExistsError):
                files.publish(part, path)
                return path
    beside = quarantine.rescued_name(path, now_ms=now_ms)
    files.publish(part, beside)
    return beside


def _tidy(part: Path) -> None:
    for each in (part, files.wal_path(part), files.shm_path(part), files.journal_path(part)):
        each.unlink(missing_ok=True)
