"""As `read_once`, for an event loop: several questions, each with its own wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

import aiosqlite

from outbox.errors import StoreError
from outbox.store import database, files
from outbox.store.migrations import applied
from outbox.store.read_once import TRIES, check_schema, is_file as is_file, is_still, restless
from outbox.store.reader import Reader
from outbox.threads import in_thread

T = TypeVar("T")


class ReadOnlyStore(Reader):
    """An outbox file, opened to be looked at. `look` opens one, uses it and closes it."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, *, still: bool) -> None:
        super().__init__(path, connection)
        self._still = still

    @classmethod
    async def open(cls, path: Path, *, busy_timeout_s: float = 5.0) -> Self:
        """Open `path` read-only. Raises StoreError: it is missing, holds no outbox, or cannot be read."""
        still = await in_thread(is_still, path)
        connection = await database.open_reader(path, busy_timeout_s=busy_timeout_s, immutable=still)
        observer = cls(path, connection, still=still)
        try:
            await in_thread(check_schema, await observer.run(applied), path)
        except BaseException:
            await observer.close()
            raise
        return observer

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
    for _ in range(TRIES):
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
    raise restless(path)
