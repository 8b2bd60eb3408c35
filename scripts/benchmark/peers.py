"""The same trades through other libraries, each at WAL and synchronous=FULL, read back; blocking ones on one thread.

One thread of its own is what these libraries do best with: SQLite lets one writer in at a time anyway, and from
several threads they spend their time waiting for each other.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmark.trades import trades

Row = dict[str, Any]
Put = Callable[[Row], object]  # returns once the library says that the row is stored
Opened = tuple[Put, sqlite3.Connection]  # and the connection that it writes through

_INSERT = "insert into outbox (payload) values (?)"
_TABLE = "create table outbox (id integer primary key autoincrement, payload text not null)"


def _made_full(put: Put, connection: sqlite3.Connection) -> Opened:
    connection.execute("pragma synchronous = full")
    return put, connection


def _diskcache(folder: Path) -> Opened:
    from diskcache import Deque

    deque = Deque(directory=str(folder))
    return _made_full(deque.append, deque.cache._con)


def _huey(folder: Path) -> Opened:
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(folder / "peer.db"))

    @huey.task()  # type: ignore[untyped-decorator]
    def deliver(row: Row) -> None:
        """What a worker would do."""

    return _made_full(lambda row: huey.enqueue(deliver.s(row)), huey.storage.conn)


def _litequeue(folder: Path) -> Opened:
    from litequeue import LiteQueue

    queue = LiteQueue(str(folder / "peer.db"))
    return _made_full(lambda row: queue.put(json.dumps(row)), queue.conn)


def _persist_queue(folder: Path) -> Opened:
    import persistqueue

    queue = persistqueue.SQLiteAckQueue(str(folder), multithreading=True)
    return _made_full(queue.put, queue._putter)


def _sqloutbox(folder: Path) -> Opened:
    from sqloutbox import Outbox

    box = Outbox(folder / "peer.db", "trades")

    def put(row: Row) -> None:
        if box.enqueue("insert into trades values (?)", json.dumps(row).encode()) is None:
            raise RuntimeError("the row was dropped")

    return _made_full(put, box._write_conn)


PEERS: dict[str, Callable[[Path], Opened]] = {
    "diskcache": _diskcache,
    "huey": _huey,
    "litequeue": _litequeue,
    "persist-queue": _persist_queue,
    "sqloutbox": _sqloutbox,
}


def peer(folder: Path, *, name: str, rows: int, tasks: int) -> dict[str, float]:
    """Rows a second and the wait for one of them, put by `tasks` asyncio tasks."""
    return asyncio.run(_aiosqlite(folder, rows, tasks) if name == "aiosqlite" else _peer(folder, name, rows, tasks))


async def _peer(folder: Path, name: str, rows: int, tasks: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        put, connection = await loop.run_in_executor(thread, PEERS[name], folder)

        def pragma(what: str) -> Any:
            return connection.execute(f"pragma {what}").fetchone()[0]

        found = await _timed(lambda row: loop.run_in_executor(thread, put, row), rows, tasks)
        durable = [await loop.run_in_executor(thread, pragma, what) for what in ("journal_mode", "synchronous")]
        _require(durable)
    return found


async def _aiosqlite(folder: Path, rows: int, tasks: int) -> dict[str, float]:
    """What one writes oneself: a row, a commit, a lock so that no task commits another one's half."""
    import aiosqlite

    async with aiosqlite.connect(folder / "peer.db", isolation_level=None) as connection:
        await connection.execute("pragma journal_mode = wal")
        await connection.execute("pragma synchronous = full")
        await connection.execute(_TABLE)
        alone = asyncio.Lock()

        async def put(row: Row) -> None:
            async with alone:
                await connection.execute(_INSERT, (json.dumps(row),))

        found = await _timed(put, rows, tasks)
        found_modes = [await connection.execute_fetchall(f"pragma {what}") for what in ("journal_mode", "synchronous")]
        _require([value for ((value,),) in found_modes])
    return found


async def _timed(put: Callable[[Row], Awaitable[object]], rows: int, tasks: int) -> dict[str, float]:
    todo, latencies = iter(trades(rows)), list[float]()

    async def work() -> None:
        for row in todo:
            before = time.perf_counter()
            await put(row)
            latencies.append(time.perf_counter() - before)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    wall_s = time.perf_counter() - started
    latencies.sort()
    return {"rows_per_s": rows / wall_s, "p50_ms": latencies[len(latencies) // 2] * 1e3}


def _require(durable: Sequence[object]) -> None:
    if durable != ["wal", 2]:
        raise RuntimeError(f"journal mode and synchronous are {durable}, not WAL and FULL")
