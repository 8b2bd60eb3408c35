"""A look at an outbox file from outside: beside a running bot, or when none runs.

Takes no lock that a writer would feel, writes nothing, leaves no file behind.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

import aiosqlite

from outbox.errors import StoreError
from outbox.store import database, files
from outbox.store.migrate import applied, check, shipped
from outbox.store.reader import Reader
from outbox.threads import in_thread

T = TypeVar("T")

# An overtaken look is repeated; the second one finds the writer's WAL and is right.
_TRIES = 5


class ReadOnlyStore(Reader):
    """An outbox file, opened to be looked at. `look` opens one, uses it and closes it."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, *, still: bool) -> None:
        super().__init__(path, connection)
        self._still = still

    @classmethod
    async def open(cls, path: Path, *, busy_timeout_s: float = 5.0) -> Self:
        """Open `path` read-only. Raises StoreError: it is missing, holds no outbox, or cannot be read."""
        await in_thread(_check_readable, path)
        if await in_thread(files.has_journal, path):
            raise StoreError(
                f"{path} is being changed at this moment, or was cut off in a change; its -journal belongs to it:"
                " whoever next opens it to write puts it right, as the bot does at its start, or says that it does not",
                path=path,
            )
        # Without a -wal nobody has the file open. A common read-only connection would then make a -wal and a -shm
        # and leave them there; `immutable` makes neither, and needs no right to write into the folder.
        still = not await in_thread(files.wal_path(path).exists)
        connection = await database.open_reader(path, busy_timeout_s=busy_timeout_s, immutable=still)
        observer = cls(path, connection, still=still)
        try:
            await observer._check()
        except BaseException:
            await observer.close()
            raise
        return observer

    async def _check(self) -> None:
        try:
            done = await applied(self._reader)
        except database.SqliteError as error:
            raise database.named(error, self.path) from error
        if not done:
            raise StoreError(f"{self.path} is not an outbox; it was not touched", path=self.path)
        check(done, await in_thread(shipped), self.path)

    async def overtaken(self) -> bool:
        """Return whether a writer has come since this was opened as a file that nobody writes: do not trust it."""
        return self._still and await in_thread(files.wal_path(self.path).exists)

    async def close(self) -> None:
        """Close the connection."""
        await self._reader.close()


async def look(path: Path, work: Callable[[ReadOnlyStore], Awaitable[T]], *, busy_timeout_s: float = 5.0) -> T:
    """Return what `work` finds in `path`, all of it at one moment of the file's life; `work` may run again.

    Raises StoreError: the file is missing, holds no outbox, or cannot be read.
    """
    for _ in range(_TRIES):
        observer = await ReadOnlyStore.open(path, busy_timeout_s=busy_timeout_s)
        try:
            await observer.read("begin")  # read-only: one snapshot for all that follows
            found = await work(observer)
        except StoreError:
            if not await observer.overtaken():
                raise
        else:
            if not await observer.overtaken():
                return found
        finally:
            await observer.close()
    raise StoreError(f"{path} was opened and closed by other processes again and again; try again", path=path)


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
