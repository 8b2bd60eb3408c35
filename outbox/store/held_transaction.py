"""A caller's own transaction: the writer runs its statements, and nobody holds it for ever."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from outbox.clock import Clock
from outbox.entry import Entry
from outbox.errors import DiskFull, InvalidEntry, OutboxError, StoreError, TransactionExpired
from outbox.store import database
from outbox.store.receipts import receipt_of, stored
from outbox.store.writer import Writer

T = TypeVar("T")

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


class _End(Enum):
    COMMIT = auto()
    ROLLBACK = auto()


@dataclass(slots=True)
class _Statement:
    work: Callable[[aiosqlite.Connection], Awaitable[Any]]
    done: asyncio.Future[Any]


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
        self.ids: list[str] = []  # what was put in it so far
        self.last_seq = 0  # the newest of them
        self._expired = False
        self.open = True  # False: it ended, by itself or by its limit

    async def begin(self) -> None:
        """Wait for the writer's turn and begin. Raises StoreBusy, OutboxClosed."""
        self._task = asyncio.create_task(
            self._writer.run_exclusive(self._serve, ids=self.ids), name="outbox-transaction"
        )
        try:
            await asyncio.wait({self._task, self._begun}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._command(_End.ROLLBACK)
            raise
        if not self._begun.done():
            self.open = False
            await self._task  # raises why it could not begin

    async def run(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work` inside the transaction. Raises TransactionExpired: it is over, nothing was written."""
        if not self.open:
            raise self._over()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._command(_Statement(work, done))
        return await done

    async def admit(self, connection: aiosqlite.Connection, entry: Entry) -> None:
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
        await asyncio.shield(self._task)

    def _command(self, command: _Statement | _End) -> None:
        self._commands.append(command)
        self._arrived.set()

    # ------------------------------------------------------------------------------------------ in the writer's task

    async def _serve(self, connection: aiosqlite.Connection) -> None:
        committed = False
        try:
            self._writer.capacity.check_disk()
            await connection.execute("begin immediate")
            self._begun.set_result(None)
            committed = await self._obey(connection)
        finally:
            self.open = False
            self._dismiss()
            if not committed:
                await database.roll_back(connection)

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
                command = self._commands.popleft()
                if command is _End.COMMIT:
                    await connection.execute("commit")
                    self._writer.on_stored(self.last_seq)
                    return True
                if command is _End.ROLLBACK:
                    return False
                assert isinstance(command, _Statement)
                await self._execute(connection, command)

    async def _execute(self, connection: aiosqlite.Connection, statement: _Statement) -> None:
        if statement.done.cancelled():
            return
        try:
            result = await statement.work(connection)
        except Exception as error:
            if not connection.in_transaction:
                # SQLite gave the whole transaction up (disk full, I/O error): nothing may run outside of it.
                if not statement.done.done():
                    statement.done.set_exception(self._named(error, "the whole transaction was rolled back"))
                raise
            # Not only SQLite's own errors: a parameter it cannot store is a TypeError, an OverflowError, a Warning.
            known = isinstance(error, OutboxError)
            if not statement.done.done():
                statement.done.set_exception(
                    error if known else self._named(error, "the statement was not carried out")
                )
        else:
            if not statement.done.done():
                statement.done.set_result(result)

    def _named(self, error: Exception, consequence: str) -> StoreError:
        if database.classify_error(error) in database.DAMAGE:
            self._writer.commits.on_corrupt(error)
        if database.classify_error(error) is database.ErrorClass.FULL:
            problem: StoreError = DiskFull(path=self._path, ids=self.ids)
        else:
            problem = StoreError(f"{self._path}: {error}; {consequence}", path=self._path)
        problem.__cause__ = error
        return problem

    def _over(self) -> TransactionExpired:
        if self._expired:
            return TransactionExpired(
                f"the transaction was open for more than {self._limit_s:g} s; everything in it was rolled back"
            )
        return TransactionExpired("the transaction is over; nothing was written")

    def _dismiss(self) -> None:
        """Answer whoever still waits for a statement that will never run."""
        for command in self._commands:
            if isinstance(command, _Statement) and not command.done.done():
                command.done.set_exception(self._over())
        self._commands.clear()
