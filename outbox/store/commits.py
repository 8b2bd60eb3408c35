"""Commits, and what to say when one fails: stored, not stored, or nobody knows.

The file is never trusted further than its last successful sync. A commit that failed in a way that may have stored its
rows makes the connection suspect: the kernel may have dropped the pages that it failed to write, and still show them.
So the next commit comes on a new connection that has brought the WAL into the database and synced it, and until the
deadline the same work is tried again there.

Nor is it trusted where it cannot be found: after each commit, before any caller is answered, `FileWatch` checks that
the files are still at their paths. What is only in a -wal that nobody will find goes into the database first,
and all connections are opened anew, which takes SQLite's locks again. Where the database itself has gone, what the
connection still holds is written to its path again or, if something else is there, beside it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, TypeVar

import aiosqlite

from outbox import logs
from outbox.clock import Clock
from outbox.errors import DiskFull, OutcomeUnknown, StoreBusy, StoreError, StoreInUse, StoreVanished
from outbox.store import database, files
from outbox.store.capacity import Capacity
from outbox.store.file_watch import FileWatch, Part
from outbox.store.lock import WriterLock
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.store")

T = TypeVar("T")

_PAUSE_AFTER_IO_ERROR_S = 0.05
# What may go wrong with a commit: SQLite's errors, and ours for a file that cannot be opened again.
_SQLITE_ERRORS: tuple[type[Exception], ...] = (StoreError, *database.SqliteError)
_NOT_BROUGHT_BACK: tuple[type[Exception], ...] = (OSError, *_SQLITE_ERRORS)


class Guard(NamedTuple):
    """What a commit needs beside its connection.

    rescue: writes what a connection still holds to a file beside the path and returns which. Its second argument: files
    of ours at the path that are of no use without the database: they go, and the new file takes the path, if nothing is
    there; None: it must not take the path. Raises StoreError, OSError, the engine's errors.
    """

    lock: WriterLock
    watch: FileWatch
    rescue: Callable[[aiosqlite.Connection, Sequence[Path] | None], Awaitable[Path]]


class Commits:
    """Owns the read-write connection. on_corrupt: told each error that means a damaged page.

    readers_away: inside it no other connection of this process is open. files_lost_ms: since when it is known that
    files were removed or replaced in this run, in Unix milliseconds. vanished: why nothing is written any more.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        path: Path,
        guard: Guard,
        *,
        clock: Clock,
        busy_timeout_s: float,
        capacity: Capacity,
        readers_away: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self.connection: aiosqlite.Connection = connection
        self._guard = guard
        self._watch = guard.watch
        self._readers_away = readers_away
        self.files_lost_ms: int | None = None
        self.vanished: StoreVanished | None = None
        self._path = path
        self._clock = clock
        self.busy_timeout_s: float = busy_timeout_s
        self._capacity = capacity
        self.repeating: logs.Repeating = logs.Repeating(clock)
        self.suspect: bool = False  # nothing may be acknowledged before a new connection has checkpointed
        self._tried: Sequence[str] = ()  # what the newest work stores: while `suspect` nobody knows what became of it
        self.on_corrupt: Callable[[Exception], None] = lambda _: None

    def refusal(self, ids: Sequence[str]) -> DiskFull | None:
        """Return why there is no use in trying the entries `ids` on a full disk; None: there may be.

        A suspect connection must be replaced first, and for a new one there may be no room. Until then nobody can look
        whether they are there; but what was never tried is not, or was before and stays.
        """
        untried = self.suspect and set(ids).isdisjoint(self._tried)
        return DiskFull(path=self._path, ids=ids) if untried else None

    async def run(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        ids: Sequence[str],
        stores: bool = True,
        again: bool = True,
        spends_reserve: bool = False,
    ) -> T:
        """Run `work`, which commits. Raises what became of the data: StoreBusy, DiskFull, OutcomeUnknown, StoreError.

        ids: the entries it is for. stores: whether it stores them; else it only prepares that.

        again: whether `work` may run a second time. A failed sync may have stored the rows; trying again is safe
        for entries, since an id is stored once, but not for a caller's own SQL. spends_reserve: on a full disk it runs
        again in the reserve's space.
        """
        started = self._clock.monotonic_s()
        unknown = False  # once true it stays: a later "busy" or "full" says nothing about the first attempt
        while True:
            try:
                return await self._once(work, ids, stores=stores)
            except sqlite3.IntegrityError:
                raise
            except _SQLITE_ERRORS as error:
                if isinstance(error, StoreVanished) and (error.stored or not unknown):
                    raise
                waited_s = self._clock.monotonic_s() - started
                problem = error if isinstance(error, StoreError) else await self._failed(error, ids, waited_s)
                room_made = isinstance(problem, DiskFull) and await self._make_room()
                # Committed into a -wal that nobody will find, and not in the database yet, is not "nothing", either.
                unknown = unknown or isinstance(problem, OutcomeUnknown) or bool(self._watch.gone)
                if unknown and not isinstance(problem, OutcomeUnknown):
                    problem = OutcomeUnknown(path=self._path, ids=ids, waited_s=round(waited_s, 1))
                if room_made and spends_reserve:
                    continue
                if not unknown or not again or waited_s >= self.busy_timeout_s:
                    if problem is error:
                        raise
                    raise problem from error
                await self._clock.wait(asyncio.Event(), _PAUSE_AFTER_IO_ERROR_S)

    async def _once(self, work: Callable[[], Awaitable[T]], ids: Sequence[str], *, stores: bool) -> T:
        if self.vanished is not None:
            raise self.vanished.of(ids, stored=False)
        if self.suspect:
            await self._reopen(ids, stored=False)
        self._tried = ids if stores else ()
        result = await work()
        if self._watch.gone:
            self.suspect = True
            await self._reopen(ids, stored=stores)
        return result

    async def _failed(self, error: Exception, ids: Sequence[str], waited_s: float) -> StoreError:
        """Return what the caller must be told about a commit that failed with `error`."""
        await database.roll_back(self.connection)
        kind = database.classify_error(error)
        if kind is database.ErrorClass.FULL:
            return await database.no_numbers(self.connection, self._path) or DiskFull(path=self._path, ids=ids)
        if kind is database.ErrorClass.OTHER:
            return StoreError(f"{self._path}: {error}; nothing was written", path=self._path)
        if kind is not database.ErrorClass.AMBIGUOUS:
            if kind in database.DAMAGE:
                self.on_corrupt(error)
            return database.named(error, self._path, waited_s=round(waited_s, 1))
        self.suspect = True
        if (news := self.repeating.news("commit failed", str(error))) is not None:
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
            if (news := self.repeating.news("not emptied", str(error))) is not None:
                logger.warning("WAL could not be emptied", extra={"error": str(error), **news})
        return True

    # ------------------------------------------------------------------------------------------ a new connection

    async def _reopen(self, ids: Sequence[str], *, stored: bool) -> None:
        """Replace a connection that is not to be trusted by one that has put the WAL's rows into the database.

        stored: whether the entries `ids` are committed on it. Raises StoreVanished.
        """
        self._watch.look()  # what has gone is only in this connection's descriptors: it must not be closed before
        if self._watch.gone:
            await self._put_right(ids, stored=stored)
        else:
            await self._connect_again()
            self._remembered()  # one that is missing is gone with the next look
        self.suspect = False

    async def _connect_again(self) -> None:
        try:
            await self.connection.close()
        except database.SqliteError as error:
            if (news := self.repeating.news("not closed", str(error))) is not None:
                logger.warning("close after a failed sync failed", extra={"error": str(error), **news})
        self._watch.forget()
        self.connection = await database.connect(
            self._path, readonly=False, busy_timeout_s=self.busy_timeout_s, watch=self._watch
        )
        await database.make_durable(self.connection, self._path)
        await self._checkpoint()

    async def _checkpoint(self) -> None:
        if (await database.checkpoint(self.connection, "full")).blocked:
            raise StoreBusy(path=self._path, waited_s=self.busy_timeout_s)

    # ------------------------------------------------------------------------------------------ files that have gone

    @property
    def has_second_name(self) -> bool:
        return self._watch.names > 1

    async def look(self) -> None:
        """Look at the files without a commit, and put right what has gone. Raises StoreVanished."""
        await self.run(lambda: self.connection.execute("select 1"), ids=())

    async def _put_right(self, ids: Sequence[str], *, stored: bool) -> None:
        """Bring what only our descriptors hold to where the next opening finds it, and continue if that is safe."""
        self.files_lost_ms = self.files_lost_ms or self._clock.now_ms()
        gone, lost = self._watch.gone, Part.DATABASE in self._watch.gone
        foreign = bool(self._watch.replaced & {Part.WAL, Part.INDEX})
        unlocked, why = await self._unlocked(), ""
        kept: Path | None = self._path
        if self._watch.wal_cut:  # read through that -wal, the database would get pages of zeros
            kept, why = None, "up to the last checkpoint all is in it; the next opening names what is missing"
        elif lost or foreign:
            kept, why = await self._rescued(beside=unlocked is not None or not lost)
        if unlocked is None and kept == self._path:
            why = await self._opened_again(checkpoint=not lost) if gone != {Part.LOCK} else self._remembered()
        goes_on = unlocked is None and kept == self._path and not why
        if goes_on:
            self._capacity.changed.set()  # the housekeeper writes it down
        told = {"path": str(self._path), "gone": ", ".join(sorted(f"{self._path.name}{part.value}" for part in gone))}
        if goes_on and not lost:
            logger.error("files beside the database were removed, now restored", extra=told)
            return
        logger.error("database file vanished", extra={**told, "kept": str(kept), "goes_on": goes_on})
        found = StoreVanished(
            path=self._path,
            what=_words(lost=lost, foreign=foreign, cut=self._watch.wal_cut, unlocked=unlocked, why=why),
            kept=kept,
            ids=ids,
            stored=stored,
            goes_on=goes_on,
        )
        if goes_on:
            self.suspect = False
        else:
            self.vanished = found
        raise found

    async def _unlocked(self) -> StoreError | None:
        """Take the lock again if it has gone, in its folder if that has gone, too; return why it cannot be had."""
        try:
            await in_thread(files.make_folder, self._path.parent)
            if Part.LOCK in self._watch.gone:
                self._guard.lock.take_again()
        except StoreError as error:
            return error
        return None

    async def _rescued(self, *, beside: bool) -> tuple[Path | None, str]:
        """Return where everything is now, and None and why not if it could not be brought back."""
        leftovers = [] if beside else [own for part in (Part.WAL, Part.INDEX) if (own := self._watch.own(part))]
        try:
            return await self._guard.rescue(self.connection, None if beside else leftovers), ""
        except _NOT_BROUGHT_BACK as error:
            return None, f"{error}; as long as this process lives it is in {_descriptors()}"

    async def _opened_again(self, *, checkpoint: bool) -> str:
        """Open every connection of this process anew; return why that is not enough.

        checkpoint: whether the old connection's WAL goes into the database first.
        """
        async with self._readers_away():
            if checkpoint:
                await self._checkpoint()
            await self._connect_again()
            return self._remembered()

    def _remembered(self) -> str:
        try:
            self._watch.remember()
        except OSError as error:
            # SQLite shares a removed -shm with any connection that is still open, and makes no new one.
            return f"{error.filename} is still missing: does this process have the file open elsewhere?"
        return ""


def _descriptors() -> str:
    """Return where the kernel shows what this process has open."""
    return f"/proc/{os.getpid()}/fd" if sys.platform == "linux" else f"the open files of process {os.getpid()}"


def _words(*, lost: bool, foreign: bool, cut: bool, unlocked: StoreError | None, why: str) -> str:
    """Return what has happened, as the end of a sentence about the database."""
    if isinstance(unlocked, StoreInUse):
        other = f"process {unlocked.pid}" if unlocked.pid else "another process"
        what = f"is open for writing by {other}, too, since its lock was removed or replaced"
    elif unlocked is not None:
        what = f"lost its lock, which cannot be taken again: {unlocked}"
    elif cut:
        what = "lost what stood in its -wal, which was emptied, cut or written over while this process had it open"
    elif foreign:
        what = "is in use by another process with a -wal of its own, since the -wal of this one was removed"
    elif lost:
        what = "was removed, moved, replaced or emptied while this process had it open"
    else:
        what = "lost files beside it while this process had it open"
    return f"{what} ({why})" if why else what
