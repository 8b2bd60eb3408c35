"""Pending entries laid over the remote rows, and what the file alone can tell.

What is done to each entry runs in a thread: ten thousand of them take a third of a second, which no event loop has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from outbox.entry import Operation
from outbox.errors import Undecidable
from outbox.outbox import Outbox
from outbox.reads import local
from outbox.reads.keyset import Place, one_of, texts_of, walk
from outbox.reads.overlay import Change, Identity, Row, Stored, Table, in_order
from outbox.reads.pages import Pages
from outbox.reads.query import Query, asked

# Pending entries that a merged read holds in memory, some ten megabytes; more are drained in seconds, or the remote
# end is away and a merged read is a local one.
MOST_PENDING = 10_000
# Rows that a local read holds: some hundred megabytes.
MOST_HELD = 100_000
# Rows asked for by name in one request: 50 UUIDs are 2 kB of the 16 kB that a URL may have.
_NAMED = 50
# Rows given in one turn of the event loop: some milliseconds.
_GIVEN = 500


@dataclass(frozen=True, slots=True)
class Placed:
    """A row of the answer. place: what it is ordered by."""

    place: tuple[Any, ...]
    row: dict[str, Any]


async def merged(
    outbox: Outbox, pages: Pages, table: Table, query: Query, *, page_rows: int
) -> AsyncGenerator[dict[str, Any], None]:
    """Give the remote rows as they will be once everything is delivered that is pending now.

    What is pending is read first: what is delivered meanwhile is found among the remote rows, never in neither.
    """
    table.check(query)
    before = await local.last_seq(outbox)
    entries = await _pending(outbox, table, query)
    touched, names = await asyncio.to_thread(_touched, table, query, entries)
    bases = await _remote_rows(pages, table, names)
    changes = await _up_to_date(outbox, table, touched, entries, before) if touched else touched
    waiting = await asyncio.to_thread(_overlaid, table, query, bases, changes)
    key = in_order(query.order)
    route = walk(query, table.unique, table.compared)
    given = 0
    async for row, found in pages.walk(route, page_rows=page_rows):
        texts = texts_of(route.texts, found)
        if changes and table.identity(texts) in changes:
            continue
        while waiting and query.order and key(waiting[-1].place) < key(table.place(query, texts)):
            yield waiting.pop().row
            given = await _counted(given)
        yield row
    while waiting:
        yield waiting.pop().row
        given = await _counted(given)


async def _counted(given: int) -> int:
    """Return one more, and let the event loop have a turn after each `_GIVEN`."""
    if (given + 1) % _GIVEN == 0:
        await asyncio.sleep(0)
    return given + 1


async def local_rows(outbox: Outbox, table: Table, query: Query) -> list[dict[str, Any]]:
    """Return what the file holds of the rows that `query` asks for, pending or delivered. Raises Undecidable."""
    table.check(query)
    rows: dict[Identity, Row] = {}
    async for entries in local.held(outbox, table.destination.name):
        await asyncio.to_thread(_apply, table, rows, entries)
        if len(rows) > MOST_HELD:
            raise Undecidable(f"the file holds more than {MOST_HELD:,} rows of it", field=query.table)
    return [placed.row for placed in await asyncio.to_thread(_placed, table, query, rows.values())]


def _apply(table: Table, rows: dict[Identity, Row], entries: Sequence[Stored]) -> None:
    for entry in entries:
        change = table.change(entry)
        row = table.applied(rows.get(change.identity), [change], alone=True)
        if row is not None:
            rows[change.identity] = row


async def _pending(outbox: Outbox, table: Table, query: Query) -> list[Stored]:
    entries = await local.pending(outbox, table.destination.name, MOST_PENDING)
    if len(entries) > MOST_PENDING:
        problem = f"more than {MOST_PENDING:,} entries are pending; read remote rows or local ones"
        raise Undecidable(problem, field=query.table)
    return entries


def _by_row(table: Table, entries: Sequence[Stored]) -> dict[Identity, list[Change]]:
    changes: dict[Identity, list[Change]] = {}
    for entry in entries:
        change = table.change(entry)
        changes.setdefault(change.identity, []).append(change)
    return changes


def _touched(
    table: Table, query: Query, entries: Sequence[Stored]
) -> tuple[dict[Identity, list[Change]], list[tuple[str, ...]]]:
    """Return what `entries` do to each row, but for new rows that the query does not ask for; and the rows' names."""
    changes = _by_row(table, entries)
    touched = {identity: found for identity, found in changes.items() if _may_matter(table, query, found)}
    return touched, [found[0].names for found in touched.values()]


async def _up_to_date(
    outbox: Outbox, table: Table, touched: dict[Identity, list[Change]], entries: Sequence[Stored], before: int
) -> dict[Identity, list[Change]]:
    """Return what is done to the touched rows, with what was put since `before`, and perhaps delivered.

    The remote rows were read later than the entries and may be newer than these.
    """
    since = [each async for step in local.held(outbox, table.destination.name, after_seq=before) for each in step]
    return await asyncio.to_thread(_again, table, touched, entries, since)


def _again(
    table: Table, touched: dict[Identity, list[Change]], entries: Sequence[Stored], since: Sequence[Stored]
) -> dict[Identity, list[Change]]:
    seen = {entry.seq for entry in entries}
    everything = sorted([*entries, *(each for each in since if each.seq not in seen)], key=lambda each: each.seq)
    changes = _by_row(table, everything)
    return {identity: changes[identity] for identity in touched}


def _may_matter(table: Table, query: Query, changes: Sequence[Change]) -> bool:
    """Whether these touch a row of the answer. One that is inserted only is what it is, wherever it is by now."""
    if any(change.operation is not Operation.INSERT for change in changes):
        return True
    row = table.applied(None, changes)
    return row is not None and table.holds(query, row)


def _overlaid(
    table: Table, query: Query, bases: dict[Identity, Row], changes: dict[Identity, list[Change]]
) -> list[Placed]:
    """Return the rows of the answer that `changes` touch, in its order but the next one last."""
    rows = (table.applied(bases.get(identity), found) for identity, found in changes.items())
    return _placed(table, query, (row for row in rows if row is not None))[::-1]


def _placed(table: Table, query: Query, rows: Iterable[Row]) -> list[Placed]:
    """Return those of `rows` that `query` asks for, in its order."""
    key = in_order(query.order)
    found = [Placed(table.place(query, row.texts), table.shown(query, row)) for row in rows if table.holds(query, row)]
    return sorted(found, key=lambda placed: key(placed.place))


async def _remote_rows(pages: Pages, table: Table, names: Sequence[tuple[str, ...]]) -> dict[Identity, Row]:
    """Return the remote rows of these names, in requests of a length that a URL may have."""
    rows: dict[Identity, Row] = {}
    for start in range(0, len(names), _NAMED):
        rows |= await _named_rows(pages, table, names[start : start + _NAMED])
    return rows


async def _named_rows(pages: Pages, table: Table, names: Sequence[tuple[str, ...]]) -> dict[Identity, Row]:
    """Return the remote rows of these names, whole: a filter may hold only for what pending entries make of them."""
    everything = walk(asked(table.destination.name), table.unique, table.compared)
    rows: dict[Identity, Row] = {}
    missing = {table.identity(dict(zip(table.unique, each, strict=True))): each for each in names}
    while missing:
        path = everything.only(one_of(table.unique, list(missing.values()))).path(Place.START, limit=len(missing))
        wanted, found = len(missing), await pages.fetch(path)
        for row in found:
            texts = texts_of(everything.texts, everything.taken(row))
            rows[table.identity(texts)] = Row(row, texts)
            missing.pop(table.identity(texts), None)
        if pages.is_last(len(found), wanted):
            break
    return rows
