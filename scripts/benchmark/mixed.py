#!/usr/bin/env python3
"""What a mixed batch through `outbox_apply` costs beside the plain tables, and what poison rows do to either.

usage: scripts/benchmark/mixed.py [--rows N] [--bad 0,1,5,50]

Entries of three kinds take turns, as a bot puts them: a trade, an event, a session's update. The plain way sends each
kind by itself, 500 rows a request, and halves a refused batch until the bad row stands alone. The mixed way sends them
in the order of their puts, 500 a request, and reads a verdict for each. One request at a time in both, no local file:
this measures requests and the server. The server is Supabase Lite on a real PostgreSQL on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import psycopg
from supabase_lite import SQL, Driver, EmbeddedPostgres, SupabaseLite

from outbox.entry import LaneSpec, Operation
from outbox.flusher import rpc_apply
from outbox.flusher.rpc_apply import Mixed
from outbox.postgrest.batch import last_of_each_row
from outbox.postgrest.batching import halves
from outbox.postgrest.client import PostgrestTransport, Request, build
from outbox.postgrest.verdicts import Delivered, Reject, Split, judge

BATCH = 500
FUNCTION = SQL / "optional" / "outbox_apply.sql"


@dataclass(frozen=True, slots=True)
class Entry:
    """As much of an entry as travels."""

    seq: int
    id: str
    key: str | None
    payload: str
    match: str | None = None
    attempts: int = 0


@dataclass(slots=True)
class Cost:
    """What a way of sending took."""

    requests: int = 0
    delivered: int = 0
    refused: int = 0
    seconds: float = 0.0


def entries(count: int, bad: int) -> list[Mixed]:
    """Return `count` entries in the order of their puts; `bad` trades and events among them have no usable time."""
    steps = [number * count // bad + count // bad // 2 for number in range(bad)]
    poison = {seq + (seq % 3 == 2) for seq in steps}  # not a session: one that is superseded is never sent alone
    return [_entry(seq, poison=seq in poison) for seq in range(count)]


def _entry(seq: int, *, poison: bool) -> Mixed:
    when = "yesterdayish" if poison else "2026-01-02T10:00:00Z"
    row: dict[str, object]
    match seq % 3:
        case 0:
            row = {"session_id": "s", "symbol": "EURUSD", "timestamp": when, "pnl": seq / 7, "comment": "x" * 100}
            spec, key = LaneSpec("trades", Operation.INSERT, "id", _columns(row, "id"), ordered=False), None
        case 1:
            row = {"session_id": "s", "event_type": "TICK", "timestamp": when, "data": {"seq": seq}}
            spec, key = LaneSpec("events", Operation.INSERT, "id", _columns(row, "id"), ordered=False), None
        case _:
            key = f"s-{seq % 30}"
            row = {"session_id": key, "start_time": when, "total_trades": seq, "version": seq}
            spec = LaneSpec("sessions", Operation.UPSERT, "session_id", _columns(row), ordered=True)
    return Mixed(spec, Entry(seq, str(UUID(int=(7 << 76) + (2 << 62) + seq)), key, json.dumps(row)))


def _columns(row: Iterable[str], *more: str) -> str:
    return ",".join(sorted({*row, *more}))


async def plain(transport: PostgrestTransport, todo: Sequence[Mixed]) -> Cost:
    """Send each shape by itself, halving what is refused."""
    cost, started = Cost(), time.perf_counter()
    for spec in dict.fromkeys(mixed.spec for mixed in todo):
        lane = [mixed.entry for mixed in todo if mixed.spec == spec]
        parts = [lane[start : start + BATCH] for start in range(0, len(lane), BATCH)][::-1]
        while parts:
            part = parts.pop()
            sent, _ = last_of_each_row(spec, part)
            cost.requests += 1
            outcome = await transport.send(build(spec, sent), deadline_s=60)
            match judge(spec.operation, len(sent), outcome):
                case Delivered():
                    cost.delivered += len(part)
                case Split():
                    first, second = halves(part)
                    parts += [list(second), list(first)]
                case Reject():
                    cost.refused += 1
                case verdict:
                    raise RuntimeError(f"{verdict}")
    cost.seconds = time.perf_counter() - started
    return cost


async def mixed(transport: PostgrestTransport, todo: Sequence[Mixed]) -> Cost:
    """Send all of them in their order."""
    cost, started = Cost(), time.perf_counter()
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        cost.requests += 1
        content = (("content-type", "application/json"),)
        request = Request("POST", rpc_apply.FUNCTION, content, rpc_apply.body(batch))
        found = rpc_apply.verdicts(batch, await transport.send(request, deadline_s=60))
        assert isinstance(found, list), found
        cost.delivered += sum(isinstance(verdict, Delivered) for verdict in found)
        cost.refused += sum(isinstance(verdict, Reject) for verdict in found)
    cost.seconds = time.perf_counter() - started
    return cost


async def measure(remote: SupabaseLite, dsn: str, rows: int, bad: int) -> dict[str, Cost]:
    """Return what both ways cost, each into empty tables."""
    todo = entries(rows, bad)
    found: dict[str, Cost] = {}
    transport = PostgrestTransport(f"{remote.url}/rest/v1", remote.secret_key)
    try:
        for name, way in (("plain", plain), ("mixed", mixed)):
            with psycopg.connect(dsn, autocommit=True) as sql:
                sql.execute("truncate public.trades, public.events, public.sessions")
            found[name] = await way(transport, todo)
    finally:
        await transport.aclose()
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--bad", default="0,1,5,50")
    options = parser.parse_args()
    print("| bad rows | | requests | rows/s | delivered | refused |\n| --- | --- | --- | --- | --- | --- |")
    with (
        EmbeddedPostgres() as postgres,
        SupabaseLite(Driver.POSTGRES, dsn=postgres.dsn, extra_sql=[FUNCTION]) as remote,
    ):
        asyncio.run(measure(remote, postgres.dsn, 600, 0))  # the first requests pay for the connections
        for bad in map(int, options.bad.split(",")):
            for name, cost in asyncio.run(measure(remote, postgres.dsn, options.rows, bad)).items():
                done = cost.delivered + cost.refused
                rate = f"{done / cost.seconds:,.0f}"
                print(f"| {bad} | {name} | {cost.requests} | {rate} | {cost.delivered:,} | {cost.refused} |")


if __name__ == "__main__":
    main()
