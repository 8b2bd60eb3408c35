"""OUTBOX_RPC=auto end to end: order across tables, poison, a function that is absent or fails, a lost reply."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

from outbox import Outbox, Settings
from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import ManualClock, ScriptedTransport, accepted, refused
from tests.integration.mixing import function_installed
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

WHEN = "2026-01-02T10:00:00Z"
TABLES = "public.mothers, public.kids"


@pytest.fixture(scope="module")
def function(remote: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[None]:
    before = (
        "create table public.mothers (id uuid primary key, n int)",
        "create table public.kids (id uuid primary key, mother uuid references public.mothers (id), n int)",
        f"grant select, insert, update on {TABLES} to service_role",
    )
    with function_installed(remote, postgres, before=before, after=(f"drop table {TABLES}",)):
        yield


@pytest.fixture
def server(function: None, clean_remote: SupabaseLite, sql: Sql) -> SupabaseLite:
    sql.execute(f"truncate {TABLES}".encode())
    return clean_remote


class Counting(PostgrestTransport):
    """The real transport, with a list of what it sent and, if told to, replies that get lost."""

    def __init__(self, server: SupabaseLite, *, lose: int = 0) -> None:
        super().__init__(f"{server.url}/rest/v1", server.secret_key)
        self.paths: list[str] = []
        self.lose = lose

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        self.paths.append(request.path.partition("?")[0])
        outcome = await super().send(request, deadline_s=deadline_s)
        if self.lose:
            self.lose -= 1
            return Failure.CUT
        return outcome


def opened(folder: Path, transport: Any, **changes: Any) -> Any:
    values: dict[str, Any] = {"rpc": "auto", "backoff_cap_s": 0.2} | changes
    return Outbox.open(Settings(path=folder / "bot.db", **values), transport=transport)


async def put_families(outbox: Outbox, count: int) -> None:
    for n in range(count):
        mother = await outbox.put("mothers", {"n": n})
        await outbox.put("kids", {"mother": mother.id, "n": n})


@run_async
async def test_every_child_arrives_behind_its_parent_without_one_refusal(
    tmp_path: Path, server: SupabaseLite, sql: Sql
) -> None:
    transport = Counting(server)
    async with opened(tmp_path, transport, batch_rows=50) as outbox:
        await put_families(outbox, 100)
        report = await outbox.drain(timeout=30)
        told = await outbox._store.read("select count(*) from outbox_history")

    assert (report.delivered, report.pending, report.dead) == (200, 0, 0)
    assert transport.paths == ["rpc/outbox_apply"] * 4
    assert [tuple(row) for row in told] == [(0,)]
    assert sql.execute("select count(*) from kids join mothers on mothers.id = mother").fetchone() == (100,)


@run_async
async def test_the_control_children_that_travel_by_themselves_are_refused_first(
    tmp_path: Path, server: SupabaseLite
) -> None:
    transport = Counting(server)
    async with opened(tmp_path, transport, rpc="off", requests_in_flight=1, batch_rows=50) as outbox:
        await outbox.put("kids", {"mother": None, "n": -1})  # the lane of the kids is the oldest
        await put_families(outbox, 20)
        report = await outbox.drain(timeout=30)
        told = await outbox._store.read("select count(*) > 0 from outbox_history where code = '23503'")

    assert (report.pending, report.dead) == (0, 0)
    assert [tuple(row) for row in told] == [(1,)]


@run_async
async def test_each_row_of_a_mixed_batch_has_its_own_fate(tmp_path: Path, server: SupabaseLite, sql: Sql) -> None:
    trade = {"session_id": "s", "symbol": "EURUSD", "timestamp": WHEN}
    session = {"session_id": "s-1", "start_time": WHEN, "status": "RUNNING", "version": 1}
    async with opened(tmp_path, Counting(server), orphan_attempts=1000) as outbox:
        for n in range(20):
            await outbox.put("trades", trade | {"trade_id": str(n)} | ({"timestamp": "never"} if n % 7 == 3 else {}))
            await outbox.put("sessions", session | {"version": n, "total_trades": n}, operation="upsert")
        await outbox.put("sessions", {"status": "STOPPED"}, operation="update", match={"session_id": "s-1"})
        await outbox.put("kids", {"mother": "00000000-0000-7000-8000-000000000000"})
        await outbox.put("no_such_table", {"a": 1})
        await outbox.put("trades", trade | {"misspelt": 1})
        await outbox.drain(timeout=1.5)
        stats = await outbox.stats()
        rows = await outbox._store.read("select destination, state, count(*) from outbox group by 1, 2 order by 1, 2")

    assert [tuple(row) for row in rows] == [
        ("kids", "pending", 1),
        ("no_such_table", "pending", 1),
        ("sessions", "delivered", 21),
        ("trades", "dead", 3),
        ("trades", "delivered", 17),
        ("trades", "pending", 1),
    ]
    assert {(pause.scope, pause.code) for pause in stats.pauses} >= {("lane", "PGRST204")}, "the plain path's word"
    assert sql.execute("select status, total_trades, version from sessions").fetchall() == [("STOPPED", 19, 19)]
    assert sql.execute("select count(*) from trades").fetchone() == (17,)


@run_async
async def test_a_lost_reply_stores_nothing_twice(tmp_path: Path, server: SupabaseLite, sql: Sql) -> None:
    async with opened(tmp_path, Counting(server, lose=2)) as outbox:
        await put_families(outbox, 30)
        report = await outbox.drain(timeout=30)

    assert (report.delivered, report.pending, report.dead) == (60, 0, 0)
    assert sql.execute("select count(*), count(distinct n) from kids").fetchone() == (30, 30)


@run_async
async def test_upserts_of_one_key_keep_their_order_over_requests_lost_replies_and_poison_between(
    tmp_path: Path, server: SupabaseLite, sql: Sql
) -> None:
    mother = "00000000-0000-7000-8000-000000000001"
    async with opened(tmp_path, Counting(server, lose=2), batch_rows=7) as outbox:
        for n in range(40):
            row = {"id": mother, "n": "poison" if n % 10 == 5 else n}
            await outbox.put("mothers", row, operation="upsert", on_conflict=("id",))
            await outbox.put("kids", {"mother": mother, "n": n})
        report = await outbox.drain(timeout=30)

    assert (report.delivered, report.pending, report.dead) == (76, 0, 4)
    assert sql.execute("select n from mothers").fetchall() == [(39,)]
    assert sql.execute("select count(*), count(distinct n) from kids").fetchone() == (40, 40)


@run_async
async def test_an_update_finds_the_row_that_the_same_request_inserts(
    tmp_path: Path, server: SupabaseLite, sql: Sql
) -> None:
    transport = Counting(server)
    async with opened(tmp_path, transport) as outbox:
        for n in range(20):
            mother = await outbox.put("mothers", {"n": n})
            await outbox.put("mothers", {"n": n + 100}, operation="update", match={"id": mother.id})
        report = await outbox.drain(timeout=30)

    assert (report.delivered, report.pending, transport.paths) == (40, 0, ["rpc/outbox_apply"])
    assert sql.execute("select count(*), min(n), max(n) from mothers").fetchone() == (20, 100, 119)


@run_async
async def test_a_view_is_written_by_the_plain_path(tmp_path: Path, server: SupabaseLite, sql: Sql) -> None:
    sql.execute("create view public.some_mothers as select id, n from public.mothers")
    sql.execute("grant select, insert, update on public.some_mothers to service_role")
    server.stop()
    server.start()  # Lite reads tables when it starts
    try:
        async with opened(tmp_path, Counting(server)) as outbox:
            for n in range(20):
                await outbox.put("some_mothers", {"n": n})
            report = await outbox.drain(timeout=10)
        assert (report.delivered, report.pending, report.dead) == (20, 0, 0)
        assert sql.execute("select count(*) from mothers").fetchone() == (20,)
    finally:
        sql.execute("drop view public.some_mothers")


ABSENT = refused(404, "PGRST202", "no function")
BROKEN = refused(500, "42P13", "the function is broken")


@pytest.mark.parametrize(("answer", "asked"), [(ABSENT, 1), (BROKEN, 1)], ids=["absent", "broken"])
@run_async
async def test_without_a_working_function_the_tables_are_sent_to_one_by_one(
    tmp_path: Path, answer: Reply, asked: int
) -> None:
    def script(request: Request) -> Reply:
        return answer if request.path.startswith("rpc/") else accepted(request)

    remote = ScriptedTransport(otherwise=script)
    async with Outbox.open(
        Settings(path=tmp_path / "bot.db", rpc="auto"), clock=ManualClock(), transport=remote
    ) as out:
        for n in range(3):
            await out.put("trades", {"n": n})
            await out.put("events", {"n": n})
            report = await out.drain(timeout=10)
            assert (report.pending, report.dead) == (0, 0)
        paths = [request.path.partition("?")[0] for request in remote.requests]
        assert paths.count("rpc/outbox_apply") == asked
        assert paths.count("trades") == paths.count("events") == 3

        await out.reload()
        await out.put("trades", {"n": 9})
        await out.drain(timeout=10)
    assert [request.path for request in remote.requests].count("rpc/outbox_apply") == asked + 1, "asked anew"


def applied_but(*broken: str) -> Callable[[Request], Reply]:
    """Answer as the function does when these tables are missing."""

    def script(request: Request) -> Reply:
        if not request.path.startswith("rpc/"):
            gone = request.path.partition("?")[0] in broken
            return refused(404, "PGRST205", "no such table") if gone else accepted(request)
        missing = {"applied": False, "code": "42P01", "message": "no such table"}
        there = {"applied": True}
        entries = json.loads(request.body)["entries"]
        told = [{"n": n} | (missing if entry["table"] in broken else there) for n, entry in enumerate(entries, 1)]
        return Reply(200, {}, json.dumps(told).encode())

    return script


@run_async
async def test_a_pause_is_probed_while_mixed_requests_go_on(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=applied_but("lost"))
    settings = Settings(path=tmp_path / "bot.db", rpc="auto", batch_rows=1)
    async with Outbox.open(settings, clock=ManualClock(), transport=remote) as outbox:
        await outbox.put("lost", {"n": 0})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5), outbox.flushing():
                while not (await outbox.stats()).pauses:
                    pass  # each look gives way to the flusher
        for n in range(20):
            await outbox.put("trades", {"n": n})
        remote.otherwise = applied_but()
        report = await outbox.drain(timeout=10)

    paths = [request.path.partition("?")[0] for request in remote.requests]
    assert (report.pending, report.dead) == (0, 0)
    assert paths.index("lost") < len(paths) - 10, "not only once everything else is gone"
    assert paths.count("rpc/outbox_apply") == 21
