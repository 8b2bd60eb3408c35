"""Delivered means it is there: rows under ids of the bot's own, read back from a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import SupabaseLite

from outbox import Outbox, Settings
from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.verdicts import Failure, Reply
from tests.integration.test_end_to_end import opened, trade
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

ID = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
TRADE = trade(
    1, timestamp=datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2))),
    pnl=Decimal("1.10"), volume=0.1, entry_price=1.123456789012345, is_paper=True, comment=None, direction=1.0,
)  # fmt: skip
EVENT = {
    "event_type": "x", "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
    "data": {"b": 1.50, "a": [1, {"z": None, "y": "é"}]},
}  # fmt: skip


class LosesTheFirstReply:
    """The real transport; the first request is carried out, and its answer is lost."""

    def __init__(self, remote: SupabaseLite) -> None:
        self._inner = PostgrestTransport(f"{remote.url}/rest/v1", remote.secret_key)
        self.requests: list[Request] = []

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        self.requests.append(request)
        outcome = await self._inner.send(request, deadline_s=deadline_s)
        return Failure.CUT if len(self.requests) == 1 else outcome

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize(("table", "row"), [("trades", TRADE), ("events", EVENT)], ids=["a trade", "an event"])
@run_async
async def test_a_row_whose_reply_was_lost_is_recognised_as_postgresql_writes_it(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql, table: str, row: dict[str, Any]
) -> None:
    transport = LosesTheFirstReply(clean_remote)
    settings = Settings(path=tmp_path / "bot.db", backoff_cap_s=0.2, poll_s=0.05)
    async with Outbox.open(settings, transport=transport) as outbox, outbox.flushing():
        await outbox.put(table, row, id=ID)
        report = await outbox.drain(timeout=200)
        dead = await outbox._store.read("select error_message, error_details from outbox where state = 'dead'")
    assert (report.pending, dead) == (0, [])
    assert [request.method for request in transport.requests] == ["POST", "POST", "GET"]  # control: it was looked at
    assert sql.execute(f"select id from public.{table}").fetchall() == [(UUID(ID),)]


@run_async
async def test_two_bots_under_one_id_with_different_contents(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    told = list[Any]()
    for name, changes in (("a", {}), ("b", {}), ("c", {"pnl": 2, "symbol": "GBPUSD"})):
        (tmp_path / name).mkdir()
        async with opened(tmp_path / name, clean_remote) as outbox:
            await outbox.put("trades", TRADE | changes, id=ID)
            report = await outbox.drain(timeout=200)
            assert (report.delivered, report.dead) == ((0, 1) if changes else (1, 0))
            told = await outbox._store.read("select error_code, error_message from outbox where state = 'dead'")
    assert [tuple(each) for each in told] == [
        ("CONFLICT", f"another row is there with trades.id = {ID.lower()}; it differs in pnl, symbol")
    ]
    assert sql.execute("select symbol from trades").fetchall() == [("EURUSD",)]


@run_async
async def test_a_row_that_a_trigger_swallows_is_a_dead_letter(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    sql.execute("create function public.swallow() returns trigger language plpgsql as 'begin return null; end'")
    sql.execute("create trigger swallow before insert on trades for each row execute function public.swallow()")
    try:
        async with opened(tmp_path, clean_remote) as outbox:
            await outbox.put("trades", TRADE, id=ID)
            report = await outbox.drain(timeout=200)
            told = await outbox._store.read("select error_code, error_message from outbox")
    finally:
        sql.execute("drop function public.swallow cascade")
    assert (report.delivered, report.dead) == (0, 1)
    assert told[0][0] == "CONFLICT" and "a trigger swallowed it" in told[0][1]
