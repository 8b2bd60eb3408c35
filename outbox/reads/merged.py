"""Overlays pending entries on the remote rows, and reads rows from the file alone.

A merged read walks the remote rows and yields the pending ones between them, in order. The remote rows that pending
entries touch are fetched by name, and its cost must not grow with the backlog. A row whose place is known whatever the
remote end has (`Table.foreseen`) is fetched just before it is yielded; a row that keeps its place (`Table.stays`) is
overlaid when the walk reaches it; only the rest, an update of a column that the query filters or orders by, is fetched
at once.

Work on each entry runs in a thread: ten thousand entries take a third of a second, too long for the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from outbox.entry import Operation, StoredEntry
from outbox.errors import Undecidable
from outbox.outbox import Outbox
from outbox.reads import queries
from outbox.reads.keyset import Place, Position, Texts, Walk, check_distinct, one_of, walk
from outbox.reads.overlay import Change, Identity, Row, Table, in_order
from outbox.reads.query import Query, asked
from outbox.threads import in_thread

# Pending entries that a merged read holds in memory, some ten megabytes. A larger backlog drains in seconds, or the
# remote end is away and a merged read becomes a local one.
MOST_PENDING = 10_000
# Rows that a local read holds: some hundred megabytes.
MOST_HELD = 100_000
# Rows fetched by name in one request: 50 UUIDs are 2 kB of the 16 kB that a URL may have.
_NAMED = 50
# Entries of one step; a payload is about a kilobyte. Then how many entries one step reads if no index covers the
# destination.
_STEP, _WINDOW = 500, 1000
# Rows yielded in one turn of the event loop: some milliseconds.
_GIVEN = 500


class Waiting(NamedTuple):
    """A row of the answer. place: compares as the query orders. row: None: its remote row is not fetched yet."""

    place: Any
    number: int  # breaks ties: of rows in one place the one put first comes first
    identity: Identity
    row: dict[str, Any] | None


async def merged(outbox: Outbox, table: Table, query: Query, *, page_rows: int) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the remote rows as they will be once everything pending now is delivered.

    Pending entries are read first: one delivered meanwhile is then found among the remote rows, never in neither.
    """
    table.check(query)
    overlay = _Overlay(outbox, table, query)
    await overlay.load()
    given = 0
    async for row in overlay.rows(page_rows):
        yield row
        given += 1
        if given % _GIVEN == 0:
            await asyncio.sleep(0)


class _Overlay:
    """What is pending, by the row that it touches."""

    def __init__(self, outbox: Outbox, table: Table, query: Query) -> None:
        self._outbox = outbox
        self._table = table
        self._query = query
        self._key = in_order(query.order)
        self._changes: dict[Identity, list[Change]] = {}
        self._inserted: set[Identity] = set()  # inserts only: without effect if there is a remote row
        self._staying: set[Identity] = set()  # the remote row, if there is one, is changed in its place
        self._waiting: list[Waiting] = []  # a heap of the rows not yielded yet
        self._numbers: dict[Identity, int] = {}
        self._read_to = 0
        self._seen: set[int] = set()

    # ---------------------------------------------------------------------------------------- what is pending

    async def load(self) -> None:
        """Read what is pending, and fetch the rows whose place depends on what the remote end has."""
        self._read_to = await last_seq(self._outbox)
        entries = await pending(self._outbox, self._table.destination.name, MOST_PENDING)
        if len(entries) > MOST_PENDING:
            problem = f"more than {MOST_PENDING:,} entries are pending; read remote rows or local ones"
            raise Undecidable(problem, field=self._query.table)
        self._seen = {entry.seq for entry in entries if entry.seq > self._read_to}
        unknown = await in_thread(self._sort, entries)
        for start in range(0, len(unknown), _NAMED):
            self._waiting += await self._asked_for(unknown[start : start + _NAMED])
        await in_thread(heapq.heapify, self._waiting)

    def _sort(self, entries: Sequence[StoredEntry]) -> list[Identity]:
        """Keep what may touch a row of the answer; return what must be fetched before its place is known."""
        self._changes = by_row(self._table, entries)
        self._numbers = {identity: number for number, identity in enumerate(self._changes)}
        unknown = []
        for identity, changes in list(self._changes.items()):
            if all(change.operation is Operation.INSERT for change in changes):
                self._inserted.add(identity)
            elif self._table.stays(changes):
                self._staying.add(identity)
                continue
            row = self._table.foreseen(changes)
            if row is None:
                unknown.append(identity)
            elif self._table.holds(self._query, row):
                self._waiting.append(self._placed(identity, row, None))
            elif identity in self._inserted:  # a remote row of that name stays as it is
                del self._changes[identity]
        return unknown

    def _placed(self, identity: Identity, row: Row, shown: dict[str, Any] | None) -> Waiting:
        place = self._key(self._table.place(self._query, row.texts))
        return Waiting(place, self._numbers[identity], identity, shown)

    async def _catch_up(self) -> None:
        """Add what was put since: remote rows read from now on may be newer than the entries read at first."""
        last = await last_seq(self._outbox)
        if last == self._read_to:
            return
        async for entries in held(self._outbox, self._table.destination.name, after_seq=self._read_to):
            since = [entry for entry in entries if entry.seq not in self._seen]
            for identity, changes in (await in_thread(by_row, self._table, since)).items():
                if identity in self._changes:
                    self._changes[identity] += changes
            self._seen |= {entry.seq for entry in since}
        self._read_to = last

    async def _asked_for(self, identities: Sequence[Identity]) -> list[Waiting]:
        """Fetch these remote rows, and return the rows of the answer that they will become."""
        names = {identity: self._changes[identity][0].names for identity in identities}
        bases = await _named_rows(self._outbox, self._table, names)
        await self._catch_up()
        return await in_thread(self._overlaid, identities, bases)

    def _overlaid(self, identities: Sequence[Identity], bases: Mapping[Identity, Row]) -> list[Waiting]:
        table, query = self._table, self._query
        rows = ((each, table.applied(bases.get(each), self._changes[each])) for each in identities)
        return [
            self._placed(each, row, table.shown(query, row))
            for each, row in rows
            if row is not None and table.holds(query, row)
        ]

    # ---------------------------------------------------------------------------------------- the answer

    async def rows(self, page_rows: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the rows of the answer."""
        route = walk(self._query, self._table.unique, self._table.compared)
        async for page in pages(self._outbox, route, page_rows=page_rows):
            if self._changes:
                await self._catch_up()
            for row, texts in page:
                if self._waiting and self._query.order:
                    place = self._key(self._table.place(self._query, texts))
                    async for before in self._given(place):
                        yield before
                if (mine := self._met(row, texts)) is not None:
                    yield mine
        async for left in self._given(None):
            yield left

    def _met(self, row: dict[str, Any], texts: Any) -> dict[str, Any] | None:
        """Return what to yield when the walk reaches a remote row; None: nothing here."""
        identity = self._table.identity(texts) if self._changes else None
        if identity not in self._changes:
            return row
        changes = self._changes[identity]
        if identity in self._inserted:  # not yielded yet: it is delivered, or another row has its name
            del self._changes[identity]
            return row
        changed = self._table.applied(Row(row, texts), changes) if identity in self._staying else None
        if changed is None or not self._table.holds(self._query, changed):
            return None  # it is yielded at its future place
        return self._table.shown(self._query, changed)

    async def _given(self, before: Any) -> AsyncIterator[dict[str, Any]]:
        """Yield the pending rows that come before the place `before`; None: all that are left."""
        while self._waiting and (before is None or self._waiting[0].place < before):
            if self._waiting[0].row is None:
                await self._ask_for_next()
                continue
            _, _, identity, row = heapq.heappop(self._waiting)
            if identity in self._changes:  # else the walk has already reached it
                self._inserted.discard(identity)
                assert row is not None
                yield row

    async def _ask_for_next(self) -> None:
        """Fetch the remote rows of the next waiting ones."""
        some: list[Identity] = []
        while self._waiting and len(some) < _NAMED and self._waiting[0].row is None:
            identity = heapq.heappop(self._waiting).identity
            if identity in self._changes:
                some.append(identity)
        for each in await self._asked_for(some) if some else ():
            heapq.heappush(self._waiting, each)


def by_row(table: Table, entries: Iterable[StoredEntry]) -> dict[Identity, list[Change]]:
    """Return what `entries` do to each row."""
    changes: dict[Identity, list[Change]] = {}
    for entry in entries:
        change = table.change(entry)
        changes.setdefault(change.identity, []).append(change)
    return changes


async def local_rows(outbox: Outbox, table: Table, query: Query) -> list[dict[str, Any]]:
    """Return the rows that `query` asks for as far as the file has them, pending or delivered. Raises Undecidable."""
    table.check(query)
    rows: dict[Identity, Row] = {}
    async for entries in held(outbox, table.destination.name):
        await in_thread(_apply, table, rows, entries)
        if len(rows) > MOST_HELD:
            raise Undecidable(f"the file holds more than {MOST_HELD:,} rows of it", field=query.table)
    return await in_thread(_shown, table, query, rows.values())


def _apply(table: Table, rows: dict[Identity, Row], entries: Sequence[StoredEntry]) -> None:
    for entry in entries:
        change = table.change(entry)
        row = table.applied(rows.get(change.identity), [change], alone=True)
        if row is not None:
            rows[change.identity] = row


def _shown(table: Table, query: Query, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return those of `rows` that `query` asks for, in its order."""
    key = in_order(query.order)
    found = [(key(table.place(query, row.texts)), table.shown(query, row)) for row in rows if table.holds(query, row)]
    return [row for _, row in sorted(found, key=lambda each: each[0])]


async def _named_rows(outbox: Outbox, table: Table, names: dict[Identity, tuple[str, ...]]) -> dict[Identity, Row]:
    """Return the remote rows of these names, unfiltered: a filter may match only after the pending changes."""
    everything = walk(asked(table.destination.name), table.unique, table.compared)
    rows: dict[Identity, Row] = {}
    missing = dict(names)
    while missing:
        named = replace(everything, named=one_of(table.unique, list(missing.values())))
        found = await outbox.fetch(named.path(Place.START, limit=len(missing)))
        for row in found:
            texts = everything.taken(row)
            rows[table.identity(texts)] = Row(row, texts)
            missing.pop(table.identity(texts), None)
        if not found:
            break
    return rows


async def pages(
    outbox: Outbox, walk: Walk, *, page_rows: int, offset: int = 0, most: int | None = None
) -> AsyncIterator[list[tuple[dict[str, Any], Texts]]]:
    """Yield the pages after the first `offset` rows, each row with its texts: `most` rows, or all.

    A short page proves nothing: the server's cap, which may change at any time, may have cut it. The last page is
    empty. Raises what `Outbox.fetch` raises, Undecidable: two rows share a position.
    """
    position: Position | None = Place.START
    before: list[tuple[str | None, ...]] = []
    left = most
    while position is not None and left != 0:
        wanted = page_rows if left is None else min(page_rows, left)
        rows = await outbox.fetch(walk.path(position, limit=wanted, offset=offset))
        found = [(row, walk.taken(row)) for row in rows]
        places = [walk.position(texts) for _, texts in found]
        check_distinct([*before, *places])
        before, offset = places, 0
        left = None if left is None else left - len(rows)
        if found:
            yield found
        position = places[-1] if places else walk.after_the_end(position)


async def pending(outbox: Outbox, destination: str, most: int) -> list[StoredEntry]:
    """Return what is pending for `destination`, oldest first; `most` + 1 entries if there are more than `most`.

    Entries delivered during the read are included; entries refused meanwhile may be.
    """
    seqs = [seq for (seq,) in await outbox.read_local(queries.PENDING.sql, (*[destination] * 4, most + 1))]
    found: list[StoredEntry] = []
    for start in range(0, len(seqs), _STEP):
        listed = f"[{','.join(map(str, seqs[start : start + _STEP]))}]"
        found += [StoredEntry.of(row) for row in await outbox.read_local(queries.SHOWN.sql, (listed,))]
    return found


async def last_seq(outbox: Outbox) -> int:
    """Return the number of the newest entry: whatever is put from now on has a higher one."""
    ((_, last),) = await outbox.read_local(queries.BOUNDS.sql)
    return last or 0


async def held(outbox: Outbox, destination: str, *, after_seq: int = 0) -> AsyncIterator[list[StoredEntry]]:
    """Yield entries put after `after_seq` that are pending, or delivered and not pruned, in put order.

    Reads the entries of all destinations from there on, step by step.
    """
    ((first, last),) = await outbox.read_local(queries.BOUNDS.sql)
    for after in range(max(after_seq, (first or 1) - 1), last or 0, _WINDOW):
        rows = await outbox.read_local(queries.HELD.sql, (after, after + _WINDOW, destination))
        yield [StoredEntry.of(row) for row in rows]
