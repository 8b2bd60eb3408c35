"""Everything that is read from an outbox file; the writer's process and onlookers share it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from outbox.entry import LaneSpec, Outgoing, StoredEntry
from outbox.errors import InvalidRequest, OutboxClosed
from outbox.postgrest.batch import utf8_bytes
from outbox.store import database, queries
from outbox.store.rows import Lane, Look, Notices, Sendable, StoredPause, by_state

T = TypeVar("T")

_PAYLOAD = queries.SENT.index("payload")


class Reader:
    """Finds what is stored, on a connection that cannot write. `Store` is one, and so is `ReadOnlyStore`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self.path = path
        self._reader = connection
        self._reading = asyncio.Lock()  # held by whoever uses or replaces the connection
        self._specs: dict[int, LaneSpec] = {}
        self.unknown_lanes: tuple[int, ...] = ()  # of the last look at the ready ones; see `Store.reread_unknown`
        # Called when the reading connections must be closed, with False, and with True when they may be opened again.
        self.on_readers: Callable[[bool], None] = lambda _: None
        # Asked in the thread of each look for work, and told the answer: so that an idle bot wakes once for both.
        self.glance: Callable[[], bool] = lambda: False
        self.glanced: Callable[[bool], None] = lambda _: None
        self.on_corrupt: Callable[[Exception], None] = lambda _: None  # told each error that means a damaged page

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query on the reading connection. Raises StoreError, OutboxClosed."""
        async with self._using() as connection:
            return list(await connection.execute_fetchall(sql, parameters))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the reading connection, in its thread: one hop, whatever it asks. Errors as `read`."""
        async with self._using() as connection:
            return await database.run(connection, work)

    @contextlib.asynccontextmanager
    async def _using(self) -> AsyncIterator[aiosqlite.Connection]:
        """Give the reading connection. Raises StoreError, OutboxClosed."""
        try:
            async with self._reading:
                yield self._reader
        except database.SqliteError as error:
            if database.classify_error(error) in database.DAMAGE:
                self.on_corrupt(error)
            raise database.named(error, self.path) from error
        except UnicodeEncodeError:  # a ValueError, too: half a character, as of a shell that speaks Latin-1
            raise InvalidRequest(
                "what was asked for is no valid Unicode, so no entry has it", field="entries"
            ) from None
        except ValueError as error:  # aiosqlite's word for a closed connection
            raise OutboxClosed("the outbox was closed meanwhile") from error

    async def _entries(
        self,
        query: queries.Query,
        parameters: Sequence[Any],
        *,
        limit: int,
        max_bytes: int | None,
        hidden: Collection[int] = (),
    ) -> list[tuple[Any, ...]]:
        """Return the rows of `query`, one per entry, without those that are hidden: `limit` of them, or `max_bytes`.

        The one that exceeds the bytes is among the rows: nobody else knows its size.
        """
        found: list[tuple[Any, ...]] = []

        def read(connection: sqlite3.Connection) -> None:
            left = max_bytes
            with contextlib.closing(connection.execute(query.sql, parameters)) as cursor:
                for row in cursor:
                    if row[0] in hidden:
                        continue
                    found.append(row)
                    if len(found) == limit or (left is not None and (left := left - utf8_bytes(row[_PAYLOAD])) < 0):
                        return

        await self.run(read)
        return found

    @contextlib.asynccontextmanager
    async def away(self, *, busy_timeout_s: float) -> AsyncIterator[None]:
        """Inside it no connection of this process reads; reads wait. Raises StoreError: it cannot be opened again."""
        async with self._reading:
            self.on_readers(False)
            await self._reader.close()
            try:
                yield
            finally:
                self._reader = await database.open_reader(self.path, busy_timeout_s=busy_timeout_s)
                self.on_readers(True)

    async def look_for_work(self) -> Look:
        """Return what decides whether there is work. One hop, and some 10 µs in SQLite."""

        def read(connection: sqlite3.Connection) -> tuple[Look, bool]:
            ((change,),) = connection.execute("pragma data_version").fetchall()
            due, last = (connection.execute(query.sql).fetchall() for query in (queries.NEXT_DUE, queries.LAST_DUE))
            unread = connection.execute(queries.UNREAD.sql, (1,)).fetchall()
            due_ms, last_ms = (int(rows[0][0]) if rows else None for rows in (due, last))
            return Look(int(change), due_ms, last_ms, bool(unread)), self.glance()

        look, found = await self.run(read)
        self.glanced(found)
        return look

    async def ready_lanes(self) -> list[Lane]:
        """Return the lanes that have something to send, the one with the oldest entry first."""
        return await self._in_turn(await self.read(queries.READY_LANES.sql))

    async def lanes_put_since(self, seq: int) -> list[Lane]:
        """Return the lanes that have something to send that was put after entry `seq`."""
        found = dict(reversed(await self.read(queries.PUT_SINCE.sql, (seq,))))  # of each its first
        return await self._in_turn(list(found.items()))

    async def _in_turn(self, rows: Sequence[Any]) -> list[Lane]:
        if new := [number for number, _ in rows if number not in self._specs]:
            self._learn(await self.read(queries.SOME_LANES.sql, (listed(new),)))
        self.unknown_lanes = tuple(number for number, _ in rows if number not in self._specs)
        lanes = [Lane(number, self._specs[number], seq) for number, seq in rows if number in self._specs]
        return sorted(lanes, key=lambda lane: lane.first_seq)

    async def sendable(self) -> Sendable:
        """Return how much is pending and how much of it can be sent, all at one moment."""
        *rows, (others, pending) = await self.read(queries.WAYS.sql)
        lanes = await self._in_turn(rows)
        return Sendable(pending, lanes, bool(others or self.unknown_lanes))

    async def ready(
        self, lane: Lane, *, after_seq: int, limit: int, max_bytes: int | None = None, hidden: Collection[int] = ()
    ) -> list[Outgoing]:
        """Return what `lane` sends next, in the order of the puts; of an ordered lane only what may travel together.

        hidden: entries that are passed over. max_bytes: of payloads; what exceeds them is not read, except one entry.
        """
        if not lane.spec.ordered:
            looked = (lane.number, after_seq, limit + len(hidden))
            rows = await self._entries(queries.READY, looked, limit=limit, max_bytes=max_bytes, hidden=hidden)
            return [Outgoing(*row) for row in rows]
        looked = (lane.number, after_seq, limit)
        rows = await self._entries(queries.READY_RUNS, looked, limit=limit, max_bytes=max_bytes)
        return sorted(_runs(rows, lane.number), key=lambda entry: entry.seq)

    async def alongside(
        self, lanes: Sequence[int], *, limit: int, max_bytes: int | None = None
    ) -> dict[int, list[Outgoing]]:
        """Return what each of the unordered `lanes` sends next, as far as `limit` and `max_bytes` let them together.

        As of `ready`, one entry may exceed the bytes.
        """
        if not lanes:
            return {}
        found = dict[int, list[Outgoing]]()
        looked = (listed(lanes), limit)
        for *row, lane in await self._entries(queries.ALONGSIDE, looked, limit=limit, max_bytes=max_bytes):
            found.setdefault(lane, []).append(Outgoing(*row))
        return found

    async def newest(self, lane: Lane, *, limit: int, hidden: Collection[int] = ()) -> list[Outgoing]:
        """Return what an unordered lane would send last, oldest first."""
        looked = (lane.number, limit + len(hidden))
        rows = await self._entries(queries.NEWEST, looked, limit=limit, max_bytes=None, hidden=hidden)
        return [Outgoing(*row) for row in reversed(rows)]

    async def refused_before(
        self, lane: Lane, *, limit: int, max_bytes: int | None = None, hidden: Collection[int] = ()
    ) -> list[Outgoing]:
        """Return what an unordered lane sends again, oldest first: what `ready` leaves out."""
        looked = (lane.number, limit + len(hidden))
        rows = await self._entries(queries.AGAIN, looked, limit=limit, max_bytes=max_bytes, hidden=hidden)
        return [Outgoing(*row) for row in rows]

    async def still_pending(self, seqs: Sequence[int]) -> list[tuple[Outgoing, str | None]]:
        """Return those of `seqs` that are still pending, oldest first, each with what it waits for."""
        rows = await self.read(queries.WAITING.sql, (listed(seqs),))
        return [(Outgoing(*row[:-1]), row[-1]) for row in rows]

    async def behind(self, seq: int) -> tuple[bool, bool]:
        """Return whether something is behind entry `seq` in its line, and whether it brings the row."""
        rows = await self.read(queries.BEHIND.sql, (seq,))
        return (bool(rows[0][0]), bool(rows[0][1])) if rows else (False, False)

    async def resent(self, seqs: Sequence[int]) -> set[int]:
        """Return which of `seqs` had arrived before an operator let them be sent again."""
        return {int(seq) for (seq,) in await self.read(queries.RESENT.sql, (listed(seqs),))}

    async def inserts_ahead(self, destination: str, columns: Sequence[str]) -> list[tuple[int, int]]:
        """Return the lanes of inserts that have `columns` but no line, each with its oldest entry that is ready."""
        return [
            (int(lane), int(seq))
            for lane, seq in await self.read(queries.INSERTS_AHEAD.sql, (destination, json.dumps(columns)))
        ]

    async def may_come(self, destination: str, before_seq: int) -> bool:
        """Return whether an insert or upsert into `destination` from before entry `before_seq` is pending."""
        rows = await self.read(queries.MAY_COME.sql, (destination, before_seq, destination, before_seq))
        return bool(rows)

    async def unread(self, limit: int) -> list[StoredEntry]:
        """Return the entries from a shell that have not been read yet."""
        rows = await self.read(queries.UNREAD.sql, (limit,))
        return [StoredEntry.of(row) for row in rows]

    async def pending_seqs(self, limit: int | None) -> list[int]:
        """Return the numbers of all that is pending, or of the `limit` oldest, oldest first. O(backlog)."""
        return [int(seq) for (seq,) in await self.read(queries.PENDING.sql, (-1 if limit is None else limit,))]

    async def shown(self, seqs: Sequence[int]) -> list[StoredEntry]:
        """Return those of `seqs` that are still pending, oldest first."""
        rows = await self.read(queries.SHOWN.sql, (listed(seqs),))
        return [StoredEntry.of(row) for row in rows]

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of entries by destination and state."""
        return by_state(await self.read(queries.COUNTS.sql))

    async def oldest_pending_seq(self) -> int | None:
        """Return the number of the oldest pending entry; None: nothing is pending."""
        rows = await self.read(queries.OLDEST_PENDING.sql)
        return int(rows[0][0]) if rows else None

    async def fact(self, name: str) -> str | None:
        """Return what the file says of itself under `name`; None: nothing."""
        rows = await self.read(queries.FACT.sql, (name,))
        return str(rows[0][0]) if rows else None

    async def strict_order(self) -> bool:
        """Return whether a dead entry holds back what comes after it under its key."""
        return await self.fact("strict_order") == "1"

    async def project(self) -> str | None:
        """Return the project that the entries belong to, as `postgrest.project.identity`; None: to none yet."""
        return await self.fact("project")

    async def window_bytes(self) -> int | None:
        """Return how many bytes the link was found to carry at once; None: no limit was met."""
        found = await self.fact("window_bytes")
        return int(found) if found is not None and found.isdigit() else None

    async def notices(self) -> Notices:
        """Return what hinders the file, as its writer last knew."""
        return Notices.of(dict(await self.read(queries.META.sql)))

    async def newest_put_ms(self) -> int | None:
        """Return when the newest entry was put, in Unix milliseconds, by its putter's clock; None: there is none."""
        rows = await self.read(queries.NEWEST_PUT.sql)
        return int(rows[0][0]) if rows else None

    async def knows(self, table: str) -> bool:
        """Return whether the file has a table; one that a bot of an older version has open lacks the newest."""
        return bool(await self.read(queries.TABLE.sql, (table,)))

    async def pauses(self) -> list[StoredPause]:
        """Return what is not sent to, the longest pause first."""
        return [StoredPause.of(row) for row in await self.read(queries.PAUSES.sql)]

    async def refused_runs(self) -> list[tuple[int, str, int]]:
        """Return what died in runs of refusals that are not over, as (lane, cause, seq)."""
        return [(int(lane), str(cause), int(seq)) for lane, cause, seq in await self.read(queries.RUNS.sql)]

    async def lanes(self) -> dict[int, LaneSpec]:
        """Return every lane that was ever used, by its number."""
        self._learn(await self.read(queries.LANES.sql))
        return dict(self._specs)

    def _learn(self, rows: Any) -> None:
        self._specs.update({number: LaneSpec.of(spec) for number, *spec in rows})


class PendingCounter:
    """How many entries are pending, asked without an `await`: the old module's `pending_count`.

    The only SQLite call of this library that runs in the caller's thread. It reads the counters, one row per
    destination and state, on a connection of its own that stays open: some ten microseconds, whatever the backlog. In
    a WAL file a reader waits for nobody. Connects at the first call. Close it before the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: Any = None
        self._away = False
        self._last = 0

    def pending(self) -> int:
        """Return how many entries are pending, those that other connections have committed included."""
        if self._away:
            return self._last
        try:
            if self._connection is None:
                # The writer's own SQLite library: a second one in this process would drop the first one's file locks.
                # It must not wait: this is the event loop.
                self._connection = database.plain_connection(self._path)
            # All rows are fetched: a statement left open would hold its snapshot, and the WAL would grow.
            self._last = int(self._connection.execute(queries.PENDING_NOW.sql).fetchall()[0][0])
        except database.SqliteError as error:
            raise database.named(error, self._path) from error
        return self._last

    def admit(self, readers: bool) -> None:
        """Close the connection and repeat the last answer until readers are admitted again."""
        self._away = not readers
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def listed(numbers: Iterable[int]) -> str:
    """Return a JSON list: one parameter, whatever its length."""
    return f"[{','.join(map(str, numbers))}]"


def _runs(rows: Sequence[Any], lane: int) -> list[Outgoing]:
    """Keep the entries of each key up to the first one of another lane, which must wait for these."""
    kept: list[Outgoing] = []
    ended: set[str] = set()
    for *columns, its_lane in rows:
        entry = Outgoing(*columns)
        assert entry.key is not None
        if its_lane != lane:
            ended.add(entry.key)
        elif entry.key not in ended:
            kept.append(entry)
    return kept
