"""The calls of an `Outbox` that put rows, and what these need to know: destinations and types."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TypeVar, Unpack

from outbox import logs
from outbox.destinations import Destinations
from outbox.entry import Destination, Operation, OperationName, PutOptions, SharedOptions
from outbox.errors import OutboxClosed
from outbox.foreign_types import register_type
from outbox.futures import PutFuture, ThreadFuture, Waiting
from outbox.settings import Settings
from outbox.store.receipts import Receipt
from outbox.transaction import Owned, Transaction, check_outside, holding

V = TypeVar("V")


class Puts(Owned):
    """The part of `Outbox` that stores."""

    _settings: Settings
    _destinations: Destinations
    _waiting: Waiting
    _repeating: logs.Repeating

    async def put(self, destination: str, row: object, **options: Unpack[PutOptions]) -> Receipt:
        """Store one row for `destination` and return once it is on disk, safe from a crash and a power loss.

        row: a mapping, dataclass or pydantic model; it is encoded before this returns to the event loop, so the
        caller may change it at once. operation: "insert" (the default of most destinations), "upsert" (decided by
        `on_conflict` or the destination's) or "update" (of the rows that `match` says). key: entries with the same
        destination and key arrive in the order of their puts; an upsert or update has one by itself. id: the
        idempotency key, minted unless given; the same id again stores one row. if_exists="keep": if that id is
        stored already, with whatever data, that stays (the receipt says `duplicate`); else other data is an error.

        Raises InvalidEntry, IdConflict: nothing was written, the message names the field. StoreBusy, DiskFull,
        OutboxFull, OutcomeUnknown, StoreError: what became of it. UsageError: called from where it cannot work.
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

        ids: an idempotency key for each row, where its key column does not hold one. The other options count for each
        row. The rows are encoded before this returns to the event loop, at some 6 µs each, so that the caller may
        change them at once. Errors as `put`, each about all of them; InvalidEntry names the row, such as
        `rows[3].trades.pnl`.
        """
        self._check_caller()
        return await self._store.put_many(self._destinations.entries(destination, rows, ids, options))

    def put_nowait(self, destination: str, row: object, **options: Unpack[PutOptions]) -> PutFuture:
        """Line one row up and return at once. NOT durable before the returned future is done: await it to know.

        At most `max_waiting` of them, and `max_waiting_bytes` of payload, may wait for their commit, those of
        `put_threadsafe` included; one more raises OutboxFull. Other errors as `put`: what is wrong with the row is
        raised here, what is wrong with the disk by the future.
        """
        self._check_caller()
        entry, spec, _ = self._destinations.entry(destination, row, options)
        left = self._waiting.enter(entry)
        future = PutFuture(destination, entry.id, loop=self._loop, repeating=self._repeating)
        asyncio.Future.add_done_callback(future, left)
        self._store.enqueue(entry, spec, future)
        return future

    def put_threadsafe(self, destination: str, row: object, **options: Unpack[PutOptions]) -> ThreadFuture:
        """The same from another thread: `put_threadsafe(…).result()` returns once the row is on disk.

        The row is encoded in the calling thread. Waiting for the result on the event loop's own thread raises
        UsageError, since it would wait for ever. Bounded as `put_nowait`.
        """
        self._check_process()
        check_outside(self._store)  # asyncio.to_thread takes the block along
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

        Every other put waits meanwhile: `limit_s` (the settings' `transaction_limit_s`, 2 s) bounds it, after which
        all is rolled back. Raises TransactionExpired, StoreBusy, DiskFull, OutcomeUnknown, and what the block raises.
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
        """Declare a destination. key: the column that an insert fills with the entry's id; the rest as `put`.

        integers: columns that PostgreSQL holds as integers, where 1.0 must be sent as 1. columns: names, or each name
        with its `Kind`, such as {"ticket": "integer", "note": "text"}: an id that the key's kind cannot hold is refused
        at `put`, and `TradeLogger` sends columns of your own `trades` instead of keeping them in `extra`.
        What is known of a shipped table (trades, events, sessions) stays known. Raises InvalidEntry, InvalidQuery.
        """
        return self._destinations.register(
            name, key=key, on_conflict=on_conflict, operation=operation, integers=integers, columns=columns
        )

    def register_type(self, kind: type[V], convert: Callable[[V], object]) -> None:
        """Store values of `kind`, and of its subclasses, as what `convert` makes of them: `register_type(Price, str)`.

        It counts for all outboxes of the process, for keys of mappings too, and goes before what is known of the type
        otherwise. Raises ConfigError: JSON has such values of its own, say `float`.
        """
        register_type(kind, convert)

    def destination(self, name: str) -> Destination:
        """Return what is declared of `name`, or the defaults. Raises InvalidEntry: it is no identifier."""
        return self._destinations.destination(name)
