"""Opens an outbox file for writing, whatever has happened to it since it was last closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from outbox import logs
from outbox.clock import Clock
from outbox.errors import NotADatabase, StoreCorrupt, StoreError, StoreInUse
from outbox.recovery import clean_close, probe, quarantine
from outbox.recovery.judge import Wal
from outbox.store import database, files, queries
from outbox.store.capacity import Bounds, Capacity
from outbox.store.commits import Guard
from outbox.store.file_watch import FileWatch
from outbox.store.lock import WriterLock
from outbox.store.migrate import migrate
from outbox.store.sidecar import Sidecar, Written
from outbox.store.store import OpenedFile, Store
from outbox.threads import in_thread

T = TypeVar("T")

logger: logs.Logger = logs.named("outbox.store")

# A bot whose rows keep changing their columns has thousands of lanes: the others are learned when they are met.
_FIRST_LANES = "limit 256"
# Every run reads these, so damage there is found before the file is used.
_LOOKED_AT = (
    queries.COUNTS.sql,
    f"{queries.READY_LANES.sql} {_FIRST_LANES}",
    queries.PAUSES.sql,
    queries.NEXT_DUE.sql,
)
# Only the length of its text: a shell may have put any bytes, and refusing them is the flusher's task.
_NEWEST = "select seq, length(payload) from outbox order by seq desc limit 1"
_PAGE_BYTES = 4096  # of a file that SQLite has just made


async def open_store(
    path: Path,
    *,
    clock: Clock,
    busy_timeout_s: float = 5.0,
    wait_s: float = 0.0,
    bounds: Bounds = Bounds(),  # noqa: B008 - it is frozen
) -> Store:
    """Open `path` for writing; create and migrate it if needed.

    wait_s: seconds to wait for another process to release it. bounds: how much may be stored. If cancelled, the open
    still finishes and is then undone: it may be checkpointing what an earlier run left. Raises StoreInUse and every
    StoreError that says what is wrong with the file; a file that is not ours is never touched.
    """
    path = await in_thread(files.real_path, path)
    await in_thread(files.refuse_odd_files, path)
    await in_thread(files.make_folder, path.parent)
    await in_thread(files.refuse_second_path, path)
    lock = await _take_lock(path, wait_s)
    opening = _opened(path, lock, Capacity(path, bounds), clock, busy_timeout_s)
    return await _to_its_end(asyncio.create_task(opening, name="outbox-open"), undo=Store.close)


async def _opened(path: Path, lock: WriterLock, capacity: Capacity, clock: Clock, busy_timeout_s: float) -> Store:
    try:
        await capacity.prepare()  # on a full disk nothing can be opened without the reserve's space
        watch = FileWatch(path, lock.holds)
        entered = await _enter(path, lock.sidecar, watch, clock=clock, busy_timeout_s=busy_timeout_s)
        guard = Guard(lock, watch, lambda *found: quarantine.rescue(path, *found, now_ms=clock.now_ms()))
        return Store(path, guard, entered, capacity, clock=clock, busy_timeout_s=busy_timeout_s)
    except BaseException:
        lock.release()
        raise


async def _enter(path: Path, sidecar: Sidecar, watch: FileWatch, *, clock: Clock, busy_timeout_s: float) -> OpenedFile:
    """Open `path`, whose lock is held. A damaged file that held only the outbox is set aside, never deleted.

    Raises StoreCorrupt, NotADatabase: it is damaged or no outbox, and was not touched; and every other StoreError.
    """
    before, now_ms = sidecar.before, clock.now_ms()
    try:
        wal = await in_thread(_examined, path, before, now_ms)
        if wal is not Wal.STRANGE:
            is_new, is_there = await in_thread(lambda: (not files.file_bytes(path), path.exists()))
            if is_new:  # interrupted while being made, it must not look like one that lost everything
                await in_thread(_written_down, sidecar.forget)
            try:
                opened = await _opened_file(path, sidecar, watch, before, wal, clock, busy_timeout_s)
            except BaseException:
                if not is_there:
                    await in_thread(_remove_unfinished, path)
                raise
            return opened._replace(is_new=is_new)
    except (StoreCorrupt, NotADatabase) as error:
        await in_thread(quarantine.set_aside, path, error, before.facts, now_ms=now_ms)
        await in_thread(_written_down, sidecar.forget)
        return await _opened_file(path, sidecar, watch, Written(mark=before.mark), Wal.FITS, clock, busy_timeout_s)
    await in_thread(quarantine.set_wal_aside, path, before.facts, now_ms=now_ms)
    return await _opened_file(path, sidecar, watch, before, Wal.MISSING, clock, busy_timeout_s)


def _remove_unfinished(path: Path) -> None:
    """Delete a file that an opening made but could not finish, as on a full disk, if it holds no table."""
    if _has_no_table(path):
        with contextlib.suppress(OSError):
            for each in reversed(files.with_its_own(path)):  # the database last: alone it is an empty file
                each.unlink(missing_ok=True)


def _has_no_table(path: Path) -> bool:
    # A table has a page of its own behind the first. Where not even a -shm fits, SQLite could not say it.
    if files.file_bytes(path) <= _PAGE_BYTES and not files.file_bytes(files.wal_path(path)):
        return True
    try:
        with contextlib.closing(database.plain_connection(path)) as connection:
            return not connection.execute("select 1 from sqlite_schema limit 1").fetchall()
    except database.SqliteError:  # its content is unknown: the next opening judges it
        return False


def _behind_what_was_set_aside(path: Path, mark: int | None) -> int:
    """Return the number after which a new file's numbers begin: salvaged entries keep the numbers that they had."""
    beside = probe.found_beside(path)
    return max(mark or 0, *(probe.main_file(each).seq for each in beside)) + clean_close.GAP if beside else 0


def _examined(path: Path, before: Written, now_ms: int) -> Wal:
    """Return how the -wal matches the file. Raises StoreCorrupt, NotADatabase: it must not be opened."""
    facts = before.facts
    error = quarantine.refuse_lost_head(path, facts)
    if error is not None:
        raise error
    quarantine.set_stray_aside(files.journal_path(path), now_ms=now_ms)
    if files.has_journal(path):
        probe.refuse_foreign_journal(path)
        probe.undo_half(path)
    if not files.file_bytes(path):
        return Wal.FITS
    main = probe.main_file(path)
    if main.file is not None:
        quarantine.set_stray_aside(files.wal_path(path), now_ms=now_ms)
    if facts is not None and facts.damage is not None and main.file in (None, facts.file):
        said = probe.complaint(path)
        if said is not None:
            raise StoreCorrupt(f"{path} is damaged: {said}", path=path)
        told = {"path": str(path), "error": facts.damage}
        logger.warning("damage reported in the last run is gone", extra=told)
    mark = before.mark_of(main.file)
    wal = probe.how_wal_goes(path, main, mark)
    if wal is Wal.STRANGE and not probe.wal_belongs(path, main):
        return wal
    error = probe.first_look(path, (*_LOOKED_AT, _NEWEST))
    if error is not None:
        raise error
    short = mark is not None and main.seq < mark and probe.wal_salt(path) is not None
    if mark is not None and short and probe.seq_with_wal(path) < mark:
        quarantine.keep_wal(path, now_ms=now_ms)
    return Wal.FITS if wal is Wal.STRANGE else wal


async def _opened_file(
    path: Path, sidecar: Sidecar, watch: FileWatch, before: Written, wal: Wal, clock: Clock, busy_timeout_s: float
) -> OpenedFile:
    writer = await database.open_writer(path, busy_timeout_s=busy_timeout_s, watch=watch)
    try:
        await migrate(writer, path, now_ms=clock.now_ms())
        lanes = list(await writer.execute_fetchall(f"{queries.LANES.sql} {_FIRST_LANES}"))
        plain = not list(await writer.execute_fetchall(queries.OWN_TRIGGERS))
        for sql in (*_LOOKED_AT, _NEWEST):
            await writer.execute_fetchall(sql)
        start_after = await in_thread(_behind_what_was_set_aside, path, before.mark)
        facts, seq = await clean_close.begin(
            writer, path, before, wal=wal, start_after=start_after, now_ms=clock.now_ms()
        )
        await in_thread(_written_down, partial(sidecar.begin, facts, seq))
        reader = await database.open_reader(path, busy_timeout_s=busy_timeout_s)
        watch.remember()
    except FileNotFoundError as error:
        await writer.close()
        raise StoreError(f"{error.filename} vanished while {path} was being opened; try again", path=path) from error
    except database.SqliteError as error:
        await writer.close()
        raise database.named(error, path, waited_s=busy_timeout_s) from error
    except BaseException:
        await writer.close()
        raise
    return OpenedFile(writer, reader, lanes, seq, plain)


def _written_down(write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:  # a full disk must not keep the bot from its existing rows
        logger.warning("lock sidecar cannot be written", extra={"error": str(error.strerror)})


# ------------------------------------------------------------------------------------------ the lock, and cancellation


async def _take_lock(path: Path, wait_s: float) -> WriterLock:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreInUse),
        stop=stop_after_delay(wait_s),
        wait=wait_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    )
    return await retrying(_lock_in_thread, path)


async def _lock_in_thread(path: Path) -> WriterLock:
    async def give_back(lock: WriterLock) -> None:
        lock.release()

    attempt = asyncio.create_task(in_thread(WriterLock, path))
    return await _to_its_end(attempt, undo=give_back)


async def _to_its_end(work: asyncio.Future[T], *, undo: Callable[[T], Awaitable[None]]) -> T:
    """Return the result of `work`. A caller that is cancelled meanwhile still waits for it, and then undoes it.

    A thread cannot be stopped, and no file may stay half open: the cancelled caller may open it again.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # A task of its own, so that a second cancellation does not prevent the undo.
        await asyncio.shield(asyncio.ensure_future(_undone(work, undo)))
        raise


async def _undone(work: asyncio.Future[T], undo: Callable[[T], Awaitable[None]]) -> None:
    await asyncio.wait({work})
    if work.cancelled() or work.exception() is not None:
        return
    try:
        await undo(work.result())
    except Exception:  # the caller is to see its cancellation, not this error
        logger.exception("cleanup after a cancelled open failed")
