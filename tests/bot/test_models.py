"""The typed rows: wrong types are refused where the object is made, and what arrives is what was set."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr
from supabase_lite import SQL, SupabaseLite

from outbox import Event, InvalidEntry, Outbox, PaperTrade, Session, Settings, Trade
from outbox.bot.models import Row
from outbox.columns import SHIPPED
from tests.support import run_async

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRADE: dict[str, Any] = {"session_id": "s-1", "timestamp": NOW, "symbol": "EURUSD"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("pnl", "1.5", id="a number as text"),
        pytest.param("pnl", True, id="a bool as a number"),
        pytest.param("direction", 1.0, id="a float as an integer"),
        pytest.param("direction", True, id="a bool as an integer"),
        pytest.param("is_paper", 1, id="a number as a bool"),
        pytest.param("timestamp", "2026-01-01T00:00:00Z", id="a time as text"),
        pytest.param("timestamp", datetime(2026, 1, 1), id="a time without a zone"),  # noqa: DTZ001, RUF100
        pytest.param("symbol", None, id="null where the table has none"),
        pytest.param("session_id", 7, id="a number as text's column"),
        pytest.param("id", "T-1", id="no uuid"),
        pytest.param("pnll", 1.0, id="a misspelt name"),
    ],
)
def test_a_wrong_type_is_refused_by_name_and_never_shown(field: str, value: Any) -> None:
    for make in (lambda row: Trade(**row), Trade.model_validate):
        with pytest.raises(InvalidEntry) as caught:
            make({**TRADE, field: value})

        assert caught.value.field == f"Trade.{field}"
        assert "input_value" not in str(caught.value)
        assert caught.value.__cause__ is None
    Trade(**TRADE)  # the control


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        pytest.param("pnl", Decimal("1.10"), Decimal("1.10"), id="a decimal stays one"),
        pytest.param("pnl", np.float32(0.5), 0.5, id="numpy float"),
        pytest.param("direction", np.int64(-1), -1, id="numpy integer"),
        pytest.param("timestamp", pd.Timestamp(NOW), NOW, id="pandas time"),
        pytest.param("id", str(UUID(int=7)), UUID(int=7), id="an id as text"),
        pytest.param("pnl", None, None, id="none"),
    ],
)
def test_the_types_of_value_that_bots_use_are_accepted(field: str, value: Any, kept: Any) -> None:
    found = getattr(Trade(**{**TRADE, field: value}), field)

    assert found == kept
    assert isinstance(found, type(kept))


def test_a_field_that_nobody_set_is_not_sent_and_an_explicit_none_is() -> None:
    assert Trade(**TRADE).model_dump() == TRADE
    assert Trade(**TRADE, comment=None).model_dump() == TRADE | {"comment": None}
    assert Event(timestamp=NOW, event_type="X").model_dump() == {"timestamp": NOW, "event_type": "X", "data": {}}


@pytest.mark.parametrize(("model", "table"), [(Trade, "trades"), (Event, "events"), (Session, "sessions")])
def test_the_fields_are_the_tables_columns(model: type[Row], table: str) -> None:
    text = (SQL / "0001_tables.sql").read_text(encoding="utf-8")
    body = text.split(f"create table if not exists public.{table} (")[1].split("\n);")[0]
    columns = {line.split()[0] for line in body.splitlines() if line.strip()}

    assert set(model.model_fields) == columns - {"created_at", "source"}  # the database fills these


@run_async
async def test_models_and_dicts_arrive_alike(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[Any]
) -> None:
    key = SecretStr(clean_remote.secret_key)
    settings = Settings(path=tmp_path / "bot.db", supabase_url=clean_remote.url, supabase_key=key)
    async with Outbox.open(settings) as outbox:
        receipt = await outbox.put("trades", Trade(**TRADE, pnl=Decimal("1.25")))
        await outbox.put("trades", TRADE | {"pnl": Decimal("1.25")})
        await outbox.put("events", Event(timestamp=NOW, event_type="X", data={"a": 1}))
        await outbox.put("sessions", Session(session_id="s-1", start_time=NOW, initial_balance=100.0, symbols=["A"]))
        await outbox.drain()
        # What the second one does not set stays as it is: the balance too.
        end = Session(session_id="s-1", start_time=NOW, status="STOPPED", version=2)
        await outbox.put("sessions", end, operation="upsert")
        await outbox.drain()

    trades = sql.cursor(row_factory=dict_row).execute("select * from trades").fetchall()
    ids = {str(trade.pop("id")) for trade in trades}
    assert receipt.id in ids
    assert len(ids) == 2
    first, second = ({k: v for k, v in trade.items() if k != "created_at"} for trade in trades)
    assert first == second
    assert (first["pnl"], first["commission"], first["is_paper"]) == (1.25, 0.0, False)  # the table's own defaults
    assert sql.execute("select jsonb_typeof(data) from events").fetchone() == ("object",)
    found = sql.execute("select initial_balance, symbols, status, version from sessions").fetchone()
    assert found == (100.0, ["A"], "STOPPED", 2)


def test_columns_of_ones_own_are_a_subclass() -> None:
    class MyTrade(Trade):
        strategy: str | None = None

    assert MyTrade(**TRADE, strategy="x").model_dump()["strategy"] == "x"
    with pytest.raises(InvalidEntry) as caught:
        MyTrade(**TRADE | {"strategy": 1})
    assert caught.value.field == "MyTrade.strategy"


@pytest.mark.parametrize(("model", "table"), [(Trade, "trades"), (Event, "events"), (Session, "sessions")])
def test_a_models_fields_are_the_columns_of_the_one_table(model: type[Row], table: str) -> None:
    """Without those that the server fills in."""
    assert set(model.model_fields) == set(SHIPPED[table]) - {"created_at", "source"}


def test_what_a_simulated_trade_tells_is_in_the_one_table() -> None:
    told = {name for name, value in vars(PaperTrade).items() if isinstance(value, property)}
    assert told and told <= set(SHIPPED["trades"])
