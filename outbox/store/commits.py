"""Commits, and what to say when one fails: stored, not stored, or nobody knows.

The file is never trusted further than its last successful sync. A commit that failed in a way that may have stored its
rows makes the connection suspect: the kernel may have dropped the pages that it failed to write, and still show them.
So the next commit comes on a new connection that has brought the WAL into the database and synced it, and until the
deadline the same work is tried again there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import aiosqlite

from outbox import logs
from outbox.clock import Clock
from outbox.errors import DiskFull, OutcomeUnknown, StoreBusy, StoreError
from outbox.store import database
from outbox.store.capacity import Capacity

logger = logs.named("outbox.store")

T = TypeVar("T")

_PAUSE_AFTER_IO_ERROR_S = 0.05
# What may go wrong with a commit: SQLite's errors, and ours for a file that cannot be opened again.
_SQLITE_ERRORS: tuple[type[Exception], ...] = (StoreError, *database.SqliteError)


class Commits:
    """Owns the read-write connection. on_corrupt: told each error that means a damaged page."""

    def __init__(
        self, connection: aiosqlite.Connection, path: Path, *, clock: Clock, busy_timeout_s: float, capacity: Capacity
    ) -> None:
        self.connection = connection
        self._path = path
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._capacity = capacity
        self._repeating = logs.Repeating(clock)
        self.suspect = False  # nothing may be acknowledged before a new connection has checkpointed
        self.on_corrupt: Callable[[Exception], None] = lambda _: None

    async def run(
        self, work: Callable[[], Awaitable[T]], *, ids: Sequence[str], again: bool = True, spends_reserve: bool = False
    ) -> T:
        """Run `work`, which commits. Raises what became of the data: StoreBusy, DiskFull, OutcomeUnknown, StoreError.

        again: whether `work` may run a second time. A failed sync may have stored the rows; trying again is safe
        for entries, since an id is stored once, but not for a caller's own SQL. spends_reserve: on a full disk it runs
        again in the reserve's space.
        """
        started = self._clock.monotonic_s()
        unknown = False  # once true it stays: a later "busy" or "full" says nothing about the first attempt
        while True:
            try:
                if self.suspect:
                    await self._reopen()
                return await work()
            except sqlite3.IntegrityError:
                raise
            except _SQLITE_ERRORS as error:
                waited_s = self._clock.monotonic_s() - started
                problem = error if isinstance(error, StoreError) else await self._failed(error, ids, waited_s)
                room_made = isinstance(problem, DiskFull) and await self._make_room()
                unknown = unknown or isinstance(problem, OutcomeUnknown)
                if unknown and not isinstance(problem, OutcomeUnknown):
                    problem = OutcomeUnknown(path=self._path, ids=ids, waited_s=round(waited_s, 1))
                if room_made and spends_reserve:
                    continue
                if not unknown or not again or waited_s >= self._busy_timeout_s:
                    if problem is error:
                        raise
                    raise problem from error
                await self._clock.wait(asyncio.Event(), _PAUSE_AFTER_IO_ERROR_S)

    async def _failed(self, error: Exception, ids: Sequence[str], waited_s: float) -> StoreError:
        """Return what the caller must be told about a commit that failed with `error`."""
        await database.roll_back(self.connection)
        kind = database.classify_error(error)
        if kind is database.ErrorClass.FULL:
            return DiskFull(path=self._path, ids=ids)
        if kind is database.ErrorClass.OTHER:
            return StoreError(f"{self._path}: {error}; nothing was written", path=self._path)
        if kind is not database.ErrorClass.AMBIGUOUS:
            if kind in database.DAMAGE:
                self.on_corrupt(error)
            return database.named(error, self._path, waited_s=round(waited_s, 1))
        self.suspect = True
        if (news := self._repeating.news("commit failed", str(error))) is not None:
            facts = {"error": str(error), "waited_s": round(waited_s, 3), **news}
            logger.warning("commit failed", extra=facts)
        if await self._capacity.is_lacking():
            await self._capacity.release()  # the next try, with a new connection, has its space
        return OutcomeUnknown(path=self._path, ids=ids, waited_s=round(waited_s, 1))

    async def _make_room(self) -> bool:
        """Give the reserve up and empty the WAL into its space. False: it had been given up already, or there is none.

        Up to 4 MiB of the WAL may still need a place in the database; the reserve should be larger than that.
        """
        if not await self._capacity.release():
            return False
        try:
            await database.empty_wal(self.connection)
        except database.SqliteError as error:
            if (news := self._repeating.news("not emptied", str(error))) is not None:
                logger.warning("WAL could not be emptied", extra={"error": str(error), **news})
        return True

    async def _reopen(self) -> None:
        """Leave the connection whose sync failed, and let a new one put the WAL's rows into the database."""
        try:
            await self.connection.close()
        except database.SqliteError as error:
            if (news := self._repeating.news("not closed", str(error))) is not None:
                logger.warning("closing after a failed sync failed", extra={"error": str(error), **news})
        self.connection = await database.connect(self._path, readonly=False, busy_timeout_s=self._busy_timeout_s)
        await database.make_durable(self.connection, self._path)
        if (await database.checkpoint(self.connection, "full")).blocked:
            raise StoreBusy(path=self._path, waited_s=self._busy_timeout_s)
        self.suspect = False
