"""The items of the writer's line, how each caller is answered, and what the file holds under an entry's id."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import aiosqlite

from outbox.entry import Entry, LaneSpec, Operation
from outbox.errors import DiskFull, IdConflict, OutcomeUnknown, StoreBusy, StoreError, StoreVanished
from outbox.store import database, queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a put returns.

    Attributes:
        id: The idempotency key.
        seq: The place in the outbox.
        duplicate: It was there already.
    """

    id: str
    seq: int
    duplicate: bool = False


async def find_lane(connection: aiosqlite.Connection, spec: LaneSpec) -> int:
    """Return the number of the lane of `spec`, making the lane if it is new."""
    return (await find_lanes(connection, [spec]))[spec]


async def find_lanes(connection: aiosqlite.Connection, specs: Sequence[LaneSpec]) -> dict[LaneSpec, int]:
    """Do the same for several, in one hop to SQLite's thread; nothing is written where all are there."""

    def find(connection: sqlite3.Connection) -> dict[LaneSpec, int]:
        found = dict[LaneSpec, int]()
        for spec in specs:
            numbers = connection.execute(queries.LANE.sql, spec).fetchall()
            if not numbers:
                connection.execute(queries.NEW_LANE.sql, spec)
                numbers = connection.execute(queries.LANE.sql, spec).fetchall()
            ((found[spec],),) = numbers
        return found

    return await database.run(connection, find)


async def insert_one(connection: aiosqlite.Connection, entry: Entry, path: Path) -> Receipt:
    """Store one entry inside an open transaction. Raises IdConflict."""
    cursor = await connection.execute(*queries.insert((entry,)))
    if cursor.rowcount == 1 and cursor.lastrowid is not None:
        return Receipt(id=entry.id, seq=cursor.lastrowid)
    return receipt_of(entry, (await stored(connection, [entry])).get(0), path)


async def stored(connection: aiosqlite.Connection, entries: Sequence[Entry]) -> dict[int, Sequence[Any]]:
    """Return what the file holds under the ids of `entries`, by their number; see `queries.STORED`."""
    pairs = json.dumps([(entry.id, entry.destination) for entry in entries])
    return {row[0]: row[1:] for row in await connection.execute_fetchall(queries.STORED.sql, (pairs,))}


def receipt_of(
    entry: Entry,
    row: Sequence[Any] | None,
    path: Path,
    *,
    after_seq: int | None = None,
    otherwise: StoreError | None = None,
) -> Receipt:
    """Return the receipt of `entry`, under whose id `row` is stored; beyond `after_seq` it is this very put's.

    Raises IdConflict: it is another entry, and `entry` does not say to keep that, or is another operation.
    Raises `otherwise`, or StoreError: nothing is stored.
    """
    if row is None:  # if not for want of room: a trigger of the bot's own said RAISE(IGNORE)
        raise otherwise or StoreError(f"{path} refuses entry {entry.id}; it was not written", path=path)
    seq, digest, payload, operation, key, on_conflict, match = row
    says_the_same = (payload, operation, on_conflict, match) == (
        entry.payload, entry.operation, entry.on_conflict, entry.match,
    )  # fmt: skip
    # A shell's entry has no digest before the flusher has read it. An insert whose id was minted has no key; put again
    # under the id that OutcomeUnknown named, it has one: the place in a line is no part of the row.
    another_line = operation == Operation.INSERT if digest is not None else key in (None, entry.key)
    same = digest == entry.digest or (says_the_same and another_line)
    if not same and (entry.if_exists != "keep" or operation != entry.operation):  # an update is no second telling
        raise IdConflict(entry.id, entry.destination)
    return Receipt(id=entry.id, seq=seq, duplicate=digest is None or after_seq is None or seq <= after_seq)


@dataclass(slots=True)
class Put:
    """An entry on its way to the writer."""

    entry: Entry
    spec: LaneSpec
    done: asyncio.Future[Receipt]
    puts: ClassVar[bool] = True

    @property
    def ids(self) -> Sequence[str]:
        """The entries that an unknown outcome would concern."""
        return (self.entry.id,)


@dataclass(slots=True)
class Job:
    """Work in a transaction of its own; `work` gets the connection, inside the transaction.

    one_statement: `work` is one statement, which is a transaction by itself.
    """

    work: Callable[[aiosqlite.Connection], Awaitable[Any]]
    done: asyncio.Future[Any]
    one_statement: bool = False
    puts: ClassVar[bool] = False
    ids: ClassVar[Sequence[str]] = ()


@dataclass(slots=True)
class Bare:
    """Work that begins and ends its own transaction, or needs none, such as a checkpoint.

    ids: the entries that an unknown outcome would concern. puts: it stores entries and nothing else, so that it may run
    again.
    """

    work: Callable[[aiosqlite.Connection], Awaitable[Any]]
    done: asyncio.Future[Any]
    ids: Sequence[str]
    puts: bool = False


def fail(item: Put | Job | Bare, error: Exception, *, cause: Exception | None = None) -> None:
    """Answer one caller with `error`; a put gets an exception of its own, which names its own ids and no other."""
    if item.done.done():
        return
    if item.puts:
        own = _own(error, item.ids)
        if own is not error:
            own.__cause__ = cause or error.__cause__
        error = own
    item.done.set_exception(error)


def _own(error: Exception, ids: Sequence[str]) -> Exception:
    """Return `error`, which may concern a whole group of puts, as it concerns the put of `ids`."""
    match error:
        case OutcomeUnknown():
            return OutcomeUnknown(path=error.path, ids=ids, waited_s=error.waited_s)
        case DiskFull():
            return DiskFull(path=error.path, ids=ids)
        case StoreVanished():
            return error.of(ids, stored=error.stored)
        case StoreBusy():
            return StoreBusy(path=error.path, waited_s=error.waited_s)
        case _:
            return error
