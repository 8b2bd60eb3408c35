"""`outbox.transaction()`: all of it is stored, or nothing; and from where an outbox may be called.

It belongs to the process and the event loop that opened it, and inside a block only the block may put.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol, Unpack

import aiosqlite

from outbox.destinations import Destinations
from outbox.entry import PutOptions, SharedOptions
from outbox.errors import ForeignLoop, ForkedProcess, InsideTransaction, OutboxClosed, OutboxError, UsageError
from outbox.store.held_transaction import Block, makes_tables, refuse_control
from outbox.store.receipts import Receipt
from outbox.store.store import Store

# Which blocks the current task stands in, so that a put that would wait for itself is told so.
_inside: ContextVar[tuple[tuple[Store, Block], ...]] = ContextVar("outbox_transactions", default=())


class AnyTransaction(Protocol):
    """What takes `tx` commits with it: a `Transaction`, or the one that a thread stands in."""

    @property
    def transaction(self) -> Transaction: ...


class Transaction:
    """What `outbox.transaction()` gives: all of it is stored, or nothing. Durable once the block has ended."""

    def __init__(self, store: Store, intake: Destinations, block: Block) -> None:
        self._store = store
        self._destinations = intake
        self._block = block
        self._watchers: list[Callable[[bool], object]] = []

    @property
    def transaction(self) -> Transaction:
        """Itself: what `AnyTransaction` asks for."""
        return self

    def when_over(self, watcher: Callable[[bool], object]) -> None:
        """Call `watcher` once the block has ended: with True if it was committed, else (or if unknown) with False.

        For objects that follow the transaction in memory, such as `SessionManager`. It must neither raise nor wait.
        """
        self._watchers.append(watcher)

    def _over(self, committed: bool) -> None:
        for watcher in reversed(self._watchers):  # as what they undo was done: the last one first
            watcher(committed)

    async def put(self, destination: str, row: object, **options: Unpack[PutOptions]) -> Receipt:
        """Put one entry as part of the transaction. Arguments and errors as `Outbox.put`."""
        entry, spec, minted = self._destinations.entry(destination, row, options)
        return await self._block.put(entry, spec, minted=minted)

    async def put_many(
        self,
        destination: str,
        rows: Iterable[object],
        *,
        ids: Iterable[object] | None = None,
        **options: Unpack[SharedOptions],
    ) -> list[Receipt]:
        """Put `rows`, all or none, as part of the transaction. Arguments and errors as `Outbox.put_many`."""
        return await self._block.put_many(self._destinations.entries(destination, rows, ids, options))

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement of the bot's own in the same file and return its rows.

        Raises InvalidEntry: BEGIN, COMMIT, ATTACH, PRAGMA and their like; StoreError: SQLite refused it.
        """
        refuse_control(sql)

        async def work(connection: aiosqlite.Connection) -> list[tuple[Any, ...]]:
            if makes_tables(sql):
                self._store.expect_own_tables()
                self._store.expect_own_triggers()
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


@contextlib.asynccontextmanager
async def holding(store: Store, intake: Destinations, limit_s: float) -> AsyncIterator[Transaction]:
    """Hold the writer for the length of the block, `limit_s` seconds at the most; commit what is left of it."""
    block = store.block(limit_s)
    await block.begin()
    token = _inside.set((*_inside.get(), (store, block)))
    tx, ended = Transaction(store, intake, block), False
    try:
        yield tx
    except BaseException:
        # What the block raised is what its caller must hear, above all a cancellation; nothing was written.
        with contextlib.suppress(OutboxError):
            await block.end(commit=False)
        raise
    else:
        ended = True
        try:
            await block.end(commit=True)
        except OutboxError:  # not committed, or nobody knows
            ended = False
            raise
    finally:
        _inside.reset(token)
        if ended:
            block.when_over(tx._over)  # also if the caller was cancelled meanwhile
        else:
            tx._over(False)


def check_outside(store: Store) -> None:
    """Raises InsideTransaction: the caller stands in a block of this store, for which its put would wait."""
    if any(held is store and block.open for held, block in _inside.get()):
        raise InsideTransaction("use the block's own put: this one would wait for the block; nothing was written")


_RULE = "an outbox belongs to its process; open one in the worker"


def check_process(pid: int) -> None:
    """Raise ForkedProcess unless this is process `pid`, which opened the outbox."""
    if os.getpid() != pid:
        raise ForkedProcess(f"this is a fork of process {pid}: {_RULE}; nothing was written")


def refuse_copy(outbox: object) -> NoReturn:
    """Raise UsageError: what `__reduce__` does, for pickle and copy alike."""
    raise UsageError(f"a {type(outbox).__name__} can be neither pickled nor copied: {_RULE}")


class Owned:
    """What asks each call where it comes from."""

    _store: Store

    def _belongs_here(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._closed = False

    def _check_process(self) -> None:
        check_process(self._pid)
        if self._closed:
            raise OutboxClosed("the outbox is closed; nothing was written")

    def _check_caller(self) -> None:
        self._check_process()
        self._loop_is_here()
        check_outside(self._store)

    def _loop_is_here(self) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise ForeignLoop(
                "this is not the event loop that opened the outbox; nothing was written. From another thread use"
                " put_threadsafe; a bot that is not one asyncio program uses a BlockingOutbox"
            )
