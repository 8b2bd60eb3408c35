"""The calls of an `Outbox` that put rows, its transactions, and the check of where a call comes from.

An outbox belongs to the process and the event loop that opened it; inside a block of `outbox.transaction()` only the
block may put, since any other put would wait for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol, TypeVar, Unpack

import aiosqlite

from outbox import logs
from outbox.destinations import Destinations
from outbox.entry import Destination, Operation, OperationName, PutOptions, SharedOptions
from outbox.errors import (
    ForeignLoop,
    ForkedProcess,
    InsideTransaction,
    InvalidEntry,
    OutboxClosed,
    OutboxError,
    UsageError,
)
from outbox.foreign_types import register_type
from outbox.futures import PutFuture, ThreadFuture, Waiting
from outbox.settings import Settings
from outbox.store.held_transaction import Block
from outbox.store.receipts import Receipt
from outbox.store.store import Store

V = TypeVar("V")

# What would end, nest or escape the one transaction, or change the file's own settings.
_REFUSED = frozenset(
    "ATTACH BEGIN COMMIT DETACH END PRAGMA RELEASE ROLLBACK SAVEPOINT VACUUM".split()  # noqa: SIM905 - reads better
)
# SQLite skips a byte order mark like a space.
_FIRST_WORD = re.compile(r"(?:[\s;\ufeff]|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)


def refuse_control(sql: str) -> None:
    """Raise InvalidEntry if `sql` is a statement that a block must not run; comments in front do not hide it."""
    match = _FIRST_WORD.match(sql)
    word = match.group(1).upper() if match else ""
    if word in _REFUSED:
        raise InvalidEntry(f"{word} cannot be used inside transaction()", field="sql")


def makes_tables(sql: str) -> bool:
    """Return whether `sql` may leave a table of the bot's own in the file."""
    match = _FIRST_WORD.match(sql)
    return match is not None and match.group(1).upper() in ("CREATE", "ALTER")


# The blocks that the current task is inside, so that a put that would wait for itself raises.
_inside: ContextVar[tuple[tuple[Store, Block], ...]] = ContextVar("outbox_transactions", default=())


class AnyTransaction(Protocol):
    """What an argument `tx` may be: a `Transaction`, or the blocking one of a thread."""

    @property
    def transaction(self) -> Transaction:
        """The transaction itself."""
        ...


class Transaction:
    """What `outbox.transaction()` gives: all of it is stored, or nothing. Durable once the block has ended."""

    def __init__(self, store: Store, intake: Destinations, block: Block) -> None:
        self._store = store
        self._destinations = intake
        self._block = block
        self._watchers: list[Callable[[bool], object]] = []

    @property
    def transaction(self) -> Transaction:
        """The transaction itself, as `AnyTransaction` requires."""
        return self

    def when_over(self, watcher: Callable[[bool], object]) -> None:
        """Call `watcher` once the block has ended: with True if it was committed, with False if not or if unknown.

        For objects with state in memory, such as `SessionManager`. `watcher` must neither raise nor wait.
        """
        self._watchers.append(watcher)

    def _over(self, committed: bool) -> None:
        for watcher in reversed(self._watchers):  # they undo in reverse order: the last one first
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
        """Run one of the bot's own statements in the same file and return its rows.

        Raises:
            InvalidEntry: It is BEGIN, COMMIT, ATTACH, PRAGMA or the like, which a block may not run.
            StoreError: SQLite refused it.
        """
        refuse_control(sql)

        async def work(connection: aiosqlite.Connection) -> list[tuple[Any, ...]]:
            if makes_tables(sql):
                self._store.sidecar.update(own_tables=True)
                self._store.writer.expect_own_triggers()
            return [tuple(row) for row in await connection.execute_fetchall(sql, parameters)]

        return await self._block.run(work)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each of `rows`; errors as `execute`. If one fails, those before it stay done.

        The transaction's time limit applies: split large work into several transactions.
        """
        refuse_control(sql)

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.executemany(sql, rows)

        await self._block.run(work)


@contextlib.asynccontextmanager
async def holding(store: Store, intake: Destinations, limit_s: float) -> AsyncIterator[Transaction]:
    """Hold the writer for the length of the block, `limit_s` seconds at most; then commit."""
    block = store.block(limit_s)
    await block.begin()
    token = _inside.set((*_inside.get(), (store, block)))
    tx, ended = Transaction(store, intake, block), False
    try:
        yield tx
    except BaseException:
        # The caller must get what the block raised, above all a cancellation; nothing was written.
        with contextlib.suppress(OutboxError):
            await block.end(commit=False)
        raise
    else:
        ended = True
        try:
            await block.end(commit=True)
        except OutboxError:  # not committed, or unknown
            ended = False
            raise
    finally:
        _inside.reset(token)
        if ended:
            block.when_over(tx._over)  # also if the caller was cancelled meanwhile
        else:
            tx._over(False)


def check_outside(store: Store) -> None:
    """Raise InsideTransaction if the caller is inside a block of this store, for which its put would wait."""
    if any(held is store and block.open for held, block in _inside.get()):
        raise InsideTransaction("use the block's own put: this one would wait for the block; nothing was written")


_RULE = "an outbox belongs to its process; open one in the worker"


def check_process(pid: int) -> None:
    """Raise ForkedProcess unless this is process `pid`, which opened the outbox."""
    if os.getpid() != pid:
        raise ForkedProcess(f"this is a fork of process {pid}: {_RULE}; nothing was written")


def refuse_copy(outbox: object) -> NoReturn:
    """Raise UsageError: `__reduce__` for pickle and copy."""
    raise UsageError(f"a {type(outbox).__name__} can be neither pickled nor copied: {_RULE}")


class Owned:
    """Checks the process, loop and thread of each call."""

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


class Puts(Owned):
    """The part of `Outbox` that stores."""

    _settings: Settings
    _destinations: Destinations
    _waiting: Waiting
    _repeating: logs.Repeating

    async def put(self, destination: str, row: object, **options: Unpack[PutOptions]) -> Receipt:
        """Store one row for `destination` and return once it is on disk, safe from a crash and a power loss.

        Args:
            destination: The remote table.
            row: A mapping, dataclass or pydantic model. It is encoded at once; the caller may change it afterwards.

        Keyword Args:
            operation: "insert" (the default of most destinations), "upsert" or "update".
            on_conflict: The columns that decide an upsert, unless the destination declares them.
            match: The columns and values of the rows to update.
            key: Entries with the same destination and key arrive in the order of their puts. An upsert or update has
                one by itself.
            id: The idempotency key, minted unless given. The same id again stores one row.
            if_exists: "keep": an entry that already has this id stays, whatever its data, and the receipt says
                `duplicate`. Without it, other data is an error.

        Raises:
            InvalidEntry: A value, a name or an option cannot be stored; `field` names it. Nothing was written.
            IdConflict: The id is stored already, with other data. Nothing was written.
            OutboxFull: A configured limit is reached. Nothing was written.
            StoreError: The file cannot be written; the message says what became of the row.
            OutcomeUnknown: The row may be stored. Put the same id again.
            UsageError: The call was made where it cannot work, such as on another event loop. Nothing was written.
        """
        self._check_caller()
        entry, spec, _ = self._destinations.entry(destination, row, options)
        return await self._store.put(entry, spec)

    async def put_many(
        self,
        destination: str,
        rows: Iterable[object],
        *,
        ids: Iterable[object] | None = None,
        **options: Unpack[SharedOptions],
    ) -> list[Receipt]:
        """Store all of `rows` in one commit, or none of them; their receipts in order, once they are on disk.

        Other options and errors as `put`. An error is about all rows; InvalidEntry names the row: `rows[3].trades.pnl`.

        Args:
            destination: The remote table.
            rows: They are encoded at once, at some 3 µs each if plain and alike; the caller may change them afterwards.
            ids: An idempotency key for each row, where its key column does not hold one.
        """
        self._check_caller()
        return await self._store.put_many(self._destinations.entries(destination, rows, ids, options))

    def put_nowait(self, destination: str, row: object, **options: Unpack[PutOptions]) -> PutFuture:
        """Line one row up and return at once. NOT durable before the returned future is done: await it to know.

        Arguments and errors as `put`: an invalid row raises here, a disk error is raised by the future.

        Raises:
            OutboxFull: `max_waiting` rows, or `max_waiting_bytes` of payload, already wait for their commit, including
                those of `put_threadsafe`. Nothing was written.
        """
        self._check_caller()
        entry, spec, _ = self._destinations.entry(destination, row, options)
        left = self._waiting.enter(entry)
        future = PutFuture(destination, entry.id, loop=self._loop, repeating=self._repeating)
        asyncio.Future.add_done_callback(future, left)
        self._store.writer.enqueue(entry, spec, future)
        return future

    def put_threadsafe(self, destination: str, row: object, **options: Unpack[PutOptions]) -> ThreadFuture:
        """The same from another thread: `put_threadsafe(…).result()` returns once the row is on disk.

        Arguments and limits as `put_nowait`. The row is encoded in the calling thread. Waiting for the result on the
        event loop's own thread raises UsageError, since it would wait for ever.
        """
        self._check_process()
        check_outside(self._store)  # asyncio.to_thread copies the context, and with it the block
        entry, spec, _ = self._destinations.entry(destination, row, options)
        left = self._waiting.enter(entry)
        future = ThreadFuture(destination, entry.id, loop=self._loop, repeating=self._repeating)
        future.when_done(left)

        def line_up() -> None:
            if future.cancelled():
                return
            try:
                future.follow(self._store.put(entry, spec))
            except OutboxClosed as error:
                future.fail(error)

        try:
            self._loop.call_soon_threadsafe(line_up)
        except RuntimeError as error:  # the loop is closed
            future.cancel()
            raise OutboxClosed("the outbox's event loop is closed; nothing was written") from error
        return future

    @contextlib.asynccontextmanager
    async def transaction(self, *, limit_s: float | None = None) -> AsyncIterator[Transaction]:
        """All or nothing, one commit: entries, session state and the bot's own SQL in the same file.

        Every other put waits meanwhile. An exception in the block rolls everything back.

        Args:
            limit_s: The block's time limit; the settings' `transaction_limit_s` (2 s) unless given.

        Yields:
            The transaction, which puts entries and runs SQL.

        Raises:
            TransactionExpired: The block took longer; everything was rolled back.
            StoreError: The file cannot be written; the message says what became of the block.
            OutcomeUnknown: The block may be committed.
        """
        self._check_caller()
        bound_s = self._settings.transaction_limit_s if limit_s is None else limit_s
        async with holding(self._store, self._destinations, bound_s) as tx:
            yield tx

    def register(
        self,
        name: str,
        *,
        key: str = "id",
        on_conflict: Sequence[str] = (),
        operation: OperationName | Operation = Operation.INSERT,
        integers: Sequence[str] = (),
        columns: Mapping[str, object] | Sequence[str] = (),
    ) -> Destination:
        """Declare a destination. What is known of a shipped table (trades, events, sessions) stays known.

        Args:
            name: The remote table.
            key: The column that an insert fills with the entry's id.
            on_conflict: The columns that decide an upsert.
            operation: What `put` does unless told otherwise.
            integers: Columns that PostgreSQL holds as integers, where 1.0 must be sent as 1.
            columns: Names, or each name with its `Kind`, such as {"ticket": "integer", "note": "text"}. An id that the
                key's kind cannot hold is then refused at `put`, and `TradeLogger` sends columns of your own `trades`
                instead of keeping them in `extra`.

        Raises:
            InvalidEntry: A name is no identifier. Nothing was declared.
            InvalidQuery: A kind does not exist. Nothing was declared.
        """
        return self._destinations.register(
            name, key=key, on_conflict=on_conflict, operation=operation, integers=integers, columns=columns
        )

    def register_type(self, kind: type[V], convert: Callable[[V], object]) -> None:
        """Store values of `kind`, and of its subclasses, as what `convert` makes of them: `register_type(Price, str)`.

        Applies to all outboxes of the process, also to keys of mappings, and overrides what is built in for the type.

        Raises:
            ConfigError: JSON knows the type itself, for example `float`. Nothing was registered.
        """
        register_type(kind, convert)

    def destination(self, name: str) -> Destination:
        """Return what is declared for `name`, or the defaults.

        Raises:
            InvalidEntry: It is not an identifier.
        """
        return self._destinations.destination(name)
