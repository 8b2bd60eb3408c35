"""Many entries at once: all of them are stored, or none."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiosqlite

from outbox.entry import Entry, LaneSpec
from outbox.store import database, queries
from outbox.store.capacity import Capacity
from outbox.store.receipts import Receipt, find_lane, receipt_of, stored
from outbox.store.writer import Writer

# Entries, each with the spec of its lane.
Placed = Sequence[tuple[Entry, LaneSpec]]


async def put_many(writer: Writer, path: Path, ready: Placed) -> list[Receipt]:
    """Store `ready` in one commit and return their receipts in order.

    Raises IdConflict, OutboxFull, DiskFull, StoreBusy, OutcomeUnknown, StoreError, each about all of them.
    """
    if not ready:
        return []

    async def work(connection: aiosqlite.Connection) -> list[Receipt]:
        entries = await placed(connection, ready, writer.lanes)  # lanes made here are committed at once
        receipts = await _at_once(connection, entries, writer)
        if receipts is None:
            async with database.transaction(connection):
                receipts = await insert_all(connection, entries, path, capacity=writer.capacity)
        writer.note_stored(max(receipt.seq for receipt in receipts))
        return receipts

    return await writer.put_all(ready[0][0].destination, work, [entry.id for entry, _ in ready])


async def insert_all(
    connection: aiosqlite.Connection, entries: Sequence[Entry], path: Path, *, capacity: Capacity
) -> list[Receipt]:
    """Store `entries` inside an open transaction. Raises IdConflict, OutboxFull, DiskFull: after some were stored."""
    problems = [] if capacity.open else await capacity.refusals(connection, entries)
    problem = next((each for each in problems if each is not None), None)
    ((before,),) = await connection.execute_fetchall(queries.LAST_SEQ.sql)
    fresh = 0
    for part in parts(entries) if problem is None else ():
        cursor = await connection.execute(*queries.insert(part))
        fresh += cursor.rowcount
    ((after,),) = await connection.execute_fetchall(queries.LAST_SEQ.sql)
    if fresh == len(entries) == after - before:
        return [Receipt(id=entry.id, seq=seq) for seq, entry in enumerate(entries, before + 1)]
    # Some were there already, or a trigger of the bot's own came in between.
    found = await stored(connection, entries)
    receipts: list[Receipt] = []
    for number, entry in enumerate(entries):
        receipts.append(receipt_of(entry, found.get(number), path, after_seq=before, otherwise=problem))
        before = max(before, receipts[-1].seq)  # the same id again among them is there already
    return receipts


async def _at_once(connection: aiosqlite.Connection, entries: Sequence[Entry], writer: Writer) -> list[Receipt] | None:
    """Store them in one statement, so in one hop; None: that is impossible, and nothing was stored."""
    one = queries.statement_rows(len(entries)) == len(entries)
    if not (one and writer.capacity.open and await writer.is_plain(connection)):
        return None
    try:
        cursor = await connection.execute(*queries.insert(entries, keep=False))
    except sqlite3.IntegrityError:  # one is stored already, or breaks a rule of the bot's own
        return None
    places = range(writer.last_seq + 1, writer.last_seq + 1 + len(entries))
    if cursor.lastrowid == places[-1] and cursor.rowcount == len(entries):
        return [Receipt(id=entry.id, seq=seq) for entry, seq in zip(entries, places, strict=True)]
    found = await stored(connection, entries)  # others came in between
    return [Receipt(id=entry.id, seq=found[number][0]) for number, entry in enumerate(entries)]


async def placed(connection: aiosqlite.Connection, ready: Placed, lanes: dict[LaneSpec, int]) -> list[Entry]:
    """Return the entries, each with its lane; new lanes are added to `lanes`."""
    entries: list[Entry] = []
    for entry, spec in ready:
        if entry.lane is None:
            if spec not in lanes:
                lanes[spec] = await find_lane(connection, spec)
            entry = entry._replace(lane=lanes[spec])
        entries.append(entry)
    return entries


def parts(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """Return `entries` in parts that one statement each can store."""
    found, start = list[Sequence[Entry]](), 0
    while start < len(entries):
        size = queries.statement_rows(len(entries) - start)
        found.append(entries[start : start + size])
        start += size
    return found


@contextlib.asynccontextmanager
async def savepoint(connection: aiosqlite.Connection) -> AsyncIterator[None]:
    """Keep all of what the block does, or nothing; the open transaction continues."""
    await connection.execute("savepoint outbox_many")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite has not given the whole transaction up
            await connection.execute("rollback to outbox_many")
            await connection.execute("release outbox_many")
        raise
    await connection.execute("release outbox_many")
