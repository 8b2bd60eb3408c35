"""A caller's own transaction: the writer runs its statements, and nobody holds it for ever."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from outbox.clock import Clock
from outbox.entry import Entry, LaneSpec
from outbox.errors import DiskFull, OutboxError, StoreError, TransactionExpired
from outbox.store import database, many, queries
from outbox.store.receipts import Receipt, insert_one, receipt_of, stored
from outbox.store.writer import Writer

T = TypeVar("T")

_INTERRUPT_S = 0.01


class _End(Enum):
    COMMIT = auto()
    ROLLBACK = auto()


@dataclass(slots=True)
class _Statement:
    work: Callable[[aiosqlite.Connection], Awaitable[Any]]
    done: asyncio.Future[Any]

    def fail(self, error: Exception) -> None:
        """Answer with `error`, unless it is answered."""
        if not self.done.done():
            self.done.set_exception(error)


class Block:
    """One `transaction()`: the writer serves it until it ends, or until `limit_s` seconds have passed."""

    def __init__(self, writer: Writer, path: Path, *, clock: Clock, limit_s: float) -> None:
        self._writer = writer
        self._path = path
        self._clock = clock
        self._limit_s = limit_s
        self._commands: deque[_Statement | _End] = deque()
        self._arrived = asyncio.Event()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._ids: list[str] = []  # what was put in it so far
        self._last_seq = 0  # the newest of them
        self._lanes: dict[LaneSpec, int] = {}  # made in this transaction, and rolled back with it
        # Puts whose id was minted here cannot meet an entry that is there, and once one of them has been numbered the
        # numbers of the next are known: they are stored together, before whatever else is asked for.
        self._gathered: list[tuple[Entry, LaneSpec]] = []
        self._next_seq: int | None = None  # None: the next one must be stored to learn its number
        self._expired = False
        self._working = False  # a statement is under way
        self._ended = asyncio.Event()
        self._torn = False
        self.open: bool = True  # False: it ended, by itself or by its limit
        self.committed: bool = False

    async def begin(self) -> None:
        """Wait for the writer's turn and begin. Raises StoreBusy, DiskFull, OutboxClosed."""
        if self._writer.capacity.short and (problem := self._writer.commits.refusal(())) is not None:
            raise problem
        self._task = asyncio.create_task(
            self._writer.run_exclusive(self._serve, ids=self._ids), name="outbox-transaction"
        )
        try:
            await asyncio.wait({self._task, self._begun}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._command(_End.ROLLBACK)
            raise
        if not self._begun.done():
            self.open = False
            await self._task  # raises why it could not begin

    async def put(self, entry: Entry, spec: LaneSpec, *, minted: bool) -> Receipt:
        """Put one entry. minted: its id was made for it, so that no other has it. Errors as `Outbox.put`."""
        if not self.open:
            raise self._over()
        if minted and self._next_seq is not None:
            receipt = Receipt(id=entry.id, seq=self._next_seq)
            self._gathered.append((entry, spec))
            self._ids.append(entry.id)
            self._last_seq, self._next_seq = self._next_seq, self._next_seq + 1
            if len(self._gathered) >= queries.STEP:
                await self._run(_nothing)
            return receipt

        async def work(connection: aiosqlite.Connection) -> Receipt:
            await self._admit(connection, entry)
            (ready,) = await many.placed(connection, [(entry, spec)], self._lanes)
            receipt = await insert_one(connection, ready, self._path)
            known = self._writer.capacity.open and not receipt.duplicate and await self._writer.is_plain(connection)
            self._noted([receipt], known=known)
            return receipt

        return await self._run(work)

    async def put_many(self, ready: many.Placed) -> list[Receipt]:
        """Put all of `ready`, or none of them: the transaction continues."""

        async def work(connection: aiosqlite.Connection) -> list[Receipt]:
            entries = await many.placed(connection, ready, self._lanes)
            async with many.savepoint(connection):
                receipts = await many.insert_all(connection, entries, self._path, capacity=self._writer.capacity)
            self._noted(receipts, known=False)
            return receipts

        return await self._run(work) if ready else []

    def _noted(self, receipts: Sequence[Receipt], *, known: bool = True) -> None:
        self._ids += [receipt.id for receipt in receipts]
        self._last_seq = max(self._last_seq, *(receipt.seq for receipt in receipts))
        self._next_seq = self._last_seq + 1 if known else None

    async def run(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run the bot's own `work` in the transaction. Raises TransactionExpired: it is over, nothing was written.

        If it is cancelled, `work` may have run or not: the transaction can then only be rolled back.
        """
        self._next_seq = None  # it may put entries, too
        return await self._run(work)

    async def _run(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        if not self.open:
            raise self._over()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._command(_Statement(work, done))
        try:
            return await done
        except asyncio.CancelledError:
            self._torn = True
            raise

    async def _admit(self, connection: aiosqlite.Connection, entry: Entry) -> None:
        """Raise OutboxFull: there is no room for `entry`, which is not stored yet."""
        if not self._writer.capacity.open:
            (problem,) = await self._writer.capacity.refusals(connection, [entry])
            if problem is not None:
                found = await stored(connection, [entry])
                receipt_of(entry, found.get(0), self._path, otherwise=problem)

    async def end(self, *, commit: bool) -> None:
        """Commit or roll back, and wait for it. Raises TransactionExpired, StoreBusy, DiskFull, OutcomeUnknown."""
        self._command(_End.COMMIT if commit else _End.ROLLBACK)
        assert self._task is not None
        # The writer finishes what it was told, also when the caller is cancelled here.
        try:
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            await asyncio.wait({self._task})  # so that it knows what the file says; a second cancellation goes at once
            if not self._task.cancelled():
                self._task.exception()  # the cancellation is what its caller must hear
            raise

    def when_over(self, watcher: Callable[[bool], object]) -> None:
        """Call `watcher` once the writer is done with it: at once, or if the caller was cancelled twice, later.

        It gets True if the block was committed, else (or if unknown) False.
        """
        assert self._task is not None
        if self._task.done():
            watcher(self.committed)
        else:
            self._task.add_done_callback(lambda _: watcher(self.committed))

    def _command(self, command: _Statement | _End) -> None:
        self._commands.append(command)
        self._arrived.set()

    # ------------------------------------------------------------------------------------------ in the writer's task

    async def _serve(self, connection: aiosqlite.Connection) -> None:
        watch = None
        try:
            self._writer.capacity.check_disk()
            await connection.execute("begin immediate")
            self._begun.set_result(None)
            watch = asyncio.create_task(self._interrupt_in_time(connection), name="outbox-transaction-limit")
            self.committed = await self._obey(connection)
        finally:
            self.open = False
            self._ended.set()
            if watch is not None:
                watch.cancel()
            self._dismiss()
            if not self.committed:
                await database.roll_back(connection)

    async def _interrupt_in_time(self, connection: aiosqlite.Connection) -> None:
        """Interrupt what still runs when the limit is reached: an `executemany` is many statements, so repeatedly."""
        if await self._clock.wait(self._ended, self._limit_s):
            return
        self._expired = True
        while self._working and not self._ended.is_set():
            await connection.interrupt()
            await asyncio.sleep(_INTERRUPT_S)

    async def _obey(self, connection: aiosqlite.Connection) -> bool:
        """Do what the caller asks for; return whether that ended with a commit."""
        deadline_s = self._clock.monotonic_s() + self._limit_s
        while True:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0 or (not self._commands and not await self._clock.wait(self._arrived, left_s)):
                self._expired = True
                raise self._over()
            self._arrived.clear()
            while self._commands:
                if self._expired:
                    raise self._over()
                command = self._commands.popleft()
                if command is _End.ROLLBACK:
                    return False
                if command is _End.COMMIT and self._torn:
                    raise self._over()
                await self._store_gathered(connection, command)
                if command is _End.COMMIT:
                    self._ended.set()  # a commit is not interrupted
                    await connection.execute("commit")
                    self._writer.note_stored(self._last_seq)
                    return True
                assert isinstance(command, _Statement)
                await self._execute(connection, command)

    async def _store_gathered(self, connection: aiosqlite.Connection, command: _Statement | _End) -> None:
        """Store what was gathered, before `command`; if that fails, the whole transaction does."""
        gathered, self._gathered = self._gathered, []
        try:
            for part in many.parts(await many.placed(connection, gathered, self._lanes)):
                cursor = await connection.execute(*queries.insert(part))
                self._check_stored(cursor.rowcount, len(part))
        except Exception as error:
            if isinstance(command, _Statement) and not command.done.done():
                problem = error
                if not isinstance(error, OutboxError):
                    problem = await self._named(error, connection, "the whole transaction was rolled back")
                command.done.set_exception(problem)
            raise

    def _check_stored(self, stored: int, asked: int) -> None:
        if stored != asked:  # a trigger of the bot's own, made by a shell meanwhile
            problem = f"{self._path} refuses {asked - stored} of {asked} entries; the whole transaction was rolled back"
            raise StoreError(problem, path=self._path)

    async def _execute(self, connection: aiosqlite.Connection, statement: _Statement) -> None:
        if statement.done.cancelled():
            return
        self._working = True
        try:
            result = await statement.work(connection)
        except Exception as error:
            problem, over = await self._understood(error, connection)
            statement.fail(problem)
            if self._expired:
                raise problem from error
            if over:
                raise  # SQLite's own: it may concern the file
        else:
            if not statement.done.done():
                statement.done.set_result(result)
        finally:
            self._working = False
            statement.fail(self._over())  # the writer was cancelled

    async def _understood(self, error: Exception, connection: aiosqlite.Connection) -> tuple[Exception, bool]:
        """Return what the caller is told of a statement's error, and whether the whole transaction is over."""
        if self._expired:
            return self._over(), True
        if not connection.in_transaction:
            # SQLite gave the whole transaction up (disk full, I/O error): nothing may run outside of it.
            return await self._named(error, connection, "the whole transaction was rolled back"), True
        # Not only SQLite's own errors: a parameter it cannot store is a TypeError, an OverflowError, a Warning.
        known = isinstance(error, OutboxError)
        return error if known else await self._named(error, connection, "the statement was not carried out"), False

    async def _named(self, error: Exception, connection: aiosqlite.Connection, consequence: str) -> StoreError:
        if database.classify_error(error) in database.DAMAGE:
            self._writer.commits.on_corrupt(error)
        if database.classify_error(error) is database.ErrorClass.FULL:
            problem = await database.no_numbers(connection, self._path) or DiskFull(path=self._path, ids=self._ids)
        else:
            problem = StoreError(f"{self._path}: {error}; {consequence}", path=self._path)
        problem.__cause__ = error
        return problem

    def _over(self) -> TransactionExpired:
        if self._expired:
            return TransactionExpired(
                f"the transaction was open for more than {self._limit_s:g} s; everything in it was rolled back"
            )
        if self._torn:
            return TransactionExpired("a statement of the transaction was cancelled; everything in it was rolled back")
        return TransactionExpired("the transaction is over; nothing was written")

    def _dismiss(self) -> None:
        """Answer whoever still waits for a statement that will never run."""
        for command in self._commands:
            if isinstance(command, _Statement):
                command.fail(self._over())
        self._commands.clear()


async def _nothing(_: aiosqlite.Connection) -> None:
    return None
