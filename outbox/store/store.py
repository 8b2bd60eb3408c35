"""Floor 3 · store. One outbox file, opened: the lock, the writer, and a reader that cannot write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from outbox.clock import Clock
from outbox.entry import Entry, Operation, Shape, State
from outbox.errors import StoreInUse
from outbox.policy.verdicts import Refusal
from outbox.store import connection as door
from outbox.store import queries
from outbox.store.block import Block
from outbox.store.lock import WriterLock
from outbox.store.migrate import migrate
from outbox.store.writer import Receipt, Writer, find_lane

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lane:
    """A kind of request that has something to send. first_seq: its oldest ready entry."""

    number: int
    shape: Shape
    first_seq: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An entry as the flusher sees it."""

    seq: int
    id: str
    key: str | None
    payload: str
    match: str | None
    digest: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Unread:
    """An entry that came in through a shell: only what the shell wrote."""

    seq: int
    id: str
    destination: str
    operation: Operation
    key: str | None
    payload: str
    on_conflict: str | None
    match: str | None


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an `Unread` entry turned out to mean."""

    seq: int
    shape: Shape
    key: str | None
    on_conflict: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class StoredPause:
    """One row of `outbox_pauses`."""

    scope: str
    subject: str
    reason: str
    status: int | None
    code: str | None
    message: str | None
    failures: int
    since_ms: int
    next_try_at_ms: int


class Store:
    """The open file. `Store.open` makes one; nothing here decides anything, it stores and finds."""

    def __init__(
        self, path: Path, lock: WriterLock, writer: Writer, reader: aiosqlite.Connection, *, clock: Clock
    ) -> None:
        self.path = path
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._shapes: dict[int, Shape] = {}

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, busy_timeout_s: float = 5.0, wait_s: float = 0.0) -> Self:
        """Open `path` for writing; create and migrate it if need be.

        wait_s: seconds to wait for another process to let go of it. Raises StoreInUse and every StoreError
        that says what is wrong with the file; what is not ours is never touched.
        """
        await asyncio.to_thread(door.make_folder, path.parent)
        lock = await _take_lock(path, wait_s)
        try:
            return await cls._opened(path, lock, clock, busy_timeout_s)
        except BaseException:
            lock.release()
            raise

    @classmethod
    async def _opened(cls, path: Path, lock: WriterLock, clock: Clock, busy_timeout_s: float) -> Self:
        connection = await door.open_writer(path, busy_timeout_s=busy_timeout_s)
        try:
            await migrate(connection, path, now_ms=clock.now_ms())
            lanes = await connection.execute_fetchall(queries.LANES.sql)
            reader = await door.open_reader(path, busy_timeout_s=busy_timeout_s)
        except door.SqliteError as error:
            await connection.close()
            raise door.named(error, path, waited_s=busy_timeout_s) from error
        except BaseException:
            await connection.close()
            raise
        store = cls(
            path, lock, Writer(connection, path, clock=clock, busy_timeout_s=busy_timeout_s), reader, clock=clock
        )
        store._learn(lanes)
        store._writer.lanes.update({shape: number for number, shape in store._shapes.items()})
        return store

    async def close(self) -> None:
        """Commit what stands in line and close. The reader goes first: the last connection empties the WAL."""
        try:
            await self._reader.close()
            await self._writer.close()
        finally:
            self._lock.release()

    # ------------------------------------------------------------------------------------------ writing

    @property
    def committed(self) -> asyncio.Event:
        """Set after each commit of this process."""
        return self._writer.committed

    @property
    def waiting(self) -> int:
        """How many puts and jobs wait for their commit."""
        return self._writer.waiting

    def put(self, entry: Entry, shape: Shape) -> asyncio.Future[Receipt]:
        """Return a future that resolves once `entry` is on disk."""
        return self._writer.put(entry, shape)

    def line_up(self, entry: Entry, shape: Shape, done: asyncio.Future[Receipt]) -> None:
        """The same with a future of the caller's."""
        self._writer.line_up(entry, shape, done)

    def lane_of(self, shape: Shape) -> int | None:
        """Return the number of the lane of `shape` if it is known already."""
        return self._writer.lanes.get(shape)

    def block(self, limit_s: float) -> Block:
        """Return a transaction of the caller's, not begun yet."""
        return Block(self._writer, self.path, clock=self._clock, limit_s=limit_s)

    async def transact(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work`, which may run twice, inside one transaction."""
        return await self._writer.transact(work)

    async def settle(
        self, seqs: Sequence[int], state: State, *, refusal: Refusal | None = None, attempts: int = 0
    ) -> None:
        """Write the end of pending entries; those that are not pending any more are left alone."""
        now_ms = self._clock.now_ms()
        parameters = (state.value, now_ms, attempts, *_words(refusal), _list(seqs))
        await self.transact(lambda connection: connection.execute(queries.SETTLE.sql, parameters))

    async def postpone(self, seqs: Sequence[int], until_ms: int, *, refusal: Refusal, attempts: int) -> None:
        """Let pending entries wait until `until_ms` for something of their own."""
        parameters = (until_ms, attempts, *_words(refusal), _list(seqs))
        await self.transact(lambda connection: connection.execute(queries.POSTPONE.sql, parameters))

    async def wake_due(self, now_ms: int, limit: int) -> None:
        """Make entries ready whose time has come."""
        await self.transact(lambda connection: connection.execute(queries.DUE.sql, (now_ms, limit)))

    async def adopt(self, entries: Sequence[Adopted]) -> None:
        """Complete entries that came in through a shell; from here on they are like any other."""
        sql = (
            "update outbox set lane = ?, key = ?, on_conflict = ?, digest = ?"
            " where seq = ? and state = 'pending' and lane is null"
        )

        async def work(connection: aiosqlite.Connection) -> None:
            for entry in entries:
                lane = await find_lane(connection, entry.shape)
                await connection.execute(sql, (lane, entry.key, entry.on_conflict, entry.digest, entry.seq))

        await self.transact(work)

    async def save_pause(self, pause: StoredPause) -> None:
        """Write a pause, or what is new about one."""
        sql = (
            "insert into outbox_pauses (scope, subject, reason, status, code, message, failures, since_ms,"
            " next_try_at_ms) values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set reason = excluded.reason,"
            " status = excluded.status, code = excluded.code, message = excluded.message,"
            " failures = excluded.failures, next_try_at_ms = excluded.next_try_at_ms"
        )
        parameters = (
            pause.scope, pause.subject, pause.reason, pause.status, pause.code, pause.message, pause.failures,
            pause.since_ms, pause.next_try_at_ms,
        )  # fmt: skip
        await self.transact(lambda connection: connection.execute(sql, parameters))

    async def end_pauses(self, pauses: Sequence[tuple[str, str]]) -> None:
        """Remove pauses, each by scope and subject."""

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.executemany("delete from outbox_pauses where scope = ? and subject = ?", pauses)

        await self.transact(work)

    # ------------------------------------------------------------------------------------------ reading

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query on the reading connection. Raises StoreError."""
        try:
            return list(await self._reader.execute_fetchall(sql, parameters))
        except door.SqliteError as error:
            raise door.named(error, self.path) from error

    async def changes(self) -> int:
        """Return a number that changes whenever any other connection has committed. About 5 µs in SQLite."""
        return int((await self.read("pragma data_version"))[0][0])

    async def ready_lanes(self) -> list[Lane]:
        """Return the lanes that have something to send, the one with the oldest entry first."""
        rows = await self.read(queries.READY_LANES.sql)
        if any(number not in self._shapes for number, _ in rows):
            self._learn(await self.read(queries.LANES.sql))
        lanes = [Lane(number, self._shapes[number], seq) for number, seq in rows]
        return sorted(lanes, key=lambda lane: lane.first_seq)

    async def ready(self, lane: Lane, *, after_seq: int, limit: int) -> list[Outgoing]:
        """Return what `lane` sends next, in the order of the puts; of an ordered lane only what may travel together."""
        if not lane.shape.ordered:
            rows = await self.read(queries.READY.sql, (lane.number, after_seq, limit))
            return [Outgoing(*row) for row in rows]
        rows = await self.read(queries.READY_RUNS.sql, (lane.number, limit))
        return sorted(_runs(rows, lane.number), key=lambda entry: entry.seq)

    async def unread(self, limit: int) -> list[Unread]:
        """Return what a shell put in and nobody has read yet."""
        rows = await self.read(queries.UNREAD.sql, (limit,))
        return [Unread(row[0], row[1], row[2], Operation(row[3]), *row[4:]) for row in rows]

    async def next_due_ms(self) -> int | None:
        """Return when the next entry that waits for something of its own is due, in Unix milliseconds."""
        rows = await self.read(queries.NEXT_DUE.sql)
        return int(rows[0][0]) if rows else None

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of entries by destination and state."""
        counts: dict[str, dict[str, int]] = {}
        for destination, state, entries in await self.read(queries.COUNTS.sql):
            counts.setdefault(destination, {})[state] = entries
        return counts

    async def oldest_pending_ms(self) -> int | None:
        """Return when the oldest pending entry was put, in Unix milliseconds; None: nothing is pending."""
        # In an empty index NULL lanes come first: an unread entry is found like any other.
        seqs = [seq for _, seq in await self.read(queries.READY_LANES.sql)]
        seqs += [entry.seq for entry in await self.unread(1)]
        seqs += [row[0] for row in await self.read(queries.OLDEST_RETRYING.sql) if row[0] is not None]
        if not seqs:
            return None
        rows = await self.read("select created_at_ms from outbox where seq = ?", (min(seqs),))
        return int(rows[0][0]) if rows else None

    async def pauses(self) -> list[StoredPause]:
        """Return what is not sent to, the longest pause first."""
        return [StoredPause(*row) for row in await self.read(queries.PAUSES.sql)]

    def _learn(self, rows: Any) -> None:
        for number, destination, operation, on_conflict, columns, ordered in rows:
            self._shapes[number] = Shape(destination, Operation(operation), on_conflict, columns, bool(ordered))


def _runs(rows: Sequence[Any], lane: int) -> list[Outgoing]:
    """Keep of each key the entries up to the first one of another lane: that one must wait for these."""
    kept: list[Outgoing] = []
    ended: set[str] = set()
    for *fields, its_lane in rows:
        entry = Outgoing(*fields)
        assert entry.key is not None
        if its_lane != lane:
            ended.add(entry.key)
        elif entry.key not in ended:
            kept.append(entry)
    return kept


def _words(refusal: Refusal | None) -> tuple[int | None, str | None, str | None, str | None, str | None]:
    if refusal is None:
        return None, None, None, None, None
    return refusal.status, refusal.code, refusal.message, refusal.details, refusal.hint


def _list(seqs: Sequence[int]) -> str:
    """A JSON list: one parameter, whatever its length."""
    return f"[{','.join(map(str, seqs))}]"


async def _take_lock(path: Path, wait_s: float) -> WriterLock:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreInUse),
        stop=stop_after_delay(wait_s),
        wait=wait_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    )
    return await retrying(asyncio.to_thread, WriterLock, path)
