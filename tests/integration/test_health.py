"""The health row in a real table: it is there, it ends well, and what is wrong with it touches no entry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import SupabaseLite

from outbox import Outbox, Settings
from outbox.testing import ManualClock
from tests.support import run_async

pytestmark = pytest.mark.usefixtures("patient_reports")

Sql = psycopg.Connection[TupleRow]
TRADE = {"session_id": "s", "symbol": "EURUSD", "timestamp": "2026-01-02T10:00:00Z"}


@contextlib.asynccontextmanager
async def flushing(
    folder: Path, remote: SupabaseLite, *, clock: ManualClock | None = None, **changes: Any
) -> AsyncIterator[Outbox]:
    values = {"supabase_url": remote.url, "supabase_key": remote.secret_key, "source": "trend@desk"} | changes
    async with Outbox.open(Settings(path=folder / "bot.db", **values), clock=clock) as outbox, outbox.flushing():
        yield outbox


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.02)


def health(sql: Sql) -> list[TupleRow]:
    return sql.execute("select source, health, silent, pending from outbox_fleet order by 1").fetchall()


@run_async
async def test_a_running_bot_has_one_row_that_says_how_it_ended(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    seen = "select pending, dead, stopped, last_success_at is not null, version <> '' from outbox_health"
    clock = ManualClock()

    def reported() -> bool:
        clock.advance(60)  # its minutes pass quickly; the server's, after three of which it would be silent, do not
        return sql.execute(seen).fetchall() == [(0, 0, False, True, True)]

    async with flushing(tmp_path, clean_remote, clock=clock, health_s=60) as outbox:
        await outbox.put("trades", TRADE)
        await until(reported)
        assert health(sql) == [("trend@desk", "healthy", False, 0)]
        assert (await outbox.stats()).delivered == 1  # the report is no entry

    assert health(sql) == [("trend@desk", "stopped", False, 0)]


def test_the_view_flags_a_bot_that_has_missed_three_reports(clean_remote: SupabaseLite, sql: Sql) -> None:
    insert = """insert into outbox_health (source, pending, dead, every_s, stopped, paused, reported_at)
        values (%s, %s, %s, 60, %s, %s, now() - %s * interval '1 second')"""
    sql.execute("set session_replication_role = replica")  # the server's clock is not asked
    for row in [
        ("killed", 7, 0, False, None, 181),
        ("late", 0, 0, False, None, 179),
        ("ended", 0, 0, True, None, 86_400),
        ("waiting", 5, 1, False, "unauthorized", 10),
        ("refused", 0, 2, False, None, 10),
    ]:
        sql.execute(insert, row)
    sql.execute("reset session_replication_role")

    assert health(sql) == [
        ("ended", "stopped", False, 0),
        ("killed", "silent", True, 7),
        ("late", "healthy", False, 0),
        ("refused", "dead letters", False, 0),
        ("waiting", "stalled", False, 5),
    ]


def test_the_time_of_a_report_is_the_servers(clean_remote: SupabaseLite, sql: Sql) -> None:
    recent = "select reported_at between now() - interval '1 minute' and now() from outbox_health"
    columns = "source, pending, dead, every_s, reported_at"
    sql.execute(f"insert into outbox_health ({columns}) values ('b', 0, 0, 60, '1999-01-01')")
    assert sql.execute(recent).fetchall() == [(True,)]
    sql.execute("update outbox_health set reported_at = '2099-01-01'")
    assert sql.execute(recent).fetchall() == [(True,)]


@run_async
async def test_without_the_table_everything_else_arrives_and_the_log_says_it_once(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    sql.execute("alter table outbox_health rename to elsewhere")
    try:
        async with flushing(tmp_path, clean_remote, health_s=0.02) as outbox:
            await until(lambda: "its table is missing or refuses the row" in caplog.text)
            for _ in range(5):
                await outbox.put("trades", TRADE)
                await outbox.drain(timeout=200)
            stats = await outbox.stats()
    finally:
        sql.execute("alter table elsewhere rename to outbox_health")
    assert (stats.delivered, stats.dead, stats.pauses) == (5, 0, ())
    assert sum(record.name == "outbox.health" for record in caplog.records) == 1


@run_async
async def test_a_report_that_hangs_holds_no_row_back(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql, postgres: Any
) -> None:
    with psycopg.connect(postgres.dsn) as other:
        other.execute("lock table outbox_health in access exclusive mode")
        waiting = "select count(*) from pg_locks where not granted and relation = 'outbox_health'::regclass"
        async with flushing(tmp_path, clean_remote, health_s=0.02) as outbox:
            await until(lambda: sql.execute(waiting).fetchone() == (1,))
            await outbox.put("trades", TRADE)
            report = await outbox.drain(timeout=200)
            assert (report.delivered, report.pending) == (1, 0)
            assert sql.execute(waiting).fetchone() == (1,)  # it hung all the while
            other.rollback()
