"""What the store's tests share: entries, an opened store, and SQLite as anybody else would use it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from outbox.clock import Clock, SystemClock
from outbox.entry import Destination, Entry, LaneSpec
from outbox.prepare import mint_id, written
from outbox.recovery.open import open_store
from outbox.store.migrations import shipped
from outbox.store.store import Store
from tests import forked

ROOT = Path(__file__).parents[2]
_numbers = itertools.count(1)


def entry(number: int | None = None, *, id: str | None = None, key: str | None = None) -> tuple[Entry, LaneSpec]:
    """Return an insert into `trades` and its shape; each call another row unless `number` says which."""
    number = next(_numbers) if number is None else number
    ready = written(Destination("trades"), {"n": number}, key=key)
    made = ready.entry(id or mint_id(1, os.urandom(10)), created_at_ms=1, source="test", lane=None)
    return made, ready.intent.spec


@contextlib.asynccontextmanager
async def opened(
    path: Path, *, clock: Clock | None = None, busy_timeout_s: float = 5.0, wait_s: float = 0.0
) -> AsyncIterator[Store]:
    store = await open_store(path, clock=clock or SystemClock(), busy_timeout_s=busy_timeout_s, wait_s=wait_s)
    try:
        yield store
    finally:
        await store.close()


@contextlib.contextmanager
def shell(path: Path | str, *, timeout_s: float = 5.0) -> Iterator[sqlite3.Connection]:
    """A plain connection: the library's own code is not involved."""
    # The library's own SQLite: a second one in the same process would drop the first one's file locks.
    connection: sqlite3.Connection = sqlite3.connect(path, isolation_level=None, timeout=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def schema(path: Path | str = ":memory:") -> Iterator[sqlite3.Connection]:
    """The schema alone, through plain sqlite3."""
    with shell(path) as connection:
        for migration in shipped():
            connection.executescript(migration.text)
        yield connection


def statements(script: str) -> Iterator[str]:
    """Yield the statements of `script`, as SQLite tells where one ends."""
    begun = ""
    for line in script.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""


def rows(path: Path, sql: str = "select count(*) from outbox") -> list[tuple[object, ...]]:
    with shell(path) as connection:
        return connection.execute(sql).fetchall()


def count(path: Path) -> int:
    (number,) = rows(path)[0]
    assert isinstance(number, int)
    return number


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start another Python process that can import the library."""
    return forked.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until `condition` holds; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
        await asyncio.sleep(0.001)


async def raised(work: Awaitable[object]) -> BaseException | None:
    """Return what `work` raises."""
    try:
        await work
    except BaseException as error:  # noqa: BLE001 - a cancellation, too, is an answer
        return error
    return None
