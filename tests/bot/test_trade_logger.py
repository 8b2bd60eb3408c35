"""`TradeLogger`: real and simulated trades of one session, exactly as the bot gave them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr
from supabase_lite import SupabaseLite

from outbox import InvalidEntry, Outbox, PaperTrade, Settings, SupabaseClient, TradeLogger, UsageError
from outbox.bot.trades import rounded
from outbox.testing import ManualClock, ScriptedTransport
from tests.support import run_async

NOW = datetime(2026, 1, 1, tzinfo=UTC)  # where ManualClock stands
# The old module's positional order.
POSITIONAL = ("EURUSD", 1, 3, "CLOSE", 0.1, 1.0812, 1.0824, 0.004, 0.04, 2)


@dataclass(frozen=True)
class Paper:
    """A bot's own simulated trade; frozen, so it could not be changed by accident."""

    symbol: str = "EURUSD"
    direction: int = -1
    intensity: int = 2
    volume: float = 0.2
    entry_price: float = 1.1
    exit_price: float = 1.09
    pnl: float | None = 20.125
    pnl_pips: float = 100.04
    hmm_state: int = 1
    commission: float = 0.7
    note: str = "not read"


def opened(folder: Path) -> Any:
    return Outbox.open(Settings(path=folder / "bot.db"), clock=ManualClock(), transport=ScriptedTransport())


async def put_rows(outbox: Outbox) -> list[dict[str, Any]]:
    return [json.loads(text) for (text,) in await outbox.read_local("select payload from outbox order by seq")]


@run_async
async def test_real_and_simulated_trades_arrive_in_their_columns(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[Any]
) -> None:
    key = SecretStr(clean_remote.secret_key)
    settings = Settings(path=tmp_path / "bot.db", supabase_url=clean_remote.url, supabase_key=key)
    async with Outbox.open(settings, clock=ManualClock()) as outbox:
        logger = TradeLogger(outbox, "s-1")
        receipts = [
            await logger.log_trade(*POSITIONAL, comment="by hand"),
            await logger.log_real_trade({"id": "T-9", "symbol": "GBPUSD", "pnl": 1.239, "session_id": "other"}),
            await logger.log_paper_trade(Paper()),
        ]
        await SupabaseClient(outbox).retry_pending(timeout=200)

    rows = sql.cursor(row_factory=dict_row).execute("select * from trades").fetchall()
    by_id = {str(row.pop("id")): row for row in rows}
    for row in rows:
        assert row.pop("created_at") is not None
        assert row.pop("extra") is None
        assert row.pop("source") is None  # a request's header fills it, and Lite shows headers to functions only
    first, second, third = (by_id[receipt.id] for receipt in receipts)
    assert first == {
        "session_id": "s-1", "trade_id": receipts[0].id, "timestamp": NOW, "symbol": "EURUSD", "direction": 1,
        "intensity": 3, "action": "CLOSE", "volume": 0.1, "entry_price": 1.0812, "exit_price": 1.0824, "pnl": 0.004,
        "pnl_pips": 0.04, "commission": 0.0, "hmm_state": 2, "is_paper": False, "comment": "by hand",
    }  # fmt: skip
    assert (second["trade_id"], second["session_id"], second["is_paper"], second["pnl"]) == ("T-9", "s-1", False, 1.239)
    shared = {f.name: getattr(Paper(), f.name) for f in fields(Paper) if f.name != "note"}
    assert third == shared | {
        "session_id": "s-1", "trade_id": receipts[2].id, "timestamp": NOW, "action": "CLOSE", "is_paper": True,
        "comment": "",
    }  # fmt: skip


@run_async
async def test_the_executors_dict_stays_as_it_was(tmp_path: Path) -> None:
    trade = {"id": "T-1", "symbol": "EURUSD", "is_paper": True, "session_id": "theirs"}
    before = dict(trade)
    async with opened(tmp_path) as outbox:
        await TradeLogger(outbox, "s-1").log_real_trade(trade)
        (row,) = await put_rows(outbox)

    assert trade == before
    assert (row["is_paper"], row["session_id"]) == (False, "s-1")


@run_async
async def test_each_trade_without_an_id_gets_a_full_uuid_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        logger = TradeLogger(outbox, "s-1")
        for _ in range(50):  # all in the same millisecond
            await logger.log_trade(*POSITIONAL)
        ids = [row["trade_id"] for row in await put_rows(outbox)]

    assert len(set(ids)) == 50
    assert {str(UUID(each)) for each in ids} == set(ids)


@pytest.mark.parametrize(
    ("given", "digits", "kept"),
    [
        pytest.param(0.004, None, 0.004, id="not rounded unless asked"),
        pytest.param(12.3456, 2, 12.35, id="rounded when asked"),
        pytest.param(12.3456, 0, 12.0, id="to units"),
        pytest.param(None, 2, None, id="none"),
        pytest.param(math.nan, 2, math.nan, id="nan"),
        pytest.param(math.inf, 2, math.inf, id="infinity"),
        pytest.param(Decimal("1.005"), 2, Decimal("1.00"), id="a decimal stays one"),
        pytest.param(Decimal("NaN"), 2, Decimal("NaN"), id="decimal nan"),
        pytest.param(Decimal("sNaN"), 2, Decimal("sNaN"), id="signaling nan"),
        pytest.param(Decimal("-Infinity"), 2, Decimal("-Infinity"), id="decimal infinity"),
        pytest.param(5, 2, 5, id="an integer"),
        pytest.param("1.234", 2, "1.234", id="what is no number"),
    ],
)
def test_rounding(given: object, digits: int | None, kept: object) -> None:
    found = rounded(given, digits)

    assert (type(found), str(found)) == (type(kept), str(kept))


@run_async
async def test_rounding_is_what_the_constructor_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        old_way = TradeLogger(outbox, "s-1", round_pnl=2, round_pips=1)
        await old_way.log_paper_trade(Paper(pnl=20.129))
        await old_way.log_paper_trade(Paper(pnl=None))
        await old_way.log_real_trade({"pnl": 0.004, "pnl_pips": 0.04})  # was never rounded
        rows = [(row["pnl"], row["pnl_pips"]) for row in await put_rows(outbox)]

    assert rows == [(20.13, 100.0), (None, 100.0), (0.004, 0.04)]


@run_async
async def test_any_object_with_the_attributes_is_a_paper_trade(tmp_path: Path) -> None:
    typed: PaperTrade = Paper()
    loose: Any = SimpleNamespace(**{f.name: getattr(typed, f.name) for f in fields(Paper)})
    async with opened(tmp_path) as outbox:
        logger = TradeLogger(outbox, "s-1")
        await logger.log_paper_trade(typed)
        await logger.log_paper_trade(loose)
        first, second = await put_rows(outbox)
        assert first | {"trade_id": ""} == second | {"trade_id": ""}

        del loose.pnl
        with pytest.raises(InvalidEntry, match="nothing was written") as caught:
            await logger.log_paper_trade(loose)
        assert len(await put_rows(outbox)) == 2

    assert caught.value.field == "paper_trade.pnl"


@run_async
async def test_trades_of_a_transaction_are_stored_with_the_bots_own_state_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        logger = TradeLogger(outbox, "s-1")
        async with outbox.transaction() as tx:
            await tx.execute("create table positions (symbol text, qty real)")
        with pytest.raises(ZeroDivisionError):
            async with outbox.transaction() as tx:
                await tx.execute("insert into positions values ('EURUSD', 0.1)")
                await logger.log_trade(*POSITIONAL, tx=tx)
                await logger.log_real_trade({}, tx=tx)
                await logger.log_paper_trade(Paper(), tx=tx)
                raise ZeroDivisionError
        assert await put_rows(outbox) == await outbox.read_local("select * from positions") == []

        async with outbox.transaction() as tx:  # the control
            await tx.execute("insert into positions values ('EURUSD', 0.1)")
            await logger.log_trade(*POSITIONAL, tx=tx)
        assert len(await put_rows(outbox)) == len(await outbox.read_local("select * from positions")) == 1


@run_async
async def test_the_constructor_says_at_once_that_it_needs_the_outbox(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        with pytest.raises(UsageError, match="takes the Outbox, not a SupabaseClient"):
            TradeLogger(SupabaseClient(outbox), "s-1")  # type: ignore[arg-type]
