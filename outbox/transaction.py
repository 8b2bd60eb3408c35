"""The bot's own SQL in the outbox file, and blocks in which it stands or falls with the entries that are put."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Unpack

import aiosqlite

from outbox.entry import PutOptions, SharedOptions
from outbox.errors import InvalidEntry, OutboxError
from outbox.puts import Destinations, Owned, inside
from outbox.settings import Settings
from outbox.store.held_transaction import Block
from outbox.store.receipts import Receipt
from outbox.store.store import Store

# What would end, nest or escape the one transaction, or change the file's own settings.
_REFUSED = frozenset(
    "ATTACH BEGIN COMMIT DETACH END PRAGMA RELEASE ROLLBACK SAVEPOINT VACUUM".split()  # noqa: SIM905 - reads better
)
# SQLite skips a byte order mark like a space.
_FIRST_WORD = re.compile(r"(?:[\s;\ufeff]|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)


def _first_word(sql: str) -> str:
    """Return the first word of `sql` in capitals; comments in front do not hide it."""
    found = _FIRST_WORD.match(sql)
    assert found is not None
    return found[1].upper()


def refuse_control(sql: str) -> None:
    """Raise InvalidEntry if `sql` is a statement that a block must not run."""
    if (word := _first_word(sql)) in _REFUSED:
        raise InvalidEntry(f"{word} cannot be used inside transaction()", field="sql")


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
            if _first_word(sql) in ("CREATE", "ALTER"):  # perhaps a table of the bot's own, or a trigger
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


class OwnSql(Owned):
    """The part of `Outbox` that runs the bot's own SQL."""

    _settings: Settings
    _destinations: Destinations

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
        block = self._store.block(self._settings.transaction_limit_s if limit_s is None else limit_s)
        await block.begin()
        token = inside.set((*inside.get(), (self._store, block)))
        tx, ended = Transaction(self._store, self._destinations, block), False
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
            inside.reset(token)
            if ended:
                block.when_over(tx._over)  # also if the caller was cancelled meanwhile
            else:
                tx._over(False)

    async def read_local(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run the bot's own query on its own tables in the same file and return the rows.

        Runs on the read-only connection, so it waits for no writer and sees what is committed; what an open
        `transaction()` has written, only its own `execute` sees. The flusher reads there too: keep the query short.

        Raises:
            InvalidEntry: It is BEGIN, ATTACH, PRAGMA or the like.
            StoreError: SQLite refused it.
            UsageError: The call was made where it cannot work, such as on another event loop.
        """
        self._check_process()
        self._loop_is_here()
        refuse_control(sql)
        return [tuple(row) for row in await self._store.read(sql, parameters)]
