"""Fills that are told twice, ids that the key cannot hold, and what a bot says beyond the columns."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outbox import InvalidEntry, InvalidQuery, SessionManager, SupabaseClient, TradeLogger, uuid_of
from outbox.bot import records
from outbox.testing import ManualClock
from tests.bot.home import opened, puts, rows
from tests.support import run_async

FILL: dict[str, Any] = {
    "symbol": "EURUSD", "direction": 1, "intensity": 2, "action": "OPEN", "volume": 0.1, "entry_price": 1.1,
    "exit_price": None, "pnl": None, "pnl_pips": None, "hmm_state": 3,
}  # fmt: skip


_ODD: dict[Any, object] = {7: "seven"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_warned", set())


@run_async
async def test_a_fill_that_the_broker_tells_again_after_a_restart_is_one_trade(tmp_path: Path) -> None:
    clock = ManualClock()
    told = []
    for _ in range(3):
        async with opened(tmp_path, clock) as outbox:
            logger = TradeLogger(outbox, "s-1")
            paper = SimpleNamespace(**{name: FILL.get(name) for name in (*FILL, "commission")})
            told += [
                await logger.log_trade(**FILL, id="exec-4711"),
                await logger.log_real_trade({**FILL, "pnl": 2.0}, id=4712),
                await logger.log_paper_trade(paper, id="exec-4713"),
                await SupabaseClient(outbox).log_trade({**FILL, "session_id": "s-1"}, id="exec-4714"),
            ]
            async with outbox.transaction() as tx:
                told.append(await logger.log_trade(**FILL, id="exec-4711", tx=tx))
        clock.advance(60)  # the next telling has another time stamp

    names = ["exec-4711", "4712", "exec-4713", "exec-4714"]
    assert rows(tmp_path, "select id, payload ->> 'trade_id' as name from outbox order by seq") == [
        {"id": uuid_of(name), "name": name} for name in names
    ]
    assert [receipt.duplicate for receipt in told] == [False] * 4 + [True] * 11
    # Control: without the broker's name each telling is a trade.
    async with opened(tmp_path, clock) as outbox:
        for _ in range(2):
            assert not (await TradeLogger(outbox, "s-1").log_trade(**FILL)).duplicate


@run_async
async def test_an_id_that_is_a_uuid_is_taken_as_it_is_and_a_text_key_takes_any(tmp_path: Path) -> None:
    mine = str(uuid.UUID(int=7))
    async with opened(tmp_path, ManualClock()) as outbox:
        logger = TradeLogger(outbox, "s-1")
        assert (await logger.log_trade(**FILL, id=mine.upper())).id == mine
        assert (await outbox.put("trades", {"n": 1}, id=f"{{{uuid_of('x')}}}")).id == uuid_of("x")
        outbox.register("trades", columns={"id": "text"})
        assert (await logger.log_trade(**FILL, id="exec-4711")).id == "exec-4711"


@pytest.mark.parametrize("table", ["trades", "events", "sessions"])
@run_async
async def test_an_id_that_no_uuid_column_can_hold_is_refused_with_what_to_write(table: str, tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        for row, given in (({"n": 1}, "exchange-fill-4711"), ({"n": 1, "id": "exchange-fill-4711"}, None)):
            with pytest.raises(InvalidEntry, match=r"write id=outbox.uuid_of\('exchange-fill-4711'\)") as caught:
                await outbox.put(table, row, id=given)
            assert caught.value.field == f"{table}.id"
        with pytest.raises(InvalidEntry):
            await outbox.put_many(table, [{"n": 1}], ids=["exchange-fill-4711"])
        # Controls: what the error says works; an upsert never sends its id.
        await outbox.put(table, {"n": 1}, id=uuid_of("exchange-fill-4711"))
        await outbox.put(table, {"n": 1}, operation="upsert", on_conflict=("n",), id="exchange-fill-4711")
    assert len(puts(tmp_path, table)) == 2


@pytest.mark.parametrize("declared", [{"columns": {"ticket": "integer"}}, {"integers": ("ticket",)}])
@run_async
async def test_an_integer_key_takes_integers_and_no_id_is_minted_for_it(
    declared: dict[str, Any], tmp_path: Path
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        outbox.register("orders", key="ticket", **declared)
        for row, given in (({"n": 1}, None), ({"n": 1}, "A-1"), ({"n": 1, "ticket": 2**63}, None)):
            with pytest.raises(InvalidEntry) as caught:
                await outbox.put("orders", row, id=given)
            assert caught.value.field == "orders.ticket"
        assert (await outbox.put("orders", {"n": 1, "ticket": 1001.0})).id == "1001"
        assert (await outbox.put("orders", {"n": 1}, id=-5)).id == "-5"


def test_a_text_has_the_same_uuid_in_every_version() -> None:
    assert uuid_of("exchange-fill-4711") == "b41c68e5-f4b9-5f6f-8d66-ce4375cf9ddf"
    assert uuid_of("exchange-fill-4712") != uuid_of("exchange-fill-4711")


@run_async
async def test_what_has_no_column_is_kept_and_the_figure_that_it_may_have_meant_is_not_made_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        logger = TradeLogger(outbox, "s-1")
        for _ in range(2):
            await logger.log_real_trade({"pnll": 12.5, "ticket": 4711, **_ODD})
        await logger.log_real_trade({"pnl": 12.5, "extra": {"note": "mine"}})
        await logger.log_real_trade({"pnl": 12.5, "extra": {"note": "mine"}, "ticket": 1})
        await logger.log_real_trade({"pnl": 12.5})
    first, again, own, both, none = puts(tmp_path, "trades")
    assert first["extra"] == again["extra"] == {"7": "seven", "pnll": 12.5, "ticket": 4711}
    assert "pnl" not in first and first["pnl_pips"] == 0
    assert (own["extra"], both["extra"]) == ({"note": "mine"}, {"note": "mine", "ticket": 1})
    assert "extra" not in none and none["pnl"] == 12.5
    (record,) = [each for each in caplog.records if "kept in extra" in each.message]
    assert record.keys == ["7", "pnll", "ticket"]  # type: ignore[attr-defined]
    assert record.hints == ["pnll: did you mean pnl?"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", [("ticket",), {"ticket": "integer"}])
@run_async
async def test_a_declared_column_of_the_bots_own_is_sent(columns: Any, tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        declared = outbox.register("trades", columns=columns)
        assert "direction" in declared.integers, "what is known of a shipped table stays known"
        await TradeLogger(outbox, "s-1").log_real_trade({"ticket": 4711, "mood": "bad"})
        await TradeLogger(outbox, "s-1").log_real_trade({"pnl": 1})
        with pytest.raises(InvalidQuery):
            outbox.register("trades", columns={"ticket": "serial"})
    sent, plain = puts(tmp_path, "trades")
    assert (sent["ticket"], sent["extra"]) == (4711, {"mood": "bad"})
    assert "ticket" not in plain and "extra" not in plain


@run_async
async def test_what_a_session_says_at_its_end_beyond_the_figures_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(100.0, ["EURUSD"])
        await session.end_session({"balance": 101.0, "max_drawdown": 3.5})
    assert puts(tmp_path, "sessions")[-1]["extra"] == {"max_drawdown": 3.5}
    assert "extra" not in puts(tmp_path, "sessions")[0]
