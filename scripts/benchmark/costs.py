"""What is measured in processor time, least and median of many rounds: what else the machine does matters little to it.

Each probe stands side by side with what the standard library alone takes for the same rows on the same processor.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import selectors
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.trades import trades

Facts = dict[str, float]

_ROUNDS = 15


def _summed(name: str, taken_s: Sequence[float], rows: int) -> Facts:
    """Return the least and the median of what the rounds took, in microseconds a row."""
    return {
        f"{name}_us": statistics.median(taken_s) / rows * 1e6 if taken_s else math.nan,
        f"{name}_least_us": min(taken_s) / rows * 1e6 if taken_s else math.nan,
    }


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    before = time.process_time()
    await work()
    return time.process_time() - before


def alone(folder: Path, rows: Sequence[dict[str, Any]]) -> Callable[[], None]:
    """Return the stand-in: json, and one commit of `executemany` into a table without a rule."""
    connection = sqlite3.connect(folder / "alone.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("create table outbox (id integer primary key autoincrement, payload text not null)")

    def work() -> None:
        connection.execute("begin immediate")
        connection.executemany("insert into outbox (payload) values (?)", [(json.dumps(row),) for row in rows])
        connection.execute("commit")

    return work


def many(folder: Path, *, rows: int, puts: int) -> Facts:
    """`put_many` of `rows`, a transaction of `puts`, and the stand-in with `rows`, in turns."""
    return asyncio.run(_many(folder, rows, puts))


async def _many(folder: Path, rows: int, puts: int) -> Facts:
    from outbox import Outbox, Settings

    todo, raw = trades(rows), alone(folder, trades(rows))
    taken: dict[str, list[float]] = {"many": [], "transaction": [], "alone": []}
    async with Outbox.open(Settings(path=folder / "outbox.db")) as outbox:

        async def transaction() -> None:
            async with outbox.transaction(limit_s=60) as tx:
                for row in todo[:puts]:
                    await tx.put("trades", row)

        async def stand_in() -> None:
            raw()

        await outbox.put("trades", todo[0])
        for _ in range(_ROUNDS):
            if hasattr(outbox, "put_many"):  # --against may name a revision from before it
                taken["many"].append(await _timed(lambda: outbox.put_many("trades", todo)))
            taken["transaction"].append(await _timed(transaction))
            taken["alone"].append(await _timed(stand_in))
    return (
        _summed("many", taken["many"], rows)
        | _summed("transaction", taken["transaction"], puts)
        | _summed("alone", taken["alone"], rows)
    )


def lone(folder: Path, *, puts: int) -> Facts:
    """A put that is alone, and `stats()`."""
    return asyncio.run(_lone(folder, puts))


async def _lone(folder: Path, puts: int) -> Facts:
    from outbox import Outbox, Settings

    rows = trades(puts)
    taken: dict[str, list[float]] = {"put": [], "stats": []}
    async with Outbox.open(Settings(path=folder / "outbox.db")) as outbox:

        async def put() -> None:
            for row in rows:
                await outbox.put("trades", row)

        async def stats() -> None:
            for _ in rows:
                await outbox.stats()

        for _ in range(_ROUNDS):
            taken["put"].append(await _timed(put))
            taken["stats"].append(await _timed(stats))
    return _summed("put", taken["put"], puts) | _summed("stats", taken["stats"], puts)


def sent(folder: Path, *, rows: int) -> Facts:
    """The flusher's part of a row: read, digest, verdict, settle, 500 rows a request, answered at once and nowhere."""
    return asyncio.run(_sent(folder, rows))


async def _sent(folder: Path, rows: int) -> Facts:
    from outbox import Outbox, Settings
    from outbox.testing import ScriptedTransport

    todo, transport = trades(rows), ScriptedTransport()
    taken: dict[str, list[float]] = {"all": [], "loop": []}
    async with Outbox.open(Settings(path=folder / "outbox.db", batch_rows=500), transport=transport) as outbox:
        for _ in range(_ROUNDS):
            await asyncio.gather(*(outbox.put("trades", row) for row in todo))
            loop_s = time.thread_time()
            taken["all"].append(await _timed(lambda: outbox.drain(timeout=600)))
            taken["loop"].append(time.thread_time() - loop_s)
            if (await outbox.stats()).pending:
                raise RuntimeError("not everything was sent")
            transport.requests.clear()
    return _summed("sent", taken["all"], rows) | _summed("sent_loop", taken["loop"], rows)


def idle(folder: Path, *, seconds: float) -> Facts:
    """How often a bot at rest wakes, its flusher running, and what processor time that takes."""
    selector = _Counting()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(_idle(folder, seconds, selector))


class _Counting(selectors.DefaultSelector):
    """Counts how often the loop has slept."""

    slept = 0

    def select(self, timeout: float | None = None) -> Any:
        self.slept += timeout is None or timeout > 0
        return super().select(timeout)


async def _idle(folder: Path, seconds: float, selector: _Counting) -> Facts:
    from outbox import Outbox, Settings
    from outbox.testing import ScriptedTransport

    async with (
        Outbox.open(Settings(path=folder / "outbox.db"), transport=ScriptedTransport()) as outbox,
        outbox.flushing(),
    ):
        await outbox.put("trades", trades(1)[0])
        await asyncio.sleep(3)
        slept, before = selector.slept, time.process_time()
        await asyncio.sleep(seconds)
        cpu_s = time.process_time() - before
        return {"wakes_per_s": (selector.slept - slept) / seconds, "cpu_percent": cpu_s / seconds * 100}


def arrivals(folder: Path, *, rows: int, per_s: float) -> Facts:
    """Puts that arrive as a Poisson process: each by a task that comes, puts once and goes."""
    return asyncio.run(_arrivals(folder, rows, per_s))


async def _arrivals(folder: Path, rows: int, per_s: float) -> Facts:
    from outbox import Outbox, Settings

    dice, todo = random.Random(1), trades(rows)
    waited: list[float] = []
    async with Outbox.open(Settings(path=folder / "outbox.db")) as outbox:

        async def put(row: dict[str, Any]) -> None:
            before = time.perf_counter()
            await outbox.put("trades", row)
            waited.append(time.perf_counter() - before)

        before, due = time.process_time(), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for row in todo:
                due += dice.expovariate(per_s)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(put(row))
        cpu_s = time.process_time() - before
    ordered = sorted(waited)
    return {"cpu_us": cpu_s / rows * 1e6, "p50_ms": ordered[rows // 2] * 1e3, "p99_ms": ordered[rows * 99 // 100] * 1e3}


def imports(folder: Path, *, modules: str) -> Facts:
    """How long a fresh interpreter takes to import `modules`, in ms; the byte code is there already."""
    code = f"import time; before = time.perf_counter()\nimport {modules}\nprint(time.perf_counter() - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ, capture_output=True, check=True)
    return {"import_ms": float(done.stdout) * 1e3}
