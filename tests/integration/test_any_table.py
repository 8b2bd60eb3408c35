"""Any table: three that are not ours, made by the SQL of `docs/any-table.md`, filled end to end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from pydantic import BaseModel
from supabase_lite import EmbeddedPostgres, SupabaseLite

from outbox import IdConflict, Outbox, Settings, SupabaseClient
from tests.doc_blocks import blocks_of, run_page
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

PAGE = Path(__file__).parents[2] / "docs" / "any-table.md"
(SCHEMA,) = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
TABLES = "public.orders, public.fills, public.order_notes"


@pytest.fixture(scope="module")
def made(remote: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[None]:
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as sql:
        sql.execute(SCHEMA.encode())
        for name in TABLES.split(", "):  # Supabase's service_role passes row-level security by itself
            sql.execute(f"create policy own on {name} to service_role using (true) with check (true)".encode())
        remote.stop()
        remote.start()  # Lite reads the tables when it starts
        yield
        sql.execute(f"drop table {TABLES}".encode())


@pytest.fixture
def tables(made: None, clean_remote: SupabaseLite, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> SupabaseLite:
    """A project with the three tables, empty; its URL and key are in the environment."""
    sql.execute(f"truncate {TABLES}".encode())
    for name in ("SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUPABASE_URL", clean_remote.url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", clean_remote.secret_key)
    return clean_remote


@run_async
async def test_the_page_runs_from_top_to_bottom(tmp_path: Path, tables: SupabaseLite, sql: Sql) -> None:
    assert await run_page(PAGE, tmp_path) == len(blocks_of(PAGE))
    assert sql.execute("select order_id, lots, status from orders order by order_id").fetchall() == [
        (4711, 2, "FILLED"),
        (4712, 1, "NEW"),
    ]
    assert sql.execute("select venue, fill_no, price::float from fills order by fill_no").fetchall() == [
        ("LMAX", 1, 1.0812),
        ("LMAX", 2, 1.0813),
    ]
    assert sql.execute("select order_id, note from order_notes").fetchall() == [(4712, "before its order")]


class Order(BaseModel):
    order_id: int
    symbol: str
    lots: int


def opened(folder: Path, **changes: Any) -> Any:
    return Outbox.open(Settings(path=folder / "bot.db", backoff_cap_s=0.2, **changes))


@run_async
async def test_a_bigint_key_of_the_bots_own_is_the_idempotency_key(
    tmp_path: Path, tables: SupabaseLite, sql: Sql
) -> None:
    largest = 2**53 - 1  # Supabase Lite reads numbers as doubles; PostgREST takes all of a bigint
    async with opened(tmp_path) as outbox:
        outbox.register("orders", key="order_id")
        for number in (1, largest, 1):
            receipt = await outbox.put("orders", Order(order_id=number, symbol="EURUSD", lots=1))
            assert receipt.id == str(number)
        with pytest.raises(IdConflict):
            await outbox.put("orders", Order(order_id=1, symbol="EURUSD", lots=2))
        # A lost reply: the server has the row already when it is sent for the first time from here.
        sql.execute("insert into orders (order_id, symbol, lots) values (2, 'EURUSD', 1)")
        await outbox.put("orders", Order(order_id=2, symbol="EURUSD", lots=1))
        report = await outbox.drain(timeout=200)

    assert (report.delivered, report.pending, report.dead) == (3, 0, 0)
    assert sql.execute("select order_id from orders order by 1").fetchall() == [(1,), (2,), (largest,)]


@run_async
async def test_rows_of_a_composite_key_are_merged_by_all_of_its_columns(
    tmp_path: Path, tables: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path) as outbox:
        outbox.register("fills", on_conflict=("venue", "fill_no"), operation="upsert")
        for number in range(20):
            for venue in ("LMAX", "EBS"):
                await outbox.put("fills", {"venue": venue, "fill_no": number % 5, "price": number})
        report = await outbox.drain(timeout=200)
        assert (report.pending, report.dead) == (0, 0)
        client = SupabaseClient(outbox)
        client.describe("fills", {"venue": "text", "fill_no": "integer", "order_id": "integer", "price": "numeric"})
        await outbox.put("fills", {"venue": "EBS", "fill_no": 3, "price": 99})
        merged = [row async for row in client.rows("fills", {"fill_no": 3}, page=1, source="merged")]

    rows = sql.execute("select venue, fill_no, price::int from fills order by venue, fill_no").fetchall()
    assert rows == [(venue, number, 15 + number) for venue in ("EBS", "LMAX") for number in range(5)]
    assert {(row["venue"], int(row["price"])) for row in merged} == {("LMAX", 18), ("EBS", 99)}


@run_async
async def test_children_put_before_their_parents_arrive_once_those_have(
    tmp_path: Path, tables: SupabaseLite, sql: Sql
) -> None:
    async with opened(tmp_path) as outbox, outbox.flushing():
        outbox.register("orders", key="order_id")
        for number in range(30):
            await outbox.put("order_notes", {"order_id": number, "note": f"n{number}"})
        await outbox.drain(timeout=1)
        assert (await outbox.stats()).dead == 0
        assert sql.execute("select count(*) from order_notes").fetchone() == (0,), "the control: no parent, no child"
        for number in range(30):
            await outbox.put("orders", Order(order_id=number, symbol="EURUSD", lots=1))
        report = await outbox.drain(timeout=200)

    assert (report.pending, report.dead) == (0, 0)
    query = "select count(*), count(distinct order_id) from order_notes join orders using (order_id)"
    assert sql.execute(query).fetchone() == (30, 30)
