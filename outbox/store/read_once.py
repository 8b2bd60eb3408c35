"""A look at an outbox file from outside: beside a running bot, or when none runs.

Takes no lock that a writer would feel, writes nothing, leaves no file behind. Synchronous: in any thread.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from outbox.errors import StoreError
from outbox.store import files, sqlite
from outbox.store.migrations import applied, check, shipped

T = TypeVar("T")

# An overtaken look is repeated; the second one finds the writer's WAL and is right.
TRIES = 5


def read_once(path: Path, work: Callable[[sqlite3.Connection], T], *, busy_timeout_s: float = 5.0) -> T:
    """Return what `work` finds in `path`, all of it at one moment of the file's life; `work` may run again.

    Raises StoreError: the file is missing, holds no outbox, or cannot be read.
    """
    for _ in range(TRIES):
        still = is_still(path)
        try:
            plain = sqlite.plain_connection(path, immutable=still, timeout_s=busy_timeout_s)
            with contextlib.closing(plain) as connection:
                connection.text_factory = sqlite.readable  # a shell may have put any bytes
                check_schema(applied(connection), path)
                connection.execute("begin")  # read-only: one snapshot for all that follows
                found = work(connection)
        except sqlite.SqliteError as error:
            if not overtaken(path, still=still):
                raise sqlite.named(error, path, waited_s=busy_timeout_s) from error
        except StoreError:
            if not overtaken(path, still=still):
                raise
        else:
            if not overtaken(path, still=still):
                return found
    raise restless(path)


def is_still(path: Path) -> bool:
    """Return whether nobody has the file open. Raises StoreError: it is not there, or cannot be read now."""
    _check_readable(path)
    if files.has_journal(path):
        raise StoreError(
            f"{path} is being changed at this moment, or was cut off in a change; its -journal belongs to it:"
            " whoever next opens it to write puts it right, as the bot does at its start, or says that it does not",
            path=path,
        )
    # Without a -wal nobody has the file open. A common read-only connection would then make a -wal and a -shm
    # and leave them there; `immutable` makes neither, and needs no right to write into the folder.
    return not files.wal_path(path).exists()


def overtaken(path: Path, *, still: bool) -> bool:
    """Return whether a writer has come since `path` was opened as a file that nobody writes: do not trust it."""
    return still and files.wal_path(path).exists()


def check_schema(done: dict[int, str], path: Path) -> None:
    """Raise StoreError unless `path` is an outbox that this version can read. done: as `applied`."""
    if not done:
        raise StoreError(f"{path} is not an outbox; it was not touched", path=path)
    check(done, shipped(), path)


def restless(path: Path) -> StoreError:
    """Return what to say once every look was overtaken."""
    return StoreError(f"{path} was opened and closed by other processes again and again; try again", path=path)


def is_file(path: Path) -> bool:
    """Return whether `path` is a file, False: nothing is there. Raises StoreError: it is something else.

    SQLite would wait for ever at a named pipe.
    """
    try:
        there, file = path.exists(), path.is_file()
    except OSError as error:  # a folder above it may not be entered
        raise StoreError(f"{path} cannot be read: {error.strerror}", path=path) from error
    if there and not file:
        raise StoreError(f"{path} is a folder or a device, not a file; it was not touched", path=path)
    return there


def _check_readable(path: Path) -> None:
    if not is_file(path):
        raise StoreError(f"{path} does not exist; nothing was created", path=path)
    if not os.access(path, os.R_OK):
        raise StoreError(f"{path} cannot be read by this user: run this as the bot's user", path=path)
