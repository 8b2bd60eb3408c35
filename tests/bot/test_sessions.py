"""A session's life: start, heartbeat, day, crash, recovery, end; and what the remote end makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy
import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import SQL, SupabaseLite
from witness import Witness

from outbox import (
    InsideTransaction,
    InvalidEntry,
    Outbox,
    OutcomeUnknown,
    SessionEndReason,
    SessionManager,
    SessionNotRunning,
    SessionRunning,
    Settings,
    StoreError,
    TransactionExpired,
    UsageError,
)
from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.store.held_transaction import Block
from outbox.testing import ManualClock
from tests import forked
from tests.bot.home import ROOT, VICTIM, opened, puts, rows, run, state
from tests.support import cancelled_at, run_async

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)  # where a ManualClock begins
HOUR, DAY = 3600.0, 86400.0
SYMBOLS = ["EURUSD", "GBPUSD"]

# ------------------------------------------------------------------------------------------ start


@run_async
async def test_a_start_commits_its_state_and_its_entry(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        clock.advance(1.5)
        session_id = await session.start_session(10_000, SYMBOLS)

        assert str(UUID(session_id)) == session_id == session.session_id
        assert session.start_time == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
        assert (session.day_start, session.is_recovered) == (MIDNIGHT, False)
    (row,) = rows(tmp_path, "select operation, key from outbox")
    assert row == {"operation": "insert", "key": session_id}
    assert puts(tmp_path, "sessions") == [
        {"session_id": session_id, "start_time": "2026-01-01T00:00:01.500000+00:00", "initial_balance": 10_000.0,
         "symbols": SYMBOLS, "status": "RUNNING", "version": 1}
    ]  # fmt: skip
    assert state(tmp_path) == {
        "source": "bot-a", "session_id": session_id, "status": "RUNNING", "end_reason": None, "end_time": None,
        "start_time": "2026-01-01T00:00:01.500+00:00", "day_start": "2026-01-01T00:00:00.000+00:00",
        "last_heartbeat": "2026-01-01T00:00:01.500+00:00", "initial_balance": 10_000.0, "current_balance": None,
        "symbols": '["EURUSD","GBPUSD"]', "version": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("balance", "symbols", "field"),
    [
        pytest.param("10000", SYMBOLS, "initial_balance", id="a text for a balance"),
        pytest.param(True, SYMBOLS, "initial_balance", id="a truth value for a balance"),
        pytest.param(1, "EURUSD", "symbols", id="one symbol, which would be a list of letters"),
        pytest.param(1, [1], "symbols", id="a number for a symbol"),
    ],
)
@run_async
async def test_a_start_with_a_wrong_argument_names_it_and_writes_nothing(
    tmp_path: Path, balance: object, symbols: object, field: str
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        with pytest.raises(InvalidEntry) as refused:
            await session.start_session(balance, symbols)  # type: ignore[arg-type]
        assert refused.value.field == field
        assert await session.start_session(1, SYMBOLS)
    assert len(puts(tmp_path, "sessions")) == 1


@run_async
async def test_starting_twice_is_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        session_id = await session.start_session(1, SYMBOLS)

        with pytest.raises(SessionRunning, match="this SessionManager") as refused:
            await session.start_session(1, SYMBOLS)

        assert refused.value.session_id == session_id
        await session.end_session({})
    assert [put["status"] for put in puts(tmp_path, "sessions")] == ["RUNNING", "STOPPED"]


@run_async
async def test_a_second_manager_does_not_adopt_the_running_session_of_its_process(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        first, second = SessionManager(outbox), SessionManager(outbox)
        await first.start_session(1, SYMBOLS)

        with pytest.raises(SessionRunning, match="a source of its own"):
            await second.start_session(1, SYMBOLS)
        with pytest.raises(SessionNotRunning):
            await second.end_session({})

        await first.end_session({})
        assert await second.start_session(1, SYMBOLS) != first.session_id


@run_async
async def test_a_manager_that_its_bot_has_lost_does_not_stand_in_the_way_of_recovery(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session_id = await SessionManager(outbox).start_session(1, SYMBOLS)
        gc.collect()  # the first manager is gone: its task crashed, say, and a supervisor begins again

        again = SessionManager(outbox)
        assert await again.start_session(1, SYMBOLS) == session_id
        assert again.is_recovered


@run_async
async def test_two_bots_in_one_process_have_a_session_each_by_their_sources(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        one, two = SessionManager(outbox, source="one"), SessionManager(outbox, source="two")
        assert await one.start_session(1, SYMBOLS) != await two.start_session(2, SYMBOLS)
        await one.end_session({})
        await two.update_heartbeat(3)
    assert (state(tmp_path, "one")["status"], state(tmp_path, "two")["status"]) == ("STOPPED", "RUNNING")


@run_async
async def test_the_old_client_in_place_of_the_outbox_is_refused_at_the_construction(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes the Outbox"):
        SessionManager(object())  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ recovery


@run_async
async def test_a_recovery_restores_all_and_tells_the_gap(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        first = SessionManager(outbox)
        session_id = await first.start_session(10_000, SYMBOLS)
        clock.advance(HOUR)
        await first.update_heartbeat(10_050.5)
        start_time = first.start_time
    clock.advance(90.25)  # it crashed, and is started again

    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        assert await session.start_session(7, ["XAUUSD"]) == session_id

        assert session.is_recovered
        assert (session.start_time, session.day_start) == (start_time, MIDNIGHT)
        assert (session.initial_balance, session.current_balance, session.symbols) == (10_000, 10_050.5, SYMBOLS)
    (event,) = puts(tmp_path, "events")
    assert (event["event_type"], event["session_id"]) == ("SESSION_RECOVERED", session_id)
    assert event["data"] == {
        "old_session_id": session_id, "recovered_at": "2026-01-01T01:01:30.250000+00:00", "gap_seconds": 90.25,
        "start_time": "2026-01-01T00:00:00+00:00", "last_heartbeat": "2026-01-01T01:00:00+00:00",
        "balance": 7.0, "symbols": ["XAUUSD"],
    }  # fmt: skip
    assert len(puts(tmp_path, "sessions")) == 1, "a recovery begins no second session"


@run_async
async def test_a_second_crash_counts_its_gap_from_the_first_recovery(tmp_path: Path) -> None:
    clock = ManualClock()
    for pause in (0.0, 100.0, 5.0):
        clock.advance(pause)
        async with opened(tmp_path, clock) as outbox:
            await SessionManager(outbox).start_session(1, SYMBOLS)

    assert [event["data"]["gap_seconds"] for event in puts(tmp_path, "events")] == [100.0, 5.0]


@run_async
async def test_a_clock_that_was_set_back_gives_no_negative_gap(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        await SessionManager(outbox).start_session(1, SYMBOLS)
    clock.step_wall_clock(-60)
    async with opened(tmp_path, clock) as outbox:
        await SessionManager(outbox).start_session(1, SYMBOLS)
    assert puts(tmp_path, "events")[0]["data"]["gap_seconds"] == 0.0


@run_async
async def test_a_bot_does_not_adopt_the_session_of_another_source(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock, source="bot-a") as outbox:
        of_a = await SessionManager(outbox).start_session(1, SYMBOLS)
    async with opened(tmp_path, clock, source="bot-b") as outbox:
        session = SessionManager(outbox)
        assert await session.start_session(1, SYMBOLS) != of_a
        assert not session.is_recovered
        await session.end_session({})
    async with opened(tmp_path, clock, source="bot-a") as outbox:
        assert await SessionManager(outbox).start_session(1, SYMBOLS) == of_a


@run_async
async def test_an_ended_session_is_not_recovered(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        ended = await session.start_session(1, SYMBOLS)
        await session.end_session({})
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        assert await session.start_session(1, SYMBOLS) != ended
        assert not session.is_recovered


# ------------------------------------------------------------------------------------------ heartbeat


@run_async
async def test_a_heartbeat_changes_the_state_and_puts_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        balances: list[Any] = [Decimal("10.5"), numpy.float32(11.5), None, math.nan]
        for balance in balances:
            clock.advance(1)
            await session.update_heartbeat(balance)
        assert (await outbox.stats()).pending == 1
    assert state(tmp_path)["last_heartbeat"] == "2026-01-01T00:00:04.000+00:00"
    assert state(tmp_path)["current_balance"] == 11.5, "a heartbeat that knows no balance leaves the last one"


@run_async
async def test_a_heartbeat_outside_of_a_session_does_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        await session.update_heartbeat(1)
        assert rows(tmp_path, "select * from outbox_sessions") == []
        await session.start_session(1, SYMBOLS)
        await session.end_session({})
        stopped = state(tmp_path)
        clock.advance(1)
        await session.update_heartbeat(2)
    assert state(tmp_path) == stopped


# ------------------------------------------------------------------------------------------ the day


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param([HOUR, HOUR], [False, False], id="the same day"),
        pytest.param([DAY - 0.001, 0.001], [False, True], id="to the millisecond"),
        pytest.param([DAY, HOUR], [True, False], id="once for a day"),
        pytest.param([5 * DAY, HOUR, DAY], [True, False, True], id="once for several that passed unseen"),
        pytest.param([DAY, -HOUR, HOUR], [True, False, False], id="a clock set back over midnight"),
        pytest.param([30 * DAY, -30 * DAY, DAY, DAY], [True, True, True, True], id="a month ahead and set right"),
        pytest.param([DAY, -DAY, DAY], [True, True, True], id="a day ahead and set right: told twice, not missed"),
    ],
)
@run_async
async def test_a_new_utc_day_is_reported_once(tmp_path: Path, seconds: list[float], expected: list[bool]) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        told = []
        for step in seconds:
            clock.step_wall_clock(step)
            told.append(session.check_day_boundary())
        assert told == expected


@run_async
async def test_before_a_start_the_first_look_at_the_day_tells_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        assert session.check_day_boundary() is False
        assert session.day_start == MIDNIGHT
        clock.advance(DAY)
        assert session.check_day_boundary() is True


@pytest.mark.parametrize(
    ("slept_s", "expected"),
    [
        pytest.param(HOUR, False, id="within the day"),
        pytest.param(DAY, True, id="over midnight"),
        pytest.param(4 * DAY, True, id="over several days"),
    ],
)
@run_async
async def test_a_recovered_session_learns_of_the_days_it_has_slept_through(
    tmp_path: Path, slept_s: float, expected: bool
) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        await SessionManager(outbox).start_session(1, SYMBOLS)
    clock.advance(slept_s)
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        assert [session.check_day_boundary(), session.check_day_boundary()] == [expected, False]


@pytest.mark.parametrize("stored", [pytest.param(True, id="a heartbeat stored it"), pytest.param(False, id="none did")])
@run_async
async def test_a_day_that_no_heartbeat_stored_is_reported_again_after_a_crash(tmp_path: Path, stored: bool) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        clock.advance(DAY)
        assert session.check_day_boundary()
        if stored:
            await session.update_heartbeat()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        assert session.check_day_boundary() is not stored


# ------------------------------------------------------------------------------------------ the end


@run_async
async def test_an_end_upserts_every_known_column_under_a_higher_version(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        session_id = await session.start_session(10_000, SYMBOLS)
        clock.advance(HOUR)
        await session.end_session({"balance": 10_100.25, "total_trades": 3, "total_pnl": 100.25, "other": 1})
    start, end = puts(tmp_path, "sessions")
    assert end == {
        "session_id": session_id, "start_time": start["start_time"], "end_time": "2026-01-01T01:00:00+00:00",
        "initial_balance": 10_000.0, "final_balance": 10_100.25, "total_trades": 3, "total_pnl": 100.25,
        "symbols": SYMBOLS, "status": "STOPPED", "end_reason": "NORMAL", "version": 2, "extra": {"other": 1},
    }  # fmt: skip
    assert start.keys() < end.keys()
    entries = rows(tmp_path, "select operation, key, on_conflict from outbox order by seq")
    assert entries[1] == {"operation": "upsert", "key": session_id, "on_conflict": "session_id"}
    assert entries[0]["key"] == session_id, "the end follows the start, in one line"
    after = state(tmp_path)
    assert (after["status"], after["end_reason"], after["version"]) == ("STOPPED", "NORMAL", 2)


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        pytest.param({}, (5.5, None, None), id="nothing known but the last heartbeat's balance"),
        pytest.param({"balance": None, "total_trades": None, "total_pnl": None}, (5.5, None, None), id="None"),
        pytest.param(
            {"balance": math.nan, "total_trades": math.nan, "total_pnl": math.inf}, (5.5, None, None), id="not finite"
        ),
        pytest.param({"balance": 0, "total_trades": 0, "total_pnl": 0}, (0, 0, 0), id="zero is a figure"),
        pytest.param(
            {"balance": Decimal("1.25"), "total_trades": numpy.int64(2), "total_pnl": numpy.float64(-0.004)},
            (1.25, 2, -0.004),
            id="Decimal and numpy; nothing is rounded",
        ),
        pytest.param({"total_trades": 3.0}, (5.5, 3, None), id="an integral float"),
    ],
)
@run_async
async def test_an_end_takes_the_figures_as_they_are(
    tmp_path: Path, stats: dict[str, object], expected: tuple[object, ...]
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        await session.update_heartbeat(5.5)
        await session.end_session(stats, SessionEndReason.EMERGENCY)
    end = puts(tmp_path, "sessions")[-1]
    assert (end["final_balance"], end["total_trades"], end["total_pnl"]) == expected
    assert end["end_reason"] == "EMERGENCY"


@pytest.mark.parametrize(
    ("stats", "reason", "field"),
    [
        pytest.param({"balance": "1"}, "NORMAL", "stats.balance", id="a text"),
        pytest.param({"total_trades": 1.5}, "NORMAL", "stats.total_trades", id="half a trade"),
        pytest.param([], "NORMAL", "stats", id="no mapping"),
        pytest.param({}, "BORED", "reason", id="no such reason"),
    ],
)
@run_async
async def test_an_end_with_a_wrong_argument_names_it_and_the_session_goes_on(
    tmp_path: Path, stats: object, reason: str, field: str
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        with pytest.raises(InvalidEntry) as refused:
            await session.end_session(stats, reason)  # type: ignore[arg-type]
        assert refused.value.field == field
        assert state(tmp_path)["status"] == "RUNNING"
        await session.end_session({})


@run_async
async def test_there_is_nothing_to_end_before_a_start_and_after_an_end(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        with pytest.raises(SessionNotRunning, match="nothing was written") as refused:
            await session.end_session({})
        assert refused.value.session_id == ""
        session_id = await session.start_session(1, SYMBOLS)
        await session.end_session({"total_trades": 1})
        with pytest.raises(SessionNotRunning) as refused:
            await session.end_session({"total_trades": 2})
        assert refused.value.session_id == session_id
    assert [put.get("total_trades") for put in puts(tmp_path, "sessions")] == [None, 1]


@run_async
async def test_a_session_whose_end_cannot_be_stored_goes_on_and_ends_later(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        run(tmp_path, "create trigger no_end before insert on outbox when new.operation = 'upsert'"
                      " begin select raise(abort, 'not now'); end")  # fmt: skip
        with pytest.raises(StoreError, match="not now"):
            await session.end_session({})
        assert state(tmp_path)["status"] == "RUNNING"
        await session.update_heartbeat(2)
        assert state(tmp_path)["current_balance"] == 2, "it still runs"
        run(tmp_path, "drop trigger no_end")
        await session.end_session({})
    assert (state(tmp_path)["status"], state(tmp_path)["current_balance"]) == ("STOPPED", 2)


def test_the_reasons_are_those_of_the_schema(tmp_path: Path) -> None:
    migration = (ROOT / "migrations" / "0001_outbox.sql").read_text()
    assert all(f"'{reason.value}'" in migration for reason in SessionEndReason)
    assert [reason.name for reason in SessionEndReason] == [reason.value for reason in SessionEndReason]


# ------------------------------------------------------------------------------------------ with a transaction


class Changed(Exception):
    """The bot changes its mind in the middle of a block."""


@run_async
async def test_a_start_that_is_rolled_back_has_not_happened(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        with pytest.raises(Changed):
            async with outbox.transaction() as tx:
                await session.start_session(1, SYMBOLS, tx=tx)
                await session.update_heartbeat(2, tx=tx)
                raise Changed
        assert (session.session_id, session.start_time) == ("", None)
        with pytest.raises(SessionNotRunning):
            await session.end_session({})
        assert puts(tmp_path, "sessions") == rows(tmp_path, "select * from outbox_sessions") == []
        assert await session.start_session(1, SYMBOLS)


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])
@run_async
async def test_a_day_change_ends_one_session_and_starts_the_next_in_one_commit(tmp_path: Path, commit: bool) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        first = await session.start_session(1, SYMBOLS)
        with pytest.raises(Changed):
            async with outbox.transaction() as tx:
                await session.end_session({}, SessionEndReason.DAY_CHANGE, tx=tx)
                second = await session.start_session(2, SYMBOLS, tx=tx)
                if not commit:
                    raise Changed
            raise Changed
        expected = second if commit else first
        assert session.session_id == expected
        assert state(tmp_path)["session_id"] == expected
        with pytest.raises(SessionRunning):
            await SessionManager(outbox).start_session(1, SYMBOLS)
        await session.end_session({})
    statuses = [(put["session_id"], put["status"]) for put in puts(tmp_path, "sessions")]
    begun = [(first, "RUNNING"), (first, "STOPPED")]
    assert statuses == [*begun, (second, "RUNNING"), (second, "STOPPED")] if commit else begun


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the next commit succeed, and be reported as one that nobody knows the outcome of."""
    original = Block.end

    async def committed_after_all(self: Block, *, commit: bool) -> None:
        monkeypatch.setattr(Block, "end", original)
        await original(self, commit=commit)
        raise OutcomeUnknown(path=Path("bot.db"), ids=(), waited_s=5)

    return lambda: monkeypatch.setattr(Block, "end", committed_after_all)


@run_async
async def test_a_start_of_unknown_outcome_is_found_by_the_next_start(
    tmp_path: Path, unsure: Callable[[], None]
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        unsure()
        with pytest.raises(OutcomeUnknown):
            await session.start_session(1, SYMBOLS)
        assert session.session_id == ""

        assert await session.start_session(1, SYMBOLS) == state(tmp_path)["session_id"]
        assert session.is_recovered
    assert len(puts(tmp_path, "sessions")) == 1


@run_async
async def test_an_end_of_unknown_outcome_may_be_repeated_under_a_newer_version(
    tmp_path: Path, unsure: Callable[[], None]
) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        unsure()
        with pytest.raises(OutcomeUnknown):
            await session.end_session({"total_trades": 1})
        await session.update_heartbeat(7)  # finds no running session, and changes nothing
        assert state(tmp_path)["status"] == "STOPPED"
        await session.end_session({"total_trades": 2})
    assert [(put["version"], put.get("total_trades")) for put in puts(tmp_path, "sessions")] == [
        (1, None),
        (2, 1),
        (3, 2),
    ]


@run_async
async def test_inside_a_block_a_session_wants_the_block(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        async with outbox.transaction():
            with pytest.raises(InsideTransaction):
                await session.update_heartbeat(2)


# ------------------------------------------------------------------------------------------ a real kill, a real server


@run_async
async def test_a_killed_process_leaves_a_session_that_is_recovered(tmp_path: Path) -> None:
    witness = Witness([VICTIM, "session", str(tmp_path / "bot.db")], folder=tmp_path, environment=victims(tmp_path),
                      popen=forked.Popen)  # fmt: skip
    witness.start()
    witness.wait_for(6, timeout_s=100)
    witness.kill()

    async with Outbox.open(Settings(path=tmp_path / "bot.db", source="victim")) as outbox:
        session = SessionManager(outbox)
        assert {await session.start_session(1, [])} == witness.acknowledged["session"]
        assert (session.is_recovered, session.symbols) == (True, SYMBOLS)
        acknowledged = max(map(int, witness.acknowledged["heartbeat"]))
        assert session.current_balance is not None and session.current_balance >= 10_000 + acknowledged


def victims(folder: Path, remote: SupabaseLite | None = None) -> dict[str, str]:
    address = {} if remote is None else {"SUPABASE_URL": remote.url, "SUPABASE_SECRET_KEY": remote.secret_key}
    return {"OUTBOX_SOURCE": "victim", "PYTHONPATH": str(ROOT), **address}


ROW = (
    "select session_id, status, end_reason, initial_balance, final_balance, total_trades, total_pnl, symbols,"
    " end_time > start_time, version from sessions"
)
EVENTS = "select session_id, jsonb_typeof(data), (data ->> 'gap_seconds')::float >= 0 from events"


class Remembering:
    """A transport that keeps what it has sent: a request may still be on its way when its answer was given up."""

    def __init__(self, remote: SupabaseLite) -> None:
        self.transport = PostgrestTransport(f"{remote.url}/rest/v1", remote.secret_key)
        self.sent: list[Request] = []

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        self.sent.append(request)
        return await self.transport.send(request, deadline_s=deadline_s)

    async def aclose(self) -> None:
        await self.transport.aclose()


async def in_the_next_life(
    folder: Path, remote: SupabaseLite, live: Callable[[Outbox, SessionManager, Remembering], Awaitable[None]]
) -> None:
    transport = Remembering(remote)
    settings = Settings(path=folder / "bot.db", source="victim")
    async with Outbox.open(settings, transport=transport) as outbox:
        await live(outbox, SessionManager(outbox), transport)


@run_async
async def test_started_killed_recovered_ended_is_one_stopped_row(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow]
) -> None:
    witness = Witness(
        [VICTIM, "session", str(tmp_path / "bot.db")],
        folder=tmp_path,
        environment=victims(tmp_path, clean_remote),
        popen=forked.Popen,
    )
    witness.start()
    witness.wait_for(20, timeout_s=100)
    witness.kill()
    (session_id,) = witness.acknowledged["session"]

    async def live(outbox: Outbox, session: SessionManager, _: Remembering) -> None:
        await session.start_session(1, [])
        await session.end_session(
            {"balance": 9_900.5, "total_trades": 4, "total_pnl": -99.5}, SessionEndReason.RECOVERED
        )
        assert not (await outbox.drain(timeout=200)).timed_out

    await in_the_next_life(tmp_path, clean_remote, live)

    assert sql.execute(ROW).fetchall() == [
        (session_id, "STOPPED", "RECOVERED", 10_000.0, 9_900.5, 4, -99.5, SYMBOLS, True, 2)
    ]
    assert sql.execute(EVENTS).fetchall() == [(session_id, "object", True)]


@pytest.mark.parametrize(
    ("guarded", "expected"),
    [
        pytest.param(True, "STOPPED", id="with the shipped trigger"),
        pytest.param(False, "RUNNING", id="control: without it the older upsert reverts the end"),
    ],
)
@run_async
async def test_what_was_stuck_on_its_way_does_not_revert_an_ended_session(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[TupleRow], guarded: bool, expected: str
) -> None:
    async def live(outbox: Outbox, session: SessionManager, transport: Remembering) -> None:
        session_id = await session.start_session(1, SYMBOLS)
        await outbox.drain(timeout=200)
        # A state of the bot's own in between, such as a balance for the dashboard, under the version so far.
        row = {"session_id": session_id, "start_time": session.start_time, "status": "RUNNING", "version": 1}
        await outbox.put("sessions", row, operation="upsert")
        await outbox.drain(timeout=200)
        started, upserted = transport.sent
        await session.end_session({})
        await outbox.drain(timeout=200)

        for late in (started, upserted):
            reply = await transport.send(late, deadline_s=100)
            assert isinstance(reply, Reply) and reply.status in (200, 201)

    if not guarded:
        sql.execute("drop trigger outbox_keep_newer on sessions")
    try:
        await in_the_next_life(tmp_path, clean_remote, live)
    finally:
        sql.execute((SQL / "0003_keep_newer.sql").read_bytes())

    assert sql.execute("select status from sessions").fetchall() == [(expected,)]


@run_async
async def test_a_heartbeat_that_is_rolled_back_has_not_been_and_tells_of_the_day_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Outbox.open(path=tmp_path / "bot.db", clock=clock) as outbox:
        session = SessionManager(outbox)
        await session.start_session(100.0, ["EURUSD"])
        session.check_day_boundary()
        before = session.last_heartbeat
        clock.step_wall_clock(86_400)
        for fails in (True, False):
            assert session.check_day_boundary()
            with contextlib.suppress(RuntimeError):
                async with outbox.transaction() as tx:
                    await session.update_heartbeat(500.0, tx=tx)
                    if fails:
                        raise RuntimeError("the day's work failed")
            assert (session.current_balance, session.last_heartbeat == before) == ((None if fails else 500.0), fails)
        assert not session.check_day_boundary()


@run_async
async def test_figures_without_a_column_are_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Outbox.open(path=tmp_path / "bot.db") as outbox:
        session = SessionManager(outbox)
        await session.start_session(100.0, ["EURUSD"])
        await session.end_session({"balance": 101.0, "totl_trades": 3})
    assert [each.keys for each in caplog.records if "kept in extra" in each.message] == [["totl_trades"]]  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------ cancelled


@run_async
async def test_whatever_step_of_a_sessions_life_is_cancelled_the_manager_says_what_the_file_holds(
    tmp_path: Path,
) -> None:
    """Above all a commit that lands while its caller is cancelled: in memory and in the file it has happened."""
    seen: set[tuple[str, str]] = set()
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        session = SessionManager(outbox)
        lives: dict[str, Callable[[], Any]] = {
            "start": lambda: session.start_session(1, SYMBOLS),
            "beat": lambda: session.update_heartbeat(clock.now_ms()),
            "end": lambda: session.end_session({}),
        }
        for name, begin in lives.items():
            for step in itertools.count():
                clock.advance(1)
                if name == "start":
                    assert rows(tmp_path, "select 1 from outbox_sessions where status = 'RUNNING'") == []
                elif not session._session.running:
                    await session.start_session(1, SYMBOLS)
                reached = await cancelled_at(begin(), step)
                await outbox._store.caught_up()  # what was under way has landed
                found = rows(tmp_path, "select * from outbox_sessions where status = 'RUNNING'")
                assert session._session.running == bool(found), f"{name}, cancelled at {step}"
                for held in found:
                    assert held["session_id"] == session.session_id
                    assert held["current_balance"] == session.current_balance, f"{name}, cancelled at {step}"
                    assert session.last_heartbeat is not None
                    assert held["last_heartbeat"] == session.last_heartbeat.isoformat(timespec="milliseconds")
                seen.add((name, "running" if found else "not"))
                if name == "start" and found:
                    await session.end_session({})
                if not reached:
                    break
            assert step > 2, name
    assert seen == {("start", "running"), ("start", "not"), ("beat", "running"), ("end", "running"), ("end", "not")}


@run_async
async def test_a_statement_that_was_cancelled_takes_its_block_with_it(tmp_path: Path) -> None:
    """Nobody knows whether it was carried out: a block that swallows the cancellation commits no half of a session."""
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        for step in itertools.count():
            with contextlib.suppress(TransactionExpired):
                async with outbox.transaction() as tx:
                    reached = await cancelled_at(session.start_session(1, SYMBOLS, tx=tx), step)
            kept = [bool(rows(tmp_path, f"select 1 from {name}")) for name in ("outbox", "outbox_sessions")]
            assert kept == [not reached] * 2
            assert session._session.running is not reached
            if not reached:
                break
        assert step > 1


@run_async
async def test_a_heartbeat_of_a_session_that_the_file_does_not_hold_is_an_error(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        await session.update_heartbeat(2)  # the control
        run(tmp_path, "delete from outbox_sessions")
        before = session.last_heartbeat, session.current_balance
        with pytest.raises(SessionNotRunning, match="does not hold session"):
            await session.update_heartbeat(3)
        assert (session.last_heartbeat, session.current_balance) == before, "what was not stored has not been"
        await session.end_session({"total_trades": 4})
        assert await session.start_session(1, SYMBOLS)
        await session.update_heartbeat(5)


@run_async
async def test_a_heartbeat_that_waited_while_its_session_ended_is_no_error(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, SYMBOLS)
        await asyncio.gather(session.end_session({}), session.update_heartbeat(2), session.update_heartbeat(3))
    assert state(tmp_path)["current_balance"] is None
