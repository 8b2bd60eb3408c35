"""One measurement each, in a process of its own: `python -m benchmark.probes NAME FOLDER '{"arguments": …}'`.

Prints one JSON object. Every probe that commits reads back that it did so durably, and counts what it stored.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from operator import length_hint
from pathlib import Path
from typing import Any

from benchmark import costs
from benchmark.peers import peer
from benchmark.trades import trades

Facts = dict[str, float]

BATCH = 500  # what the flusher sends at once, unless set otherwise


class WrongMeasurementError(Exception):
    """The probe did not measure what it is for: not durable, or rows are missing."""


def main() -> None:
    """Run the probe that argv names and print what it found."""
    name, folder, arguments = sys.argv[1:]
    logging.disable(logging.WARNING)  # that no URL is set is known
    found = PROBES[name](Path(folder), **json.loads(arguments))
    print(json.dumps(found))


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _speed(latencies_s: Sequence[float], wall_s: float) -> Facts:
    return {
        "rows_per_s": len(latencies_s) / wall_s,
        "p50_ms": _quantile(latencies_s, 0.5) * 1e3,
        "p99_ms": _quantile(latencies_s, 0.99) * 1e3,
    }


def _require(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongMeasurementError(f"{what} is {found!r}, {wanted!r} was wanted")


# ------------------------------------------------------------------------------------------ the floor


def floor(folder: Path, *, rows: int) -> Facts:
    """Floor F: the standard library's sqlite3, WAL and synchronous=FULL, one row per commit, in a plain loop."""
    todo = trades(rows)
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    _require("journal_mode", connection.execute("pragma journal_mode = wal").fetchone()[0], "wal")
    connection.execute("pragma synchronous = full")
    connection.execute("create table outbox (id integer primary key autoincrement, payload text not null)")
    latencies = []
    started = time.perf_counter()
    for row in todo:
        before = time.perf_counter()
        connection.execute("insert into outbox (payload) values (?)", (json.dumps(row),))
        latencies.append(time.perf_counter() - before)
    wall_s = time.perf_counter() - started
    _require("synchronous", connection.execute("pragma synchronous").fetchone()[0], 2)
    _require("rows stored", connection.execute("select count(*) from outbox").fetchone()[0], rows)
    connection.close()
    return _speed(latencies, wall_s)


# ------------------------------------------------------------------------------------------ the outbox


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[Any]:
    from outbox import Outbox, Settings

    async with Outbox.open(Settings(path=path, retention_days=100_000)) as outbox:
        yield outbox
        store: Any = outbox._store
        writer: Any = store.writer if hasattr(store, "writer") else store._writer
        # --against may name a revision from before them.
        connection = writer.commits.connection if hasattr(writer, "commits") else writer._connection
        for pragma, wanted in (("journal_mode", "wal"), ("synchronous", 2)):
            rows = list(await connection.execute_fetchall(f"pragma {pragma}"))
            _require(pragma, rows[0][0], wanted)


def put(folder: Path, *, rows: int, tasks: int, ticker: bool = False, busy: bool = False) -> Facts:
    """`Outbox.put` by `tasks` tasks; with a ticker, how late one of 1 ms fires meanwhile.

    busy: as bots do, they have other work between two puts, of random length, and come and go.
    """
    return asyncio.run(_put(folder / "outbox.db", rows, tasks, ticker, busy))


async def _put(path: Path, rows: int, tasks: int, ticker: bool, busy: bool = False) -> Facts:
    latencies: list[float] = []
    late: list[float] = []
    ready = trades(rows)  # held: an exhausted iterator would free them all in the last beat, 60,000 of them for 14 ms
    todo, dice = iter(ready), random.Random(1)

    async with _opened(path) as outbox:
        await outbox.put("trades", trades(1)[0])  # the lane's first entry makes the lane

        async def work() -> None:
            lives = dice.randrange(1, 40) if busy else rows  # puts of one task; another comes in its stead
            for row in itertools.islice(todo, lives):
                before = time.perf_counter()
                await outbox.put("trades", row)
                latencies.append(time.perf_counter() - before)
                for _ in range(dice.randrange(4) if busy else 0):
                    await asyncio.sleep(0)

        async def workplace() -> None:
            while length_hint(todo):
                await asyncio.create_task(work())

        with _ticking(late if ticker else None):
            started, cpu_s = time.perf_counter(), time.process_time()
            await asyncio.gather(*(workplace() for _ in range(tasks)))
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
        stats = await outbox.stats()
        _require("rows stored", stats.pending, rows + 1)
    found = _speed(latencies, wall_s) | {"cpu_us": cpu_s / rows * 1e6}
    if ticker:
        found |= {"late_p99_ms": _quantile(late, 0.99) * 1e3, "late_max_ms": max(late) * 1e3, "ticks": len(late)}
    return found


def written(folder: Path, *, rows: int, tasks: int) -> Facts:
    """Bytes that reach the disk for each put, the last checkpoint's too, beside those of its payload; Linux only."""
    payload = statistics.mean(len(json.dumps(row, separators=(",", ":"))) for row in trades(rows))
    before = _bytes_to_disk()
    asyncio.run(_put(folder / "outbox.db", rows, tasks, False))
    return {"bytes_per_put": (_bytes_to_disk() - before) / rows, "payload_bytes": payload}


def _bytes_to_disk() -> float:
    """Return what the kernel counts as sent to the block device for this process; nan: it does not say."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    except OSError:
        return math.nan
    return int(fields["write_bytes"])


@contextmanager
def _ticking(late: list[float] | None) -> Iterator[None]:
    """Note how late each beat of a 1 ms ticker comes, in seconds, while the block runs."""

    async def beat(beats: list[float]) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            beats.append(time.perf_counter() - before - 0.001)

    task = None if late is None else asyncio.create_task(beat(late))
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


# ------------------------------------------------------------------------------------------ under a backlog

_FILL = """
insert into outbox (id, destination, operation, state, key, payload, lane, waits, next_attempt_at_ms, created_at_ms,
                    settled_at_ms, digest)
with recursive n (i) as (select 1 union all select i + 1 from n where i < :rows)
select printf('00000000-0000-7000-8000-%012x', i), :destination, :operation, :state, :key, :payload, :lane,
       case when :key is not null then iif(i = 1, 'retry', 'turn') end, iif(:key is not null and i = 1, 4e12, null),
       1700000000000 + i, iif(:state = 'delivered', 1700000000000 + i, null), 'none'
  from n
"""
# A million firings of each would take longer than all that is measured; what they do is done once, below.
_PARKED = ("outbox_counts_put", "outbox_turn_put")


def fill(folder: Path, *, scenario: str, rows: int) -> Facts:
    """Make the file of a scenario: `rows` entries of its kind, beside lanes that are in use."""
    path = folder / f"{scenario}.db"
    for stale in folder.glob(f"{scenario}.db*"):
        stale.unlink()
    asyncio.run(_make_lanes(path))
    started = time.perf_counter()
    with sqlite3.connect(path, isolation_level=None) as connection:
        if scenario not in ("empty", "empty_keyed"):
            _fill(connection, scenario, rows)
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    with path.open("rb+") as file:  # else the first opening would wait for what was written here
        os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - started, "db_bytes": path.stat().st_size}


async def _make_lanes(path: Path) -> None:
    """Put and settle one entry of each kind, so that every lane has its number."""
    async with _opened(path) as outbox:
        await _one_of_each(outbox, "first")
        await outbox.put("events", {"event_type": "heartbeat"})
        for lane in await outbox._store.ready_lanes():
            await _settle(outbox, lane, BATCH)


async def _one_of_each(outbox: Any, name: str) -> None:
    await outbox.put("trades", trades(1)[0])
    await outbox.put("sessions", {"session_id": name, "total_pnl": 1.5}, operation="upsert")


def _fill(connection: sqlite3.Connection, scenario: str, rows: int) -> None:
    connection.execute("pragma synchronous = off")
    destination = {"blocked": "sessions", "paused": "events"}.get(scenario, "trades")
    lane, operation = connection.execute(
        "select lane, operation from outbox_lanes where destination = ?", (destination,)
    ).fetchone()
    parked = [
        connection.execute("select sql from sqlite_schema where name = ?", (name,)).fetchone()[0] for name in _PARKED
    ]
    for name in _PARKED:
        connection.execute(f"drop trigger {name}")
    state = "delivered" if scenario == "delivered" else "pending"
    connection.execute(
        _FILL,
        {
            "rows": rows,
            "destination": destination,
            "operation": operation,
            "state": state,
            "lane": lane,
            "key": "blocked" if scenario == "blocked" else None,
            "payload": json.dumps(trades(1)[0]),
        },
    )
    for text in parked:
        connection.execute(text)
    connection.execute(
        "insert into outbox_counts values (?, ?, ?, ?)"
        " on conflict do update set entries = entries + excluded.entries, bytes = bytes + excluded.bytes",
        (destination, state, rows, rows * len(json.dumps(trades(1)[0]))),
    )
    if scenario == "paused":
        connection.execute(
            "insert into outbox_pauses (scope, subject, reason, failures, since_ms, next_try_at_ms)"
            " values ('destination', 'events', 'forbidden', 1, 1700000000000, 4000000000000)"
        )


def backlog(folder: Path, *, scenarios: Sequence[str], puts: int, batches: int) -> Facts:
    """What opening, one put, one flush of a batch and one `stats()` cost in each scenario's file, medians in ms.

    All files are open at once and take turns, call by call: what disturbs one disturbs all.
    """
    import outbox  # noqa: F401 - loaded before the clock runs

    return asyncio.run(_backlog(folder, scenarios, puts, batches))


async def _backlog(folder: Path, scenarios: Sequence[str], puts: int, batches: int) -> Facts:
    found: Facts = {}
    async with AsyncExitStack() as stack:
        files = []
        for scenario in scenarios:
            before = time.perf_counter()
            outbox = await stack.enter_async_context(_opened(folder / f"{scenario}.db"))
            found[f"{scenario}_open_ms"] = (time.perf_counter() - before) * 1e3
            files.append(_File(scenario, outbox))
        for file in files:
            await file.put()  # the age of nothing would cost less than that of one entry
        found |= await _costs("stats", files, lambda file: file.outbox.stats(), puts)
        found |= await _costs("put", files, _File.put, puts)
        found |= await _costs("flush", files, _File.flush, batches, prepare=_File.refill)
        for file in files:
            await file.leave_as_found()
    return found


@dataclass(slots=True)
class _File:
    """The open file of a scenario, and what is put into it."""

    scenario: str
    outbox: Any
    rows: Iterator[dict[str, Any]] = field(default_factory=lambda: itertools.cycle(trades(1_000)))

    @property
    def keyed(self) -> bool:
        return self.scenario in ("empty_keyed", "blocked")

    async def put(self) -> None:
        if self.keyed:
            row = {"session_id": str(time.perf_counter_ns()), "total_pnl": 1.5}
            await self.outbox.put("sessions", row, operation="upsert")
        else:
            await self.outbox.put("trades", next(self.rows))

    async def refill(self) -> None:
        await asyncio.gather(*(self.put() for _ in range(BATCH)))

    async def flush(self) -> int:
        """Do what delivering one batch does to the file; return how many entries that were."""
        lanes = await self.outbox._store.ready_lanes()
        table = "sessions" if self.keyed else "trades"
        mine = [each for each in lanes if spec_of(each).destination == table]
        return await _settle(self.outbox, mine[0], BATCH) if mine else 0

    async def leave_as_found(self) -> None:
        """Deliver what was put here; the oldest of a backlog in its stead, if that is what lies in front."""
        for _ in range(20):
            if self.scenario == "pending" or await self.flush() < BATCH:
                return


def spec_of(lane: Any) -> Any:
    """Return what the requests of `lane` have in common; it was its shape once."""
    return lane.spec if hasattr(lane, "spec") else lane.shape


async def _settle(outbox: Any, lane: Any, limit: int) -> int:
    """Do to the file what delivering one batch does; return how many entries that were."""
    from outbox import State

    batch = await outbox._store.ready(lane, after_seq=0, limit=limit)
    if batch:
        await outbox._store.settle([entry.seq for entry in batch], State.DELIVERED)
    return len(batch)


async def _costs(
    name: str,
    files: Sequence[_File],
    work: Callable[[_File], Awaitable[Any]],
    times: int,
    *,
    prepare: Callable[[_File], Awaitable[None]] | None = None,
) -> Facts:
    """Return for each file the median of `times` calls in milliseconds; `prepare` runs before and does not count."""
    costs: dict[str, list[float]] = {file.scenario: [] for file in files}
    for number in range(times):
        for file in files if number % 2 else reversed(files):
            if prepare is not None:
                await prepare(file)
            before = time.perf_counter()
            await work(file)
            costs[file.scenario].append(time.perf_counter() - before)
    return {f"{scenario}_{name}_ms": statistics.median(taken) * 1e3 for scenario, taken in costs.items()}


def _remote(name: str) -> Callable[..., Facts]:
    """Return a probe of `benchmark.remote`, which imports what the others must not pay for."""

    def probe(folder: Path, **arguments: Any) -> Facts:
        from benchmark import remote

        found: Facts = getattr(remote, name)(folder, **arguments)
        return found

    return probe


PROBES: dict[str, Callable[..., Facts]] = {
    "floor": floor,
    "put": put,
    "fill": fill,
    "backlog": backlog,
    "written": written,
    "peer": peer,
    **{name: getattr(costs, name) for name in ("many", "lone", "sent", "idle", "arrivals", "imports")},
    "drain": _remote("drain"),
    "far": _remote("far"),
    "visible": _remote("visible"),
    "memory": _remote("memory"),
    "busy": _remote("busy"),
    "busy_apart": _remote("busy_apart"),
    "recover": _remote("recover"),
    "poison": _remote("poison"),
}

if __name__ == "__main__":
    main()
