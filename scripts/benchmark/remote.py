"""What it costs to bring rows to a real REST server: Supabase Lite on a PostgreSQL that this process starts."""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import psycopg
from supabase_lite import Driver, EmbeddedPostgres, SupabaseLite

from benchmark.answers import answering
from benchmark.delay import line
from benchmark.trades import trades

Facts = dict[str, float]

BATCH = 500
_PUTS_AT_ONCE = 5_000


@contextmanager
def _servers() -> Iterator[tuple[SupabaseLite, str]]:
    """A REST server on a database of its own, and the address of that database."""
    quiet = logging.getLogger("benchmark").info
    with EmbeddedPostgres() as postgres, SupabaseLite(Driver.POSTGRES, dsn=postgres.dsn, progress=quiet) as remote:
        yield remote, postgres.dsn


@asynccontextmanager
async def _opened(path: Path, url: str, key: str, **more: Any) -> AsyncIterator[Any]:
    from outbox import Outbox, Settings

    settings = Settings(path=path, supabase_url=url, supabase_key=key, **more)
    async with Outbox.open(settings) as outbox:
        yield outbox


async def _put_all(outbox: Any, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _PUTS_AT_ONCE):
        await asyncio.gather(*(outbox.put("trades", row) for row in rows[start : start + _PUTS_AT_ONCE]))


def _arrived(dsn: str, *, empty: bool = False) -> int:
    """Return how many rows PostgreSQL has, each counted once by its business number; then remove them if asked."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        ((rows, numbers),) = sql.execute("select count(*), count(distinct trade_id) from trades").fetchall()
        if rows != numbers:
            sys.exit(f"{rows - numbers} rows arrived twice")
        if empty:
            sql.execute("truncate trades")
    return int(rows)


def drain(folder: Path, *, rows: int) -> Facts:
    """Drain `rows` trades; a plain httpx loop posts the same bodies over one connection; then an outage ends."""
    with _servers() as (remote, dsn):
        return asyncio.run(_drain(folder, remote, dsn, rows))


async def _drain(
    folder: Path, remote: SupabaseLite, dsn: str, rows: int, *, url: str | None = None, **more: Any
) -> Facts:
    todo = trades(rows)
    async with _opened(folder / "outbox.db", url or remote.url, remote.secret_key, **more) as outbox:
        await _put_all(outbox, todo)
        bodies = [(each.path, dict(each.headers), each.body) async for each in _prepared(outbox)]
        before = time.perf_counter()
        report = await outbox.drain(timeout=600)
        drain_s = time.perf_counter() - before
    _require(report.pending == report.dead == 0 and _arrived(dsn, empty=True) == rows, "not everything arrived")
    bare_s = await asyncio.to_thread(_bare, remote, url or remote.url, bodies)
    _require(_arrived(dsn, empty=True) == rows, "the bare loop has lost rows")
    return {"drain_s": drain_s, "bare_s": bare_s, "rows_per_s": rows / drain_s, "bare_rows_per_s": rows / bare_s}


async def _prepared(outbox: Any) -> AsyncIterator[Any]:
    """Yield the requests that a drain will send, in the order of the ids."""
    try:
        build = import_module("outbox.postgrest.client").build
    except ModuleNotFoundError:  # --against may name a revision that had it elsewhere
        build = import_module("outbox.transport").build

    (lane,) = await outbox._store.ready_lanes()
    after = 0
    while batch := await outbox._store.ready(lane, after_seq=after, limit=BATCH):
        yield build(lane.spec if hasattr(lane, "spec") else lane.shape, batch)
        after = batch[-1].seq


def _bare(remote: SupabaseLite, url: str, bodies: list[tuple[str, dict[str, str], bytes]]) -> float:
    with httpx.Client(base_url=f"{url}/rest/v1", headers={"apikey": remote.secret_key}, timeout=60) as client:
        before = time.perf_counter()
        for path, headers, body in bodies:
            client.post(f"/{path}", content=body, headers=headers).raise_for_status()
        return time.perf_counter() - before


def far(folder: Path, *, rows: int, delay_s: float, in_flight: int) -> Facts:
    """The same with `in_flight` requests at once, on a line that delays each byte by `delay_s` seconds each way."""
    with _servers() as (remote, dsn), line(remote.port, delay_s) as near:
        url = f"http://127.0.0.1:{near}"
        return asyncio.run(_drain(folder, remote, dsn, rows, url=url, requests_in_flight=in_flight))


def visible(folder: Path, *, rows: int) -> Facts:
    """From the call of `put`, and from that of a POST of one's own, to the row in PostgreSQL; one at a time."""
    with _servers() as (remote, dsn), psycopg.connect(dsn, autocommit=True) as sql:
        return asyncio.run(_visible(folder, remote, sql, rows))


async def _visible(folder: Path, remote: SupabaseLite, sql: psycopg.Connection[Any], rows: int) -> Facts:
    taken: dict[str, list[float]] = {"put": [], "post": []}
    headers = {"apikey": remote.secret_key, "prefer": "return=minimal"}
    async with (
        httpx.AsyncClient(base_url=f"{remote.url}/rest/v1", headers=headers) as client,
        _opened(folder / "outbox.db", remote.url, remote.secret_key) as outbox,
        outbox.flushing(),
    ):
        for number, row in enumerate(trades(2 * rows)):
            way = "put" if number % 2 else "post"
            before = time.perf_counter()
            if way == "put":
                await outbox.put("trades", row)
            else:
                (await client.post("/trades", json=row)).raise_for_status()
            await asyncio.to_thread(_wait_for, sql, row["trade_id"])
            taken[way].append(time.perf_counter() - before)
            await outbox.drain(timeout=10)  # its verdict is settled too: the next one finds an idle system
    return {f"{way}_p50_ms": statistics.median(seconds) * 1e3 for way, seconds in taken.items()}


def _wait_for(sql: psycopg.Connection[Any], trade_id: str) -> None:
    while not sql.execute("select from trades where trade_id = %s", (trade_id,)).fetchall():
        pass


def memory(folder: Path, *, rows: int) -> Facts:
    """How much a process grows at its peak while it drains `rows` trades that another one has put."""
    path = folder / "outbox.db"
    with _servers() as (remote, dsn):
        subprocess.run([sys.executable, "-m", "benchmark.remote", str(path), str(rows)], check=True)
        found = asyncio.run(_memory(path, remote))
        _require(_arrived(dsn) == rows, "not everything arrived")
    return found


async def _memory(path: Path, remote: SupabaseLite) -> Facts:
    async with _opened(path, remote.url, remote.secret_key) as outbox:
        before_mib = _peak_mib()
        started = time.perf_counter()
        await outbox.drain(timeout=3600)
        return {"grown_mib": _peak_mib() - before_mib, "before_mib": before_mib, "s": time.perf_counter() - started}


def _peak_mib() -> float:
    if sys.platform == "win32":
        return math.nan
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def busy(folder: Path, *, rows: int, backlog: int) -> Facts:
    """The rate of 64 tasks' puts alone, and while the flusher drains `backlog` rows and whatever comes in."""
    with _servers() as (remote, dsn):
        found = asyncio.run(_busy(folder, remote.url, remote.secret_key, rows, backlog))
        _require(_arrived(dsn) > 0, "nothing arrived: no drain ran beside the puts")
    return found


def busy_apart(folder: Path, *, rows: int, backlog: int, answer_s: float) -> Facts:
    """The same while the servers take no processor from it: what answers, after `answer_s` seconds, stores nothing."""
    with answering(answer_s) as port:
        return asyncio.run(_busy(folder, f"http://127.0.0.1:{port}", "sb_secret_of_nobody", rows, backlog))


async def _busy(folder: Path, url: str, key: str, rows: int, backlog: int) -> Facts:
    todo = trades(2 * rows + backlog)
    async with _opened(folder / "outbox.db", url, key, health_s=0) as outbox:
        await _put_all(outbox, todo[2 * rows :])
        alone = await _rate(outbox, todo[:rows])
        async with outbox.flushing():
            before, began = (await outbox.stats()).delivered, time.perf_counter()
            beside = await _rate(outbox, todo[rows : 2 * rows])
            stats, took_s = await outbox.stats(), time.perf_counter() - began
    _require(stats.pending > 0, "the backlog was empty before the puts were done")
    drained = (stats.delivered - before) / took_s
    return {"alone_rows_per_s": alone, "beside_rows_per_s": beside, "drained_rows_per_s": drained}


async def _rate(outbox: Any, rows: list[dict[str, Any]]) -> float:
    todo = iter(rows)

    async def work() -> None:
        for row in todo:
            await outbox.put("trades", row)

    before = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(64)))
    return len(rows) / (time.perf_counter() - before)


def recover(folder: Path, *, rows: int, outage_s: float) -> Facts:
    """Seconds from the moment the remote end answers again to an empty backlog of `rows`, pauses and all."""
    with _servers() as (remote, dsn):
        return asyncio.run(_recover(folder, remote, dsn, rows, outage_s))


async def _recover(folder: Path, remote: SupabaseLite, dsn: str, rows: int, outage_s: float) -> Facts:
    remote.stop()
    async with _opened(folder / "outbox.db", remote.url, remote.secret_key) as outbox, outbox.flushing():
        began = time.perf_counter()
        await _put_all(outbox, trades(rows))
        await asyncio.sleep(max(0.0, outage_s - (time.perf_counter() - began)))
        await asyncio.to_thread(remote.start)
        before = time.perf_counter()
        with outbox._flusher.requests.watch() as a_request_ended:
            while (await outbox.stats()).pending:
                await a_request_ended.wait()
                a_request_ended.clear()
        recovered_s = time.perf_counter() - before
    _require(_arrived(dsn) == rows, "not everything arrived")
    return {"recovered_s": recovered_s, "rows_per_s": rows / recovered_s}


def poison(folder: Path, *, rows: int, bad: list[int]) -> Facts:
    """Requests that it takes to deliver `rows` trades of which some are refused, for each number of those in `bad`."""
    found: Facts = {}
    with _servers() as (remote, dsn):
        for number in bad:
            found[f"requests_{number}"] = asyncio.run(_poison(folder / f"{number}.db", remote, rows, number))
            _require(_arrived(dsn, empty=True) == rows - number, "another number arrived than was good")
    return found | {"requests_0": -(-rows // BATCH)}


async def _poison(path: Path, remote: SupabaseLite, rows: int, bad: int) -> int:
    todo = trades(rows)
    for number in range(bad):  # spread evenly, none at an edge of a batch
        todo[(2 * number + 1) * rows // (2 * bad)]["timestamp"] = "yesterdayish"
    async with _opened(path, remote.url, remote.secret_key) as outbox:
        await _put_all(outbox, todo)
        sent = 0
        send = outbox._remote.transport.send

        async def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal sent
            sent += 1
            return await send(*arguments, **options)

        outbox._remote.transport.send = counted
        report = await outbox.drain(timeout=600)
    _require(report.dead == bad and report.pending == 0, f"{report.dead} dead and {report.pending} pending")
    return sent


def _require(met: bool, otherwise: str) -> None:
    if not met:
        sys.exit(f"not measured: {otherwise}")


async def _fill(path: Path, rows: int) -> None:
    from outbox import Outbox, Settings

    async with Outbox.open(Settings(path=path)) as outbox:
        await _put_all(outbox, trades(rows))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(_fill(Path(sys.argv[1]), int(sys.argv[2])))
