"""How the file is opened: durable or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import aiosqlite

from outbox import logs
from outbox.clock import SystemClock
from outbox.errors import NotDurable, StoreError, WrongJournalMode
from outbox.store import files
from outbox.store.file_watch import FileWatch
from outbox.store.sqlite import (
    DAMAGE as DAMAGE,
    EXPOSED_TO_WAL_RESET_BUG as EXPOSED_TO_WAL_RESET_BUG,
    ErrorClass as ErrorClass,
    SqliteError as SqliteError,
    classify_error as classify_error,
    exposed_to_wal_reset_bug as exposed_to_wal_reset_bug,
    named as named,
    plain_connection as plain_connection,
    readable as readable,
)
from outbox.threads import in_thread

T = TypeVar("T")

logger: logs.Logger = logs.named("outbox.store")
_repeating = logs.Repeating(SystemClock())

# 2 is FULL: SQLite syncs the WAL at every commit (sqlite.org/pragma.html#pragma_synchronous).
_FULL = 2
# One text per group size up to 128 puts, and the rest of the queries.
_CACHED_STATEMENTS = 256
_NEEDED_VERSION = (3, 38, 0)
_HIGHEST = 2**63 - 1
# No outbox ever counted up to 2^62.
_RENUMBER = (
    "update outbox set seq = seq - (select min(seq) from outbox where seq >= 1 << 62)"
    " + 1 + (select coalesce(max(seq), 0) from outbox where seq < 1 << 62) where seq >= 1 << 62;"
    " update sqlite_sequence set seq = (select max(seq) from outbox) where name = 'outbox'"
)
_IS_OUTBOX = "select 1 from sqlite_schema where name = 'outbox_migrations'"


# aiosqlite says ValueError when the connection is closed, which rolls back too.
_NO_ROLLBACK: tuple[type[Exception], ...] = (ValueError, *SqliteError)


class Checkpoint(NamedTuple):
    """What a checkpoint did. frames: in the WAL; done: of these, how many are in the database and synced.

    blocked: it waited for other connections, in vain.
    """

    blocked: bool
    frames: int
    done: int

    @property
    def held_back(self) -> bool:
        """Whether somebody still reads what it would have overwritten."""
        return self.done < self.frames


class _Watched(sqlite3.Connection):
    """Looks at the files after each statement that leaves no transaction open: so after each commit."""

    watch: FileWatch | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.watch is not None and not self.in_transaction:
            self.watch.look_for_cut()
        cursor = super().execute(sql, parameters)
        if self.watch is not None and not self.in_transaction:
            self.watch.look()
        return cursor

    def close(self) -> None:
        if self.watch is not None:
            self.watch.forget()
        super().close()


class _Connection(aiosqlite.Connection):
    """stopped: done once its thread has ended; None: nobody has told it to end."""

    stopped: asyncio.Future[None] | None = None

    def stop(self) -> asyncio.Future[None] | None:
        self.stopped = super().stop()
        return self.stopped


async def connect(
    path: Path, *, readonly: bool, busy_timeout_s: float, immutable: bool = False, watch: FileWatch | None = None
) -> aiosqlite.Connection:
    """Return a connection in autocommit mode. Raises the engine's own errors: the caller names them.

    watch: looks after each commit, in SQLite's thread, before whoever waits for it continues.
    """

    def connector() -> sqlite3.Connection:
        connection = sqlite3.connect(
            files.uri(path, "ro" if readonly else "rw", immutable=immutable),
            factory=_Watched,
            uri=True,
            isolation_level=None,
            timeout=busy_timeout_s,
            cached_statements=_CACHED_STATEMENTS,
            check_same_thread=False,
        )
        connection.watch = watch
        return connection

    connection = _Connection(connector, iter_chunk_size=64)
    # aiosqlite's thread, which before 0.22 is the connection itself, is no daemon: Python would wait for ever at exit
    # for a connection that nobody closed.
    thread: Any = getattr(connection, "_thread", connection)
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        if connection.stopped is not None:  # nobody else waits for that answer, which may find the loop closed
            await connection.stopped
        raise


async def run(connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` on the connection, in its thread: one hop, whatever it asks. Raises the engine's own errors."""
    return cast("T", await connection._execute(work, connection._conn))  # type: ignore[no-untyped-call]


async def pragma(connection: aiosqlite.Connection, text: str) -> object:
    """Run `pragma {text}` and return the first value of its answer, or None."""
    rows = list(await connection.execute_fetchall(f"pragma {text}"))
    return rows[0][0] if rows else None


async def interrupt(connection: aiosqlite.Connection) -> None:
    """Let the statement that runs now, if any, fail; its transaction is rolled back."""
    with contextlib.suppress(ValueError, *SqliteError):  # it is closed already
        await connection.interrupt()


async def roll_back(connection: aiosqlite.Connection) -> None:
    """End the transaction, if one is open; SQLite may have ended it by itself. A failure is logged.

    SQLite's thread decides: a cancelled await does not stop it, so the transaction that the connection reports to the
    event loop at this moment may be over when a `rollback` gets there, or have only just begun.
    """
    try:
        await connection.rollback()
    except _NO_ROLLBACK as error:
        if (news := _repeating.news("rollback failed", str(error))) is not None:
            logger.warning("rollback failed", extra={"error": str(error), **news})


@contextlib.asynccontextmanager
async def transaction(connection: aiosqlite.Connection) -> AsyncIterator[None]:
    """Commit what the block does, or roll all of it back if it raises."""
    try:
        await connection.execute("begin immediate")
        yield
        await connection.execute("commit")
    except BaseException:
        await roll_back(connection)
        raise


async def checkpoint(connection: aiosqlite.Connection, mode: Literal["passive", "full", "truncate"]) -> Checkpoint:
    """Bring the WAL into the database. passive: as far as readers let it; full: wait for them; truncate: and empty it.

    Raises the engine's own errors.
    """
    rows = list(await connection.execute_fetchall(f"pragma wal_checkpoint({mode})"))
    blocked, frames, done = rows[0]
    return Checkpoint(bool(blocked), frames, done)


async def empty_wal(connection: aiosqlite.Connection) -> Checkpoint:
    """Bring the WAL into the database and make it an empty file, unless somebody reads it; waits for nobody.

    Raises the engine's own errors.
    """
    waits_ms = await pragma(connection, "busy_timeout")
    await pragma(connection, "busy_timeout = 0")
    try:
        return await checkpoint(connection, "truncate")
    finally:
        await pragma(connection, f"busy_timeout = {waits_ms}")


async def open_writer(path: Path, *, busy_timeout_s: float, watch: FileWatch | None = None) -> aiosqlite.Connection:
    """Return the read-write connection: WAL, synchronous=FULL, set and read back. watch: as of `connect`.

    Creates the file (0600) where it is missing; its folder must be there.
    Raises NotADatabase, WrongJournalMode, NotDurable, StoreBusy, StoreError; each says what became of the file.
    """
    if sqlite3.sqlite_version_info < _NEEDED_VERSION:
        raise NotDurable(f"SQLite {sqlite3.sqlite_version} is too old; 3.38.0 or newer is needed", path=path)
    await in_thread(files.create_file, path)

    async def prepare(connection: aiosqlite.Connection) -> None:
        await make_durable(connection, path)
        await _settle_wal(connection)

    return await _opened(path, prepare, readonly=False, busy_timeout_s=busy_timeout_s, watch=watch)


async def open_reader(path: Path, *, busy_timeout_s: float, immutable: bool = False) -> aiosqlite.Connection:
    """Return a connection that cannot write. Raises what `open_writer` raises.

    immutable: take no locks and make no -wal and -shm files; only right while nobody else writes.
    """

    async def prepare(connection: aiosqlite.Connection) -> None:
        # A shell may put any bytes, which SQLite never checks: one such row must not keep all others from being read.
        connection.text_factory = readable
        await pragma(connection, "schema_version")

    return await _opened(path, prepare, readonly=True, busy_timeout_s=busy_timeout_s, immutable=immutable)


async def _opened(
    path: Path, prepare: Callable[[aiosqlite.Connection], Awaitable[None]], *, busy_timeout_s: float, **how: Any
) -> aiosqlite.Connection:
    """Return a connection, as `connect`, once `prepare` has done its part. Its errors are this library's."""
    try:
        connection = await connect(path, busy_timeout_s=busy_timeout_s, **how)
        try:
            await prepare(connection)
        except BaseException:
            await connection.close()
            raise
    except SqliteError as error:
        raise named(error, path, waited_s=busy_timeout_s) from error
    return connection


async def make_durable(connection: aiosqlite.Connection, path: Path) -> None:
    """Set what durability needs and read it back; a database that is not ours is not converted."""
    # The first read: a file that is no database fails here, before anything is written.
    empty = not list(await connection.execute_fetchall("select 1 from sqlite_schema limit 1"))
    if empty:
        # Before the first table, or never: lets the file shrink again after a long outage.
        await pragma(connection, "auto_vacuum = incremental")
        await pragma(connection, "journal_mode = wal")
    mode = await pragma(connection, "journal_mode")
    if mode != "wal" and list(await connection.execute_fetchall(_IS_OUTBOX)):
        # A copy made with VACUUM INTO, put in its place: an outbox in use never has another mode.
        mode = await pragma(connection, "journal_mode = wal")
    if mode != "wal" and empty:
        raise NotDurable(f"{path}: SQLite granted journal_mode={mode}, wal is needed; nothing was written", path=path)
    if mode != "wal":
        # A live file's journal mode must not change under other connections, and idle ones cannot be seen.
        raise WrongJournalMode(
            f"{path} holds another program's tables and is in journal mode {mode!r}, the outbox needs 'wal';"
            f' it was not changed. Stop what uses it and run once: sqlite3 "{path}" "pragma journal_mode=wal"'
            " — or give the outbox a file of its own",
            path=path,
        )
    # fullfsync matters on macOS alone: fsync there does not reach the platter (sqlite.org/pragma.html).
    for setting, wanted in (("synchronous", _FULL), ("fullfsync", 1), ("checkpoint_fullfsync", 1)):
        await pragma(connection, f"{setting} = {wanted}")
        granted = await pragma(connection, setting)
        if granted != wanted:
            raise NotDurable(
                f"{path}: SQLite granted {setting}={granted}, {wanted} is needed; nothing was written", path=path
            )


async def _settle_wal(connection: aiosqlite.Connection) -> None:
    """Bring what an earlier process left in the WAL into the database before anything is acknowledged.

    That process may have died after a failed sync. The kernel then shows pages that never reached disk; SQLite would
    write behind them, and after a power loss read no further than the hole that they left.
    """
    try:
        await checkpoint(connection, "passive")
    except SqliteError as error:
        if classify_error(error) is not ErrorClass.FULL:
            raise
        # What is in the WAL stays there; a full disk must not keep the flusher from what it can deliver.
        logger.warning("disk full, WAL left in place")


async def no_numbers(connection: aiosqlite.Connection, path: Path) -> StoreError | None:
    """Return what to say if an entry has the highest number that there is: SQLite calls the next one a full disk."""
    try:
        rows = await connection.execute_fetchall("select seq from sqlite_sequence where name = 'outbox'")
    except _NO_ROLLBACK:
        return None
    if (_HIGHEST,) not in list(rows):
        return None
    return StoreError(
        f"{path}: no number is left for another entry, since a row was put with a seq near {_HIGHEST}; nothing was"
        " written, what is pending is still sent. Give such rows the next free numbers, also while the bot runs:"
        f' sqlite3 "{path}" "{_RENUMBER}"',
        path=path,
    )
