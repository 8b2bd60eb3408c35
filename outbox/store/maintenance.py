"""Housekeeping: remove what is settled and old, keep the WAL short, make room on a full disk.

The room that pruning leaves goes back to the disk, in small steps too. Each step is a commit of its own, and what
stands in the writer's line comes before the next one.
"""

from __future__ import annotations

import asyncio

import aiosqlite

from outbox import logs
from outbox.background import Background
from outbox.clock import Clock, SteadyClock
from outbox.errors import OutboxClosed, OutboxError
from outbox.store import files, queries
from outbox.store.rows import Notices
from outbox.store.store import Store
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.maintenance")

_EVERY_S = 60.0
# While something is in the way: whoever waits for room, or for a shell to leave, soon sees that it is over.
_EVERY_S_IF_HINDERED = 1.0
_DAY_MS = 86_400_000
# A clock that is a day or more ahead of the newest entry: the bot was stopped, or the clock is wrong until it is set.
_AHEAD_MS, _DOUBT_S = _DAY_MS, 3600.0
# SQLite checkpoints every 1,000 pages, some 4 MiB: a WAL of twice that has grown behind a reader's back.
_LONG_WAL_BYTES = 8 << 20
# One step on a full disk: 500 rows; and 256 pages, which are 1 MiB of WAL while they move, well within the reserve.
_ROWS, _PAGES = 500, 256
# A step of 500 rows holds the writer for a few milliseconds; puts wait in line behind one of them at most.
_STEP_ROWS = 500
# 64 pages of 4 KiB take about 1 ms: a vacuum moves each from the end of the file into a gap.
_STEP_PAGES = 64
# 4 MiB of gaps stay: the next rows go there, and a file that grows and shrinks need not move its pages each minute.
_KEPT_PAGES = 1024
_END_OF_TIME_MS = 2**62


class Maintenance:
    """Looks every minute in a task of its own, and at once when the disk is found full.

    The counts of what is pruned stay in `outbox_counts`. notices: what hinders the file now.
    """

    def __init__(self, store: Store, *, clock: Clock, retention_days: float) -> None:
        self._store = store
        self._wal = files.wal_path(store.path)
        self._clock = clock
        self._retention_ms = int(retention_days * _DAY_MS)
        self._steady = SteadyClock(clock)
        self._trusted_s: float | None = None  # from when on the clock that was found at the start is believed
        self._repeating = logs.Repeating(clock)
        self._stop = asyncio.Event()
        self.notices: Notices = Notices()
        self.background: Background = Background(
            "maintenance", self._turn, clock=clock, stop=self._stop, tell=store.sidecar.tell_task
        )

    async def stop(self) -> None:
        """Let the step under way end, and start no other."""
        self._stop.set()
        self._store.writer.capacity.changed.set()
        await asyncio.wait({self.background.task})

    async def _turn(self) -> None:
        self._store.writer.capacity.changed.clear()
        try:
            await self._maintain()
            self._repeating.over("failed")
        except OutboxClosed:
            raise
        except (OutboxError, OSError) as error:  # locked, full or failing: the next look may be better
            if (news := self._repeating.news("failed", str(error))) is not None:
                logger.warning("maintenance failed, retrying", extra={"error": str(error), **news})
        hindered = self.notices._replace(files_lost_ms=None) != Notices()
        await self._clock.wait(self._store.writer.capacity.changed, _EVERY_S_IF_HINDERED if hindered else _EVERY_S)

    async def _maintain(self) -> None:
        if self._store.writer.commits.vanished is not None:
            return  # told, and there is nothing to keep
        try:
            await self._store.look()
        finally:
            self.notices = self.notices._replace(files_lost_ms=self._store.writer.commits.files_lost_ms)
        self._look_for_second_name()
        self._notice(reserve_released_ms=self._store.writer.capacity.short)
        if self._store.writer.capacity.short:
            await _note(self._store, self.notices)  # before anything fails
            await self._find_room()
        if await self._is_clock_trusted():
            before_ms = min(self._clock.now_ms(), self._steady.now_ms()) - self._retention_ms
            if await prune(self._store, before_ms, stop=self._stop):
                # Only then: what an earlier end has left to give back, the next pruning does.
                await shrink(self._store, stop=self._stop)
        await self._shorten_wal()
        await _note(self._store, self.notices)

    def _look_for_second_name(self) -> None:
        if self._store.writer.commits.has_second_name and self.notices.second_name_ms is None:
            logger.error("database file has a second name", extra={"path": str(self._store.path)})
        self._notice(second_name_ms=self._store.writer.commits.has_second_name)

    async def _is_clock_trusted(self) -> bool:
        """Whether what is old by the clock found at start may go: one far ahead is given an hour to be set right."""
        now_s = self._clock.monotonic_s()
        if self._trusted_s is None:
            newest_ms = await self._store.newest_put_ms()
            doubtful = newest_ms is not None and self._steady.now_ms() - newest_ms > _AHEAD_MS
            self._trusted_s = now_s + (_DOUBT_S if doubtful else 0.0)
        return now_s >= self._trusted_s

    def _notice(self, **found: bool) -> None:
        """Note what hinders the file now, each with the time when it began."""
        before, now_ms = self.notices.facts(), self._clock.now_ms()
        self.notices = self.notices._replace(
            **{name: (before[name] or now_ms) if now else None for name, now in found.items()}
        )

    # ------------------------------------------------------------------------------------------ a full disk

    async def _find_room(self) -> None:
        """Remove delivered entries, the oldest first, and free pages, until the reserve fits again."""
        pruned, more = 0, True
        try:
            while more and not await self._store.writer.capacity.regain() and not self._stop.is_set():
                removed = await _pruned(self._store, queries.PRUNE_DELIVERED, _END_OF_TIME_MS, _ROWS)
                more = await shrink_step(self._store, _PAGES, keep=0) or bool(removed)
                await self._store.empty_wal()
                pruned += removed
        finally:
            if pruned and (news := self._repeating.news("pruned early")) is not None:
                logger.warning("delivered entries pruned early", extra={"rows": pruned, **news})
            self._notice(reserve_released_ms=self._store.writer.capacity.short)

    # ------------------------------------------------------------------------------------------ a long WAL

    async def _shorten_wal(self) -> None:
        """Empty a WAL that has grown; if a reader is in the way, say so."""
        held = False
        if await in_thread(files.file_bytes, self._wal) > _LONG_WAL_BYTES:
            held = (await self._store.checkpoint()).held_back
            if not held:
                await self._store.empty_wal()
        if held and self.notices.checkpoint_held_ms is None:
            size = await in_thread(files.file_bytes, self._wal)
            logger.warning("checkpoint held back by a reader", extra={"wal_bytes": size})
        self._notice(checkpoint_held_ms=held)


async def prune(store: Store, before_ms: int, *, stop: asyncio.Event | None = None) -> int:
    """Remove, step by step, what was settled before `before_ms`; return how many entries. `stop` ends it early."""
    pruned, more = 0, True
    while more and not (stop is not None and stop.is_set()):
        step = await prune_step(store, before_ms, _STEP_ROWS)
        pruned, more = pruned + step, step == _STEP_ROWS
    return pruned


async def shrink(store: Store, *, stop: asyncio.Event | None = None) -> None:
    """Give free pages back to the disk, step by step, except the few that the next rows will fill."""
    while not (stop is not None and stop.is_set()) and await shrink_step(store, _STEP_PAGES, keep=_KEPT_PAGES):
        pass


async def prune_step(store: Store, before_ms: int, limit: int) -> int:
    """Remove up to `limit` entries that were settled before `before_ms`, and return how many that were."""
    if not await store.read(queries.PRUNABLE.sql, (before_ms,)):
        return 0  # an idle outbox is not even locked
    return await _pruned(store, queries.PRUNE, before_ms, limit)


async def shrink_step(store: Store, pages: int, *, keep: int) -> bool:
    """Give up to `pages` free pages back to the disk, but leave `keep` of them; return whether there may be more.

    False too for a file that cannot shrink: one that was made without auto_vacuum.
    """
    free = await free_pages(store)
    if free <= keep:
        return False  # an idle outbox is not even locked
    # A script: this pragma gives a page back at each step of its statement, and Python's `execute` takes one.
    sql = f"pragma incremental_vacuum({min(pages, free - keep)})"
    await store.writer.run_exclusive(lambda connection: connection.executescript(sql))
    return keep < await free_pages(store) < free


async def free_pages(store: Store) -> int:
    """Return how many pages of the file hold nothing."""
    return int((await store.read("pragma freelist_count"))[0][0])


async def _pruned(store: Store, query: queries.Query, before_ms: int, limit: int) -> int:
    """Remove up to `limit` entries of the query's that are older, the oldest first, in one transaction."""

    async def work(connection: aiosqlite.Connection) -> int:
        return (await connection.execute(query.sql, (before_ms, limit))).rowcount

    return await store.transact(work)


async def _note(store: Store, notices: Notices) -> None:
    """Record in the file what an onlooker should know of it; a file that says so already is not written to."""
    if await store.notices() != notices:
        await store.state(notices.facts())
