"""What stands in the writer's line, and how each caller is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiosqlite

from outbox.entry import Entry, LaneSpec
from outbox.errors import DiskFull, OutcomeUnknown, StoreBusy, StoreVanished
from outbox.store.receipts import Receipt


@dataclass(slots=True)
class Put:
    entry: Entry
    spec: LaneSpec
    done: asyncio.Future[Receipt]


@dataclass(slots=True)
class Job:
    """Work in a transaction of its own; `work` gets the connection, inside the transaction."""

    work: Callable[[aiosqlite.Connection], Awaitable[Any]]
    done: asyncio.Future[Any]


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


def is_put(item: Put | Job | Bare) -> bool:
    return isinstance(item, Put) or (isinstance(item, Bare) and item.puts)


def fail(item: Put | Job | Bare, error: Exception, *, cause: Exception | None = None) -> None:
    """Answer one caller with `error`; a put gets an exception of its own, which names its own id and no other."""
    if item.done.done():
        return
    if isinstance(item, Put):
        own = _own(error, item.entry.id)
        if own is not error:
            own.__cause__ = cause or error.__cause__
        error = own
    item.done.set_exception(error)


def _own(error: Exception, id: str) -> Exception:
    """Return `error`, which may concern a whole group of puts, as it concerns the put of `id`."""
    match error:
        case OutcomeUnknown():
            return OutcomeUnknown(path=error.path, ids=(id,), waited_s=error.waited_s)
        case DiskFull():
            return DiskFull(path=error.path, ids=(id,))
        case StoreVanished():
            return error.of((id,), stored=error.stored)
        case StoreBusy():
            return StoreBusy(path=error.path, waited_s=error.waited_s)
        case _:
            return error
