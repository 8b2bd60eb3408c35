"""The whole path: an outbox on a real file, a real REST server, and the rows counted in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

from outbox import Outbox, Settings, Stats
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

NOW = datetime(2026, 1, 2, 10, tzinfo=UTC)


@contextlib.asynccontextmanager
async def opened(folder: Path, remote: SupabaseLite, **changes: Any) -> AsyncIterator[Outbox]:
    values: dict[str, Any] = {
        "supabase_url": remote.url,
        "supabase_key": remote.secret_key,
        "backoff_cap_s": 0.2,
    } | changes
    async with Outbox.open(Settings(path=folder / "bot.db", **values)) as outbox:
        yield outbox


async def stats_when(outbox: Outbox, awaited: Callable[[Stats], bool]) -> Stats:
    """Return the figures once they are as `awaited`; the test's own time limit bounds it."""
    while not awaited(stats := await outbox.stats()):  # noqa: ASYNC110 - they have no event
        await asyncio.sleep(0.01)
    return stats


def trade(number: int, **more: object) -> dict[str, object]:
    return {"session_id": "s", "trade_id": str(number), "symbol": "EURUSD", "timestamp": NOW} | more


@run_async
async def test_an_insert_arrives_with_its_id_as_the_primary_key(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path, clean_remote) as outbox:
        receipt = await outbox.put("trades", trade(1, direction=1.0, pnl=Decimal("1.50"), comment="é ␀"))
        report = await outbox.drain(timeout=200)

    assert (report.delivered, report.pending, report.dead) == (1, 0, 0)
    assert sql.execute("select id::text, trade_id, direction, pnl, comment from trades").fetchall() == [
        (receipt.id, "1", 1, 1.5, "é ␀")
    ]


@run_async
async def test_values_that_json_has_no_word_for_arrive_as_postgresql_stores_them(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path, clean_remote) as outbox:
        await outbox.put("trades", trade(1, pnl=math.nan, pnl_pips=-math.inf))
        await outbox.put("events", {"event_type": "a\x00b", "timestamp": NOW, "data": {"n": [1, None], "t": NOW}})
        report = await outbox.drain(timeout=200)

    assert (report.pending, report.dead) == (0, 0)
    ((pnl, pips),) = sql.execute("select pnl, pnl_pips from trades").fetchall()
    assert math.isnan(pnl) and pips == -math.inf
    assert sql.execute("select event_type, data from events").fetchall() == [
        ("a␀b", {"n": [1, None], "t": "2026-01-02T10:00:00+00:00"})
    ]


@run_async
async def test_insert_upsert_and_update_of_one_key_arrive_in_the_order_of_the_puts(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path, clean_remote) as outbox, outbox.flushing():
        start = {"session_id": "s", "start_time": NOW, "status": "RUNNING", "version": 1}
        await outbox.put("sessions", start, key="s")
        for version in range(2, 40):
            await outbox.put("sessions", start | {"total_trades": version, "version": version}, operation="upsert")
        await outbox.put("sessions", {"status": "STOPPED"}, operation="update", match={"session_id": "s"})
        report = await outbox.drain(timeout=200)

    assert (report.pending, report.dead) == (0, 0)
    assert sql.execute("select session_id, status, total_trades, version from sessions").fetchall() == [
        ("s", "STOPPED", 39, 39)
    ]


@run_async
async def test_one_refused_row_among_five_hundred_dies_alone_with_the_servers_words(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path, clean_remote) as outbox:
        bad = trade(250) | {"timestamp": "yesterdayish"}
        await asyncio.gather(*(outbox.put("trades", bad if n == 250 else trade(n)) for n in range(500)))
        report = await outbox.drain(timeout=200)
        dead = await outbox._store.read("select payload, error_code, error_message from outbox where state = 'dead'")

    assert (report.delivered, report.pending, report.dead) == (499, 0, 1)
    assert sql.execute("select count(*), count(distinct trade_id) from trades").fetchone() == (499, 499)
    ((payload, code, message),) = dead
    assert '"trade_id":"250"' in payload
    assert code == "22007" and "yesterdayish" in message


@run_async
async def test_rows_put_during_an_outage_arrive_once_the_server_is_back(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    clean_remote.stop()
    async with opened(tmp_path, clean_remote) as outbox, outbox.flushing():
        await asyncio.gather(*(outbox.put("trades", trade(n)) for n in range(1000)))
        offline = await outbox.drain(timeout=0.5)
        assert offline.timed_out and offline.pending == 1000
        await stats_when(outbox, lambda stats: stats.paused == "unreachable")  # on a slow machine it comes later

        await asyncio.to_thread(clean_remote.start)
        report = await outbox.drain(timeout=200)

        assert (report.pending, report.dead) == (0, 0)
        assert (await outbox.stats()).paused is None
    assert sql.execute("select count(*), count(distinct trade_id) from trades").fetchone() == (1000, 1000)


@run_async
async def test_a_killed_server_and_a_killed_database_cost_no_row_and_no_second_one(
    tmp_path: Path, clean_remote: SupabaseLite, postgres: EmbeddedPostgres
) -> None:
    async with opened(tmp_path, clean_remote, batch_rows=50) as outbox, outbox.flushing():
        for wave in range(4):
            puts = [outbox.put("trades", trade(wave * 500 + n)) for n in range(500)]
            if wave % 2:
                await asyncio.gather(*puts, asyncio.to_thread(postgres.kill))
                await asyncio.to_thread(postgres.start)
            else:
                await asyncio.gather(*puts, asyncio.to_thread(clean_remote.kill))
            await asyncio.to_thread(clean_remote.start)  # Lite ends by itself when its database dies
        report = await outbox.drain(timeout=200)

    assert (report.pending, report.dead) == (0, 0)
    with psycopg.connect(postgres.dsn) as again:
        assert again.execute("select count(*), count(distinct trade_id) from trades").fetchone() == (2000, 2000)


@run_async
async def test_a_publishable_key_pauses_everything_and_loses_nothing(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path, clean_remote, supabase_key=clean_remote.publishable_key) as outbox, outbox.flushing():
        await outbox.put("trades", trade(1))
        stats = await stats_when(outbox, lambda stats: stats.paused is not None)

        assert (stats.pending, stats.dead) == (1, 0)
        assert "publishable" in stats.warnings[0]
        assert stats.paused == "unauthorized"

    async with opened(tmp_path, clean_remote) as outbox:
        await outbox.reload()
        report = await outbox.drain(timeout=200)
    assert (report.delivered, report.pending) == (1, 0)
    assert sql.execute("select count(*) from trades").fetchone() == (1,)


@run_async
async def test_a_missing_table_holds_back_its_own_rows_only(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path, clean_remote) as outbox, outbox.flushing():
        await outbox.put("no_such_table", {"a": 1})
        await outbox.put("trades", trade(1) | {"misspelt": 1})
        await outbox.put("trades", trade(2))
        stats = await stats_when(outbox, lambda stats: len(stats.pauses) == 2 and stats.delivered == 1)
        pauses = {(pause.scope, pause.code) for pause in stats.pauses}

    assert (stats.pending, stats.dead) == (2, 0)
    assert pauses == {("destination", "PGRST205"), ("lane", "PGRST204")}
    assert sql.execute("select trade_id from trades").fetchall() == [("2",)]


@run_async
async def test_a_new_key_in_the_env_file_is_found_by_the_next_probe_without_a_restart(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = tmp_path / ".env"
    common = f"SUPABASE_URL={clean_remote.url}\nOUTBOX_PAUSE_PROBE_S=0.1\nOUTBOX_POLL_S=0.05\n"
    env.write_text(f"{common}SUPABASE_SECRET_KEY=sb_secret_expired\n", encoding="utf-8")

    async with Outbox.open() as outbox, outbox.flushing():
        await outbox.put("trades", trade(1))
        while (await outbox.stats()).paused != "unauthorized":
            pass  # each look gives way to the flusher
        env.write_text(f"{common}SUPABASE_SECRET_KEY={clean_remote.secret_key}\n", encoding="utf-8")
        while (await outbox.stats()).pending:
            pass

        stats = await outbox.stats()
        assert (stats.delivered, stats.dead, stats.paused) == (1, 0, None)
    assert sql.execute("select trade_id from trades").fetchall() == [("1",)]


@run_async
async def test_the_status_and_the_history_explain_the_fate_of_every_row(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poison, an orphan, a missing table, a misspelt column, an outage: each row's state says why it is there."""
    sql.execute("create table public.fills (id uuid primary key, trade uuid references public.trades (id))")
    sql.execute("grant all on public.fills to service_role; notify pgrst, 'reload schema'")
    try:
        clean_remote.stop()
        clean_remote.start()  # Lite reads the tables when it starts
        # The orphan's next try comes after 54 s: not while the counts are taken.
        monkeypatch.setattr("random.random", lambda: 0.9)
        async with opened(tmp_path, clean_remote, backoff_base_s=60, backoff_cap_s=60) as outbox, outbox.flushing():
            poison = await outbox.put("trades", trade(1) | {"timestamp": "yesterdayish"})
            orphan = await outbox.put("fills", {"trade": "00000000-0000-7000-8000-000000000000"})
            await outbox.put("no_such_table", {"a": 1})
            await outbox.put("trades", trade(2) | {"misspelt": 1})
            good = await outbox.put("trades", trade(3))
            stats = await stats_when(outbox, lambda stats: len(stats.pauses) == 2 and stats.dead + stats.delivered == 2)
            stats = await stats_when(outbox, lambda stats: stats.postponed > 0)

            rows = await outbox._store.read("select id, state, waits, error_code from outbox order by seq")
            fates = {row[0]: tuple(row[1:]) for row in rows}
            assert fates[poison.id] == ("dead", None, "22007")
            assert fates[orphan.id] == ("pending", "retry", "23503")
            assert fates[good.id] == ("delivered", None, None)
            assert {(pause.scope, pause.code) for pause in stats.pauses} == {
                ("destination", "PGRST205"),
                ("lane", "PGRST204"),
            }
            assert (stats.pending, stats.dead, stats.delivered, stats.postponed) == (3, 1, 1, 1)
            told = await outbox._store.read("select distinct event, code from outbox_history order by event")
            assert [tuple(line) for line in told] == [("postponed", "23503"), ("refused", "22007")]
    finally:
        sql.execute("drop table public.fills")
