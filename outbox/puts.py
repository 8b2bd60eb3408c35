"""The calls of an `Outbox` that put rows: the check of where a call comes from, and the entry that a row becomes.

An outbox belongs to the process and the event loop that opened it; inside a block of `outbox.transaction()` only the
block may put, since any other put would wait for its end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import NoReturn, TypeVar, Unpack

from outbox import logs
from outbox.clock import Clock
from outbox.columns import SHIPPED, Kind, described, identifier, integer_columns
from outbox.entry import Destination, Entry, LaneSpec, Operation, OperationName, PutOptions, SharedOptions
from outbox.errors import (
    ConfigError,
    ForeignLoop,
    ForkedProcess,
    InsideTransaction,
    InvalidEntry,
    OutboxClosed,
    UsageError,
)
from outbox.foreign_types import register_type
from outbox.futures import PutFuture, ThreadFuture, Waiting
from outbox.prepare import member, mint_id, mint_ids, written, written_alike
from outbox.store.held_transaction import Block
from outbox.store.receipts import Receipt
from outbox.store.store import Store

V = TypeVar("V")

logger: logs.Logger = logs.named("outbox")

# The old module's tables (supabase_sql/).
DECLARED = (
    Destination("trades", integers=integer_columns("trades"), key_kind=Kind.UUID),
    Destination("events", integers=integer_columns("events"), key_kind=Kind.UUID),
    Destination("sessions", on_conflict=("session_id",), integers=integer_columns("sessions"), key_kind=Kind.UUID),
)

# How many rows of one put_many are encoded in one go if they are alike: one that differs slows down this many.
_ALIKE = 128

# A caller with a deadline collects here the ids of the entries that its call puts.
put_ids: ContextVar[list[str] | None] = ContextVar("outbox_put_ids", default=None)

# The blocks that the current task is inside, so that a put that would wait for itself raises.
inside: ContextVar[tuple[tuple[Store, Block], ...]] = ContextVar("outbox_transactions", default=())


def check_outside(store: Store) -> None:
    """Raise InsideTransaction if the caller is inside a block of this store, for which its put would wait."""
    if any(held is store and block.open for held, block in inside.get()):
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


class Destinations:
    """Makes entries. Everything here happens in the caller's thread, before its first await."""

    def __init__(self, store: Store, *, clock: Clock, source: str | None) -> None:
        self._store = store
        self._clock = clock
        self._repeating = logs.Repeating(clock)
        self._source = source
        self._destinations = {destination.name: destination for destination in DECLARED}

    def register(
        self,
        name: str,
        *,
        key: str,
        on_conflict: Sequence[str],
        operation: OperationName | Operation,
        integers: Sequence[str],
        columns: Mapping[str, object] | Sequence[str],
    ) -> Destination:
        """Declare a destination; arguments and errors as `Outbox.register`."""
        if isinstance(on_conflict, str) or isinstance(integers, str) or isinstance(columns, str):
            raise ConfigError(
                "on_conflict, integers and columns are sequences of column names, not one string",
                field="on_conflict, integers, columns",
            )
        shipped = {column: known.kind for column, known in SHIPPED.get(name, {}).items()}
        told = (
            {column: known.kind for column, known in described(columns).items()} if isinstance(columns, Mapping) else {}
        )
        kinds = shipped | dict.fromkeys(integers, Kind.INTEGER) | told
        destination = Destination(
            identifier(name, field="name"),
            key=identifier(key, field="key"),
            on_conflict=tuple(identifier(column, field="on_conflict") for column in on_conflict),
            operation=member(Operation, operation, field="operation"),
            integers=frozenset(
                identifier(column, field="integers") for column, kind in kinds.items() if kind is Kind.INTEGER
            ),
            key_kind=kinds.get(key),
            columns=frozenset(identifier(column, field="columns") for column in columns) - shipped.keys(),
        )
        self._destinations[name] = destination
        return destination

    def declare(self, destinations: Iterable[Destination]) -> None:
        """Declare all of `destinations`, as `register` each. Raises ConfigError, InvalidEntry, InvalidQuery."""
        for each in destinations:
            if not isinstance(each, Destination):
                raise ConfigError(
                    f"destinations holds a {type(each).__name__} where a Destination is needed", field="destinations"
                )
            known = self.register(
                each.name,
                key=each.key,
                on_conflict=each.on_conflict,
                operation=each.operation,
                integers=sorted(each.integers),
                columns=sorted(each.columns),
            )
            if each.key_kind is not None:
                self._destinations[each.name] = replace(known, key_kind=each.key_kind)

    def destination(self, name: str) -> Destination:
        """Return what is declared for `name`, or the defaults. Raises InvalidEntry: it is not an identifier."""
        if not isinstance(name, str):
            raise InvalidEntry(
                f'must be the name of a table, not a {type(name).__name__}; it comes first: put("trades", row)',
                field="destination",
            )
        known = self._destinations.get(name)
        return known if known is not None else Destination(identifier(name, field="destination"))

    def entry(self, destination: str, row: object, options: PutOptions) -> tuple[Entry, LaneSpec, bool]:
        """Return the entry that a put of `row` stores, its lane's spec, and whether its id was minted.

        Raises InvalidEntry.
        """
        ready = written(self.destination(destination), row, **options)
        if ready.repaired:
            self._tell_repaired(destination, ready.repaired)
        now_ms, spec = self._clock.now_ms(), ready.intent.spec
        entry = ready.entry(
            ready.id or mint_id(now_ms, os.urandom(10)),
            created_at_ms=now_ms,
            source=self._source,
            lane=self._store.writer.lanes.get(spec),
        )
        if (ids := put_ids.get()) is not None:
            ids.append(entry.id)
        return entry, spec, ready.id is None

    def entries(
        self, destination: str, rows: Iterable[object], ids: Iterable[object] | None, options: SharedOptions
    ) -> list[tuple[Entry, LaneSpec]]:
        """Return the entries of one put_many, each with its lane's spec. Raises InvalidEntry, which names the row."""
        if isinstance(rows, Mapping | str | bytes) or not isinstance(rows, Iterable):
            raise InvalidEntry(f"must be rows, such as a list of mappings, not one {type(rows).__name__}", field="rows")
        known = self.destination(destination)
        rows = list(rows)
        chosen = [None] * len(rows) if ids is None else list(ids)
        if len(chosen) != len(rows):
            raise InvalidEntry(f"{len(chosen)} ids for {len(rows)} rows", field="ids")
        now_ms = self._clock.now_ms()
        minted = mint_ids(now_ms, os.urandom(10 * len(rows)))
        plain = ids is None and all(value is None for value in options.values())
        ready: list[tuple[Entry, LaneSpec]] = []
        for start in range(0, len(rows), _ALIKE):
            part = slice(start, start + _ALIKE)
            alike = written_alike(known, rows[part]) if plain else None
            if alike is not None:
                spec = alike.intent.spec
                lane = self._store.writer.lanes.get(spec)
                made = alike.entries(minted[part], created_at_ms=now_ms, source=self._source, lane=lane)
                ready += [(entry, spec) for entry in made]
                continue
            for number, row in enumerate(rows[part], start):
                try:
                    each = written(known, row, id=chosen[number], **options)
                except InvalidEntry as error:
                    raise InvalidEntry(error.reason, field=f"rows[{number}].{error.field}") from None
                if each.repaired:
                    self._tell_repaired(destination, each.repaired)
                spec, own = each.intent.spec, each.id or minted[number]
                lane = self._store.writer.lanes.get(spec)
                ready.append((each.entry(own, created_at_ms=now_ms, source=self._source, lane=lane), spec))
        if (noted := put_ids.get()) is not None:
            noted += [entry.id for entry, _ in ready]
        return ready

    def _tell_repaired(self, destination: str, fields: Sequence[str]) -> None:
        """Log the repaired fields: PostgreSQL stores neither NUL nor lone surrogates."""
        if (news := self._repeating.news(destination, str(fields))) is not None:
            logger.warning("text repaired", extra={"destination": destination, "fields": fields, **news})


class Puts(Owned):
    """The part of `Outbox` that stores."""

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
