"""Floor 6 · api. `Outbox`: opens, wires, closes. What a bot calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import random
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiosqlite

from outbox.clock import Clock, SystemClock
from outbox.encoding import identifier
from outbox.entry import Destination, Entry, Operation, State, mint_id
from outbox.errors import (
    ConfigError,
    ForeignLoop,
    ForkedProcess,
    InsideTransaction,
    OutboxClosed,
    OutboxError,
    OutboxFull,
)
from outbox.flusher import Flusher, FlusherState, Limits
from outbox.maintenance import Housekeeper
from outbox.operations import Operations, selection
from outbox.policy.reading import checked_path, rows_of
from outbox.policy.shaping import Written, member, written
from outbox.settings import Settings
from outbox.store import connection as door
from outbox.store.block import Block, refuse_control
from outbox.store.desk import Desk
from outbox.store.glance import Glance
from outbox.store.operators import Handled
from outbox.store.reader import Shown
from outbox.store.store import Store, StoredPause
from outbox.store.writer import Receipt, find_lane, insert_one
from outbox.transport import PostgrestTransport, Request, Transport

logger = logging.getLogger("outbox")

# The old module's tables (supabase_sql/), and which of their columns PostgreSQL holds as INT.
_DECLARED = (
    Destination("trades", integers=frozenset({"direction", "intensity", "hmm_state"})),
    Destination("events"),
    Destination("sessions", on_conflict=("session_id",), integers=frozenset({"total_trades", "version"})),
)
# A page of 1,000 rows has some hundred kilobytes; this is what one answer to a read may take in memory.
_LONGEST_READ = 64 * 1024 * 1024
# How long a stopping flusher may finish what is under way; after that it stays pending.
_GRACE_S = 5.0
# Payloads fetched in one step, so that the event loop goes on.
_PAGE_ROWS = 200


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What `drain` did. delivered: entries in this drain. pending, dead: entries now. seconds: how long it took.

    timed_out: the deadline came while something was still pending.
    """

    delivered: int
    pending: int
    dead: int
    seconds: float
    timed_out: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """The outbox at a glance. Counts are entries; ages are seconds; sizes are bytes."""

    path: Path
    pending: int
    delivered: int
    dead: int
    discarded: int
    pruned: int
    removed: int
    oldest_pending_age_s: float | None
    postponed: int  # of the pending ones, those that wait for a row of their own or are stuck; counted up to 1,000
    paused: str | None
    pauses: tuple[StoredPause, ...]
    destinations: Mapping[str, Mapping[str, int]]
    flusher: FlusherState
    wal_bytes: int
    db_bytes: int
    sqlite_version: str
    exposed_to_wal_reset_bug: bool
    warnings: tuple[str, ...] = field(default=())


class PutFuture(asyncio.Future[Receipt]):
    """What `put_nowait` returns. Await it or not: a failure that nobody looks at is logged."""

    def __init__(self, what: str, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._watched = False
        super().add_done_callback(_log_unwatched(what))

    def __await__(self) -> Generator[Any, None, Receipt]:
        self._watched = True
        return super().__await__()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        self._watched = True
        super().add_done_callback(fn, context=context)


def _log_unwatched(what: str) -> Callable[[asyncio.Future[Receipt]], None]:
    def log(future: asyncio.Future[Receipt]) -> None:
        assert isinstance(future, PutFuture)
        if not future._watched and not future.cancelled() and (error := future.exception()) is not None:
            logger.error("put_nowait failed for %s: %s", what, error)

    return log


# Which blocks the current task stands in, so that a put that would wait for itself is told so.
_inside: ContextVar[tuple[tuple[Outbox, Block], ...]] = ContextVar("outbox_transactions", default=())


class Transaction:
    """What `outbox.transaction()` gives: all of it is stored, or nothing. Durable once the block has ended."""

    def __init__(self, outbox: Outbox, block: Block) -> None:
        self._outbox = outbox
        self._block = block
        self._watchers: list[Callable[[bool], object]] = []

    def when_over(self, watcher: Callable[[bool], object]) -> None:
        """Call `watcher` once the block has ended: with True if it was committed, else (or if unknown) with False.

        For objects that follow the transaction in memory, such as `SessionManager`. It must neither raise nor wait.
        """
        self._watchers.append(watcher)

    def _over(self, committed: bool) -> None:
        for watcher in reversed(self._watchers):  # as what they undo was done: the last one first
            watcher(committed)

    async def put(
        self,
        destination: str,
        row: object,
        *,
        operation: str | Operation | None = None,
        key: object = None,
        id: object = None,
        on_conflict: Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
    ) -> Receipt:
        """Put one entry as part of the transaction. Arguments and errors as `Outbox.put`."""
        ready = self._outbox._written(destination, row, operation, key, id, on_conflict, match)
        entry = self._outbox._entry(ready)

        async def work(connection: aiosqlite.Connection) -> Receipt:
            lane = entry.lane
            if lane is None:  # made in this transaction, and rolled back with it
                lane = await find_lane(connection, ready.intent.shape)
            receipt = await insert_one(connection, entry._replace(lane=lane), self._outbox._store.path)
            self._block.ids.append(receipt.id)
            return receipt

        return await self._block.run(work)

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement of the bot's own in the same file and return its rows.

        Raises InvalidEntry: BEGIN, COMMIT, ATTACH, PRAGMA and their like; StoreError: SQLite refused it.
        """
        refuse_control(sql)

        async def work(connection: aiosqlite.Connection) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await connection.execute_fetchall(sql, parameters)]

        return await self._block.run(work)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each of `rows`; errors as `execute`. One that fails leaves those before it done.

        The transaction's time limit counts: split what is large into several transactions.
        """
        refuse_control(sql)

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.executemany(sql, rows)

        await self._block.run(work)


class _Opening:
    """`await Outbox.open(…)` gives an outbox to close; `async with Outbox.open(…) as outbox` closes it."""

    def __init__(self, start: Callable[[], Awaitable[Outbox]]) -> None:
        self._start = start
        self._outbox: Outbox | None = None

    def __await__(self) -> Generator[Any, None, Outbox]:
        return self._start().__await__()

    async def __aenter__(self) -> Outbox:
        self._outbox = await self._start()
        return self._outbox

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._outbox is not None
        await self._outbox.close()


class Outbox:
    """The durable outbox: `put` returns once the row is on disk; the flusher brings it to Supabase.

    Belongs to the event loop that opened it. Make one with `Outbox.open`.
    """

    def __init__(self, store: Store, settings: Settings, *, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._destinations = {destination.name: destination for destination in _DECLARED}
        self._waiting = 0
        self._draining: asyncio.Task[None] | None = None  # a flusher that runs for drains alone
        self._drains = 0
        self._glance = Glance(store.path)
        self._transport: Transport | None = None
        self._fixed_transport = False
        self._flusher = Flusher(
            store,
            self._current_transport,
            self.destination,
            clock=clock,
            draw=random.random,
            limits=_limits(settings),
        )
        flusher = self._flusher.state
        self._operations = Operations(store, clock=clock, sending=lambda: flusher.running)
        self._desk: Desk | None = None
        self._housekeeper: Housekeeper | None = None

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        wait_s: float = 0.0,
        clock: Clock | None = None,
        transport: Transport | None = None,
    ) -> _Opening:
        """Open the outbox file for writing; create and migrate it if need be.

        settings: else read from the environment and `.env`. path: instead of the settings'. wait_s: seconds to wait
        for another process that has it open. clock, transport: instead of the machine's and Supabase's, for tests
        (`outbox.testing`). Raises ConfigError, StoreInUse, and the StoreError that says what is wrong with the file.
        """

        async def start() -> Outbox:
            if settings is not None and path is not None:
                raise ConfigError("path is given twice: as an argument and in the settings", field="path")
            given: dict[str, Any] = {} if path is None else {"path": path}
            # Reading .env is I/O, if only a little.
            chosen = await asyncio.to_thread(Settings, **given) if settings is None else settings
            return await cls._open(chosen, wait_s, clock or SystemClock(), transport)

        return _Opening(start)

    @classmethod
    async def _open(cls, settings: Settings, wait_s: float, clock: Clock, transport: Transport | None) -> Outbox:
        # aiosqlite logs every statement with its parameters, which are payloads.
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)
        store = await Store.open(
            settings.path.absolute(), clock=clock, busy_timeout_s=settings.busy_timeout_s, wait_s=wait_s
        )
        outbox = cls(store, settings, clock=clock)
        try:
            if transport is not None:
                outbox._transport, outbox._fixed_transport = transport, True
            else:
                outbox._connect(settings)
            await store.keep_strict_order(settings.strict_order)
            await outbox._flusher.load()
            # The machine's own clock: other processes, which leave the requests, have no other.
            actions = outbox._operations.actions(_reload(outbox))
            outbox._housekeeper = Housekeeper(store, clock=clock, retention_days=settings.retention_days)
            outbox._desk = Desk(store.path, actions, clock=SystemClock(), poll_s=settings.poll_s)
        except BaseException:
            await outbox.close()
            raise
        _log_engine()
        for warning in () if outbox._fixed_transport else settings.warnings:
            logger.warning("%s", warning)
        return outbox

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the flusher, commit what stands in line, close the file. What is pending stays pending. Idempotent."""
        if os.getpid() != self._pid:
            return  # a fork has neither the threads nor the locks; file and connections are the parent's
        if self._closing is None:
            self._loop_is_here()
            self._closed = True
            self._closing = asyncio.create_task(self._shut(), name="outbox-close")
        # Cancelling one of its callers must not leave the file half closed.
        await asyncio.shield(self._closing)

    async def _shut(self) -> None:
        try:
            await self._flusher.shut_down(_GRACE_S)
            if self._desk is not None:
                await self._desk.stop(_GRACE_S)
            if self._housekeeper is not None:
                await self._housekeeper.stop()
            self._glance.close()
            await self._store.close()
        finally:
            if self._transport is not None:
                await self._transport.aclose()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._pid:
            warnings.warn(f"{self!r} was never closed; use `async with Outbox.open(…)`", ResourceWarning, stacklevel=1)

    def __repr__(self) -> str:
        return f"<Outbox {self._store.path}{' closed' if self._closed else ''}>"

    # ------------------------------------------------------------------------------------------ writing

    async def put(
        self,
        destination: str,
        row: object,
        *,
        operation: str | Operation | None = None,
        key: object = None,
        id: object = None,
        on_conflict: Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
    ) -> Receipt:
        """Store one row for `destination` and return once it is on disk, safe from a crash and a power loss.

        row: a mapping, dataclass or pydantic model; it is encoded before this returns to the event loop, so the
        caller may change it at once. operation: "insert" (the default of most destinations), "upsert" (decided by
        `on_conflict` or the destination's) or "update" (of the rows that `match` says). key: entries with the same
        destination and key arrive in the order of their puts; an upsert or update has one by itself. id: the
        idempotency key, minted unless given; the same id again stores one row.

        Raises InvalidEntry, IdConflict: nothing was written, the message names the field. StoreBusy, DiskFull,
        OutcomeUnknown, StoreError: what became of it. UsageError: called from where it cannot work.
        """
        self._check_caller()
        ready = self._written(destination, row, operation, key, id, on_conflict, match)
        return await self._store.put(self._entry(ready), ready.intent.shape)

    def put_nowait(
        self,
        destination: str,
        row: object,
        *,
        operation: str | Operation | None = None,
        key: object = None,
        id: object = None,
        on_conflict: Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
    ) -> PutFuture:
        """Line one row up and return at once. NOT durable before the returned future is done: await it to know.

        At most `max_waiting` of them may wait for their commit; one more raises OutboxFull. Other errors as `put`:
        what is wrong with the row is raised here, what is wrong with the disk by the future.
        """
        self._check_caller()
        if self._waiting >= self._settings.max_waiting:
            raise OutboxFull(path=self._store.path, field="max_waiting", limit=self._settings.max_waiting)
        ready = self._written(destination, row, operation, key, id, on_conflict, match)
        entry = self._entry(ready)
        future = PutFuture(f"{destination} {entry.id}", loop=self._loop)
        self._store.line_up(entry, ready.intent.shape, future)
        self._waiting += 1
        asyncio.Future.add_done_callback(future, self._left_line)
        return future

    def _left_line(self, _: object) -> None:
        self._waiting -= 1

    def put_threadsafe(
        self,
        destination: str,
        row: object,
        *,
        operation: str | Operation | None = None,
        key: object = None,
        id: object = None,
        on_conflict: Sequence[str] | None = None,
        match: Mapping[str, object] | None = None,
    ) -> concurrent.futures.Future[Receipt]:
        """The same from another thread: `put_threadsafe(…).result()` returns once the row is on disk.

        The row is encoded in the calling thread. Waiting for the result on the event loop's own thread would
        wait for ever.
        """
        self._check_process()
        self._check_outside()  # asyncio.to_thread takes the block along
        ready = self._written(destination, row, operation, key, id, on_conflict, match)
        entry = self._entry(ready)

        async def store() -> Receipt:
            return await self._store.put(entry, ready.intent.shape)

        work = store()
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise OutboxClosed("the outbox's event loop is closed; nothing was written") from error

    @contextlib.asynccontextmanager
    async def transaction(self, *, limit_s: float | None = None) -> AsyncIterator[Transaction]:
        """All or nothing, one commit: entries, session state and the bot's own SQL in the same file.

        Every other put waits meanwhile: `limit_s` (the settings' `transaction_limit_s`, 2 s) bounds it, after which
        all is rolled back. Raises TransactionExpired, StoreBusy, DiskFull, OutcomeUnknown, and what the block raises.
        """
        self._check_caller()
        block = self._store.block(self._settings.transaction_limit_s if limit_s is None else limit_s)
        await block.begin()
        token = _inside.set((*_inside.get(), (self, block)))
        tx, committed = Transaction(self, block), False
        try:
            yield tx
        except BaseException:
            # What the block raised is what its caller must hear, above all a cancellation; nothing was written.
            with contextlib.suppress(OutboxError):
                await block.end(commit=False)
            raise
        else:
            await block.end(commit=True)
            committed = True
        finally:
            _inside.reset(token)
            tx._over(committed)

    def register(
        self,
        name: str,
        *,
        key: str = "id",
        on_conflict: Sequence[str] = (),
        operation: str | Operation = Operation.INSERT,
        integers: Sequence[str] = (),
    ) -> Destination:
        """Declare a destination. key: the column that an insert fills with the entry's id; the rest as `put`.

        integers: columns that PostgreSQL holds as integers, where 1.0 must be sent as 1. Raises InvalidEntry.
        """
        if isinstance(on_conflict, str) or isinstance(integers, str):
            raise ConfigError("must be a sequence of column names, not one text", field="on_conflict or integers")
        destination = Destination(
            identifier(name, field="name"),
            key=identifier(key, field="key"),
            on_conflict=tuple(identifier(column, field="on_conflict") for column in on_conflict),
            operation=member(Operation, operation, field="operation"),
            integers=frozenset(identifier(column, field="integers") for column in integers),
        )
        self._destinations[name] = destination
        return destination

    def destination(self, name: str) -> Destination:
        """Return what is declared of `name`, or the defaults. Raises InvalidEntry: it is no identifier."""
        known = self._destinations.get(name)
        return known if known is not None else Destination(identifier(name, field="destination"))

    def _written(
        self,
        destination: str,
        row: object,
        operation: str | Operation | None,
        key: object,
        id: object,
        on_conflict: Sequence[str] | None,
        match: Mapping[str, object] | None,
    ) -> Written:
        ready = written(
            self.destination(destination),
            row,
            operation=operation,
            key=key,
            id=id,
            on_conflict=on_conflict,
            match=match,
        )
        if ready.repaired:
            logger.warning("text repaired: PostgreSQL stores neither NUL nor lone surrogates: %s", ready.repaired)
        return ready

    def _entry(self, ready: Written) -> Entry:
        now_ms = self._clock.now_ms()
        return ready.entry(
            ready.id or mint_id(now_ms, os.urandom(10)),
            created_at_ms=now_ms,
            source=self._settings.source,
            lane=self._store.lane_of(ready.intent.shape),
        )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcess(f"process {self._pid} opened this outbox, a fork of it must open its own file")
        if self._closed:
            raise OutboxClosed("the outbox is closed; nothing was written")

    def _check_caller(self) -> None:
        self._check_process()
        self._loop_is_here()
        self._check_outside()

    def _loop_is_here(self) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise ForeignLoop("this is not the event loop that opened the outbox; nothing was written")

    def _check_outside(self) -> None:
        for outbox, block in _inside.get():
            if outbox is self and block.open:
                raise InsideTransaction(
                    "use the block's own put: this one would wait for the block; nothing was written"
                )

    # ------------------------------------------------------------------------------------------ sending

    async def run_flusher(self) -> None:
        """Bring entries to Supabase until cancelled or closed. Run it once, as a background task.

        Raises UsageError: it runs already.
        """
        self._check_caller()
        if self._draining is not None:  # a drain began before: it sends until it ends, then this goes on
            await asyncio.wait({self._draining})
        await self._flusher.run()

    @contextlib.asynccontextmanager
    async def flushing(self) -> AsyncIterator[Outbox]:
        """Run the flusher for the length of the block."""
        task = asyncio.create_task(self.run_flusher(), name="outbox-flusher")
        await asyncio.sleep(0)  # let it start, so that a drain in the block joins it
        try:
            yield self
        finally:
            await self._flusher.shut_down(_GRACE_S)
            await task  # whatever broke it is raised here

    async def drain(self, timeout: float = 30.0) -> DrainReport:
        """Send until nothing is pending or `timeout` seconds have passed. Joins a running flusher, else runs one.

        Makes one immediate try, whatever the flusher waits for.
        """
        self._check_caller()
        started_s = self._clock.monotonic_s()
        before = self._flusher.delivered.total()
        await asyncio.sleep(0)  # a flusher whose task was created just now may start, and be joined
        if not self._flusher.state.running and self._draining is None:
            self._draining = asyncio.create_task(self._flusher.run(), name="outbox-drain")
        self._drains += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._store.caught_up()  # what put_nowait has lined up is meant too
            emptied = await self._emptied(started_s + timeout)
        finally:
            self._drains -= 1
            if self._draining is not None and not self._drains:  # the last of several ends what they share
                task, self._draining = self._draining, None
                await self._flusher.shut_down(0.0)
                await task
        counts = await self._store.counts()
        return DrainReport(
            delivered=self._flusher.delivered.total() - before,
            pending=_total(counts, State.PENDING),
            dead=_total(counts, State.DEAD),
            seconds=self._clock.monotonic_s() - started_s,
            timed_out=not emptied,
        )

    async def _emptied(self, until_s: float) -> bool:
        """Wait until nothing is pending (True), nothing can be sent at all (True), or the time is up (False)."""
        with self._flusher.watch() as progress:
            self._flusher.try_at_once()
            while True:
                progress.clear()
                if not _total(await self._store.counts(), State.PENDING) or self._transport is None:
                    return True
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return False
                await self._clock.wait(progress, min(left_s, self._settings.poll_s))

    async def reload(self) -> None:
        """Read environment and `.env` again, send with the URL and key that are there now, and end every pause.

        Other settings count from the next open. Raises ConfigError: the old URL and key stay.
        """
        self._check_caller()
        await self._refresh()
        await self._flusher.forget_pauses()

    async def _current_transport(self, probing: bool) -> Transport | None:
        """What the flusher sends through; a pause that is about to be probed may have new settings to try."""
        if probing and not self._fixed_transport:
            try:
                await self._refresh()
            except ConfigError as error:
                logger.warning("new settings cannot be used, the old ones stay: %s", error)
        return self._transport

    async def _refresh(self) -> None:
        fresh = await asyncio.to_thread(self._settings.reread)
        changed = (fresh.supabase_url, fresh.supabase_key) != (self._settings.supabase_url, self._settings.supabase_key)
        if changed and not self._fixed_transport:
            old = self._transport
            self._settings = self._settings.model_copy(
                update={"supabase_url": fresh.supabase_url, "supabase_key": fresh.supabase_key}
            )
            self._connect(self._settings)
            logger.info("new URL or key in use")
            if old is not None:
                await old.aclose()

    def _connect(self, settings: Settings) -> None:
        if settings.rest_url is None or settings.supabase_key is None:
            self._transport = None
        else:
            self._transport = PostgrestTransport(settings.rest_url, settings.supabase_key.get_secret_value())

    # ------------------------------------------------------------------------------------------ dead letters

    async def requeue(
        self,
        ids: Sequence[str] | None = None,
        *,
        destination: str | None = None,
        code: str | None = None,
        everything: bool = False,
        force: bool = False,
    ) -> list[Handled]:
        """Revive dead entries: they are pending again, their attempts forgotten, their history kept.

        Those that match all that is given: ids (none: no entry), destination, code (the server's error code, or its
        HTTP status where it gave none); `everything` must be said. Returns what became of each entry, and of each id
        that no entry has. One that a later entry of its key has overtaken, or may be overtaking, would revert newer
        state and is refused, unless forced. Done in steps, puts come in between.

        Raises InvalidRequest: nothing was changed; StoreError: what was done before stays, do the rest again.
        """
        self._check_caller()
        which = selection(ids, destination, code, everything=everything)
        return await self._operations.requeue(which, force=force)

    async def discard(
        self,
        ids: Sequence[str] | None = None,
        *,
        reason: str,
        destination: str | None = None,
        code: str | None = None,
        everything: bool = False,
    ) -> list[Handled]:
        """Give dead entries up. The rows, and the reason, are kept until they are pruned. The rest as `requeue`."""
        self._check_caller()
        which = selection(ids, destination, code, everything=everything)
        return await self._operations.discard(which, reason=reason)

    # ------------------------------------------------------------------------------------------ reading

    async def fetch(self, path: str) -> list[dict[str, Any]]:
        """GET `path`, such as `trades?select=*&limit=10`, below the REST endpoint and return the rows.

        One request, bounded by the settings' `request_deadline_s`; the path goes as it is, so encode what is in it.
        Raises Unreachable: no answer; RemoteError: another answer than rows; ConfigError: no URL or key is set;
        InvalidQuery: it is no such path. Never [] for a failure.
        """
        self._check_process()
        self._loop_is_here()
        request = Request("GET", checked_path(path), (), b"", reply_bytes=_LONGEST_READ)
        if self._transport is None:
            raise ConfigError("SUPABASE_URL and SUPABASE_SECRET_KEY are needed to read", field="supabase_url")
        outcome = await self._transport.send(request, deadline_s=self._settings.request_deadline_s)
        return rows_of(path, outcome)

    # ------------------------------------------------------------------------------------------ looking

    async def read_local(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the bot's own on its own tables in the same file.

        Runs on the connection that cannot write, so it waits for no writer and sees what was committed before; what
        an open `transaction()` has written, only its own `execute` sees. The flusher reads there too: keep it short.
        Raises InvalidEntry: BEGIN, ATTACH, PRAGMA and their like; StoreError: SQLite refused it; UsageError.
        """
        self._check_process()
        self._loop_is_here()
        refuse_control(sql)
        return [tuple(row) for row in await self._store.read(sql, parameters)]

    async def pending_entries(self, limit: int | None = None) -> list[Shown]:
        """Return what is pending, or the `limit` oldest of it, oldest first: to look at, not to put again.

        Reads the whole backlog, in pages: what is delivered meanwhile is left out. `stats()` counts without that.
        """
        self._check_process()
        self._loop_is_here()
        seqs = await self._store.pending_seqs(limit)
        entries: list[Shown] = []
        for start in range(0, len(seqs), _PAGE_ROWS):
            entries += await self._store.shown(seqs[start : start + _PAGE_ROWS])
        return entries

    @property
    def source(self) -> str | None:
        """Who puts here, as the settings say: kept with each row, and what tells the sessions of two bots apart."""
        return self._settings.source

    @property
    def clock(self) -> Clock:
        """Where this outbox takes its time from."""
        return self._clock

    @property
    def supabase_url(self) -> str | None:
        """The project's URL, or None: none is set."""
        return self._settings.supabase_url

    @property
    def has_remote(self) -> bool:
        """Whether there is somewhere to send to and read from. Without it rows are kept all the same."""
        return self._transport is not None

    def pending_now(self) -> int:
        """Return how many entries are pending, without waiting: some ten microseconds in the caller's thread.

        What `stats()` tells in full without holding up the event loop. Raises OutboxClosed, StoreError.
        """
        self._check_process()
        return self._glance.pending()

    async def stats(self) -> Stats:
        """Return how things stand. Reads counters, never the backlog."""
        self._check_process()
        counts = await self._store.counts()
        pauses = tuple(await self._store.pauses())
        oldest_ms = await self._store.oldest_pending_ms()
        path = self._store.path
        return Stats(
            path=path,
            pending=_total(counts, State.PENDING),
            delivered=_total(counts, State.DELIVERED),
            dead=_total(counts, State.DEAD),
            discarded=_total(counts, State.DISCARDED),
            pruned=_total(counts, "pruned"),
            removed=_total(counts, "removed"),
            oldest_pending_age_s=None if oldest_ms is None else max(0.0, (self._clock.now_ms() - oldest_ms) / 1000),
            postponed=await self._store.postponed(1000),
            paused=pauses[0].reason if pauses else None,
            pauses=pauses,
            destinations=counts,
            flusher=self._flusher.state,
            wal_bytes=door.file_bytes(path.with_name(path.name + "-wal")),
            db_bytes=door.file_bytes(path),
            sqlite_version=door.ENGINE.sqlite_version,
            exposed_to_wal_reset_bug=door.EXPOSED_TO_WAL_RESET_BUG,
            warnings=() if self._fixed_transport else self._settings.warnings,
        )


def _log_engine() -> None:
    """Say which SQLite runs. The WAL-reset bug takes two writers at once, and this library lets only one in."""
    facts = {"version": door.ENGINE.sqlite_version, "module": door.ENGINE.__name__}
    note = ", exposed to the WAL-reset bug if a shell writes too" if door.EXPOSED_TO_WAL_RESET_BUG else ""
    logger.info("SQLite %s%s", facts["version"], note, extra={"sqlite": facts})


def _reload(outbox: Outbox) -> Callable[[], Awaitable[None]]:
    """What a request to reload calls. Its task must not keep an outbox alive that nobody has closed."""
    itself = weakref.ref(outbox)

    async def reload() -> None:
        if (found := itself()) is None:
            raise OutboxClosed("the outbox is closed; nothing was reloaded")
        await found.reload()

    return reload


def _limits(settings: Settings) -> Limits:
    return Limits(
        batch_rows=settings.batch_rows,
        batch_bytes=settings.batch_bytes,
        backoff_base_s=settings.backoff_base_s,
        backoff_cap_s=settings.backoff_cap_s,
        pause_probe_s=settings.pause_probe_s,
        request_deadline_s=settings.request_deadline_s,
        requests_in_flight=settings.requests_in_flight,
        poll_s=settings.poll_s,
        orphan_attempts=settings.orphan_attempts,
        orphan_after_s=settings.orphan_after_s,
        strict_order=settings.strict_order,
    )


def _total(counts: Mapping[str, Mapping[str, int]], state: str) -> int:
    return sum(states.get(state, 0) for states in counts.values())
