"""outbox.testing, for bot authors' tests: the remote end with tables keeps PostgREST's rules, the clock its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outbox import Outbox, RemoteError, Settings, SupabaseClient
from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.postgrest.client import Request, build
from outbox.testing import Failure, FakeRemote, ManualClock, Reply, refused
from tests.store.tools import until
from tests.support import run_async


def outgoing(id: str, payload: str, match: str | None = None) -> Outgoing:
    return Outgoing(1, id, None, payload, match, "digest", 0)


INSERT = LaneSpec("trades", Operation.INSERT, "id", "id,volume", False)
UPSERT = LaneSpec("sessions", Operation.UPSERT, "session_id", "balance,session_id", True)
UPDATE = LaneSpec("sessions", Operation.UPDATE, "", "balance", True)


def upsert(*balances: int, session: str = "s-1") -> Request:
    return build(UPSERT, [outgoing("x", f'{{"session_id":"{session}","balance":{balance}}}') for balance in balances])


def status(answer: Reply | Failure) -> int:
    assert isinstance(answer, Reply)
    return answer.status


@run_async
async def test_an_id_is_inserted_once() -> None:
    remote = FakeRemote()
    for volume in (1, 2):
        assert status(await remote.send(build(INSERT, [outgoing("a", f'{{"volume":{volume}}}')]), deadline_s=1)) == 201
    assert remote.rows("trades") == [{"id": "a", "volume": 1}]


@run_async
async def test_an_upsert_is_merged_and_one_request_may_not_hold_a_key_twice() -> None:
    remote = FakeRemote()
    await remote.send(upsert(1), deadline_s=1)
    await remote.send(upsert(2), deadline_s=1)
    assert status(await remote.send(upsert(3, 4), deadline_s=1)) == 500
    assert remote.rows("sessions") == [{"session_id": "s-1", "balance": 2}]


@run_async
async def test_an_update_changes_the_rows_that_match_and_counts_them() -> None:
    remote = FakeRemote()
    await remote.send(upsert(1), deadline_s=1)
    await remote.send(upsert(1, session="s-2"), deadline_s=1)
    for match, count in (('{"session_id":"s-2"}', "*/1"), ('{"session_id":"s-3"}', "*/0")):
        answer = await remote.send(build(UPDATE, [outgoing("x", '{"balance":9}', match)]), deadline_s=1)
        assert isinstance(answer, Reply)
        assert answer.headers["content-range"] == count
    assert [row["balance"] for row in remote.rows("sessions")] == [1, 9]


@run_async
async def test_a_rule_refuses_the_whole_request() -> None:
    remote = FakeRemote(rule=lambda _, row: refused(400, "23514", "no") if row["volume"] > 1 else None)
    request = build(INSERT, [outgoing("a", '{"volume":1}'), outgoing("b", '{"volume":2}')])
    assert status(await remote.send(request, deadline_s=1)) == 400
    assert remote.rows("trades") == []


@run_async
async def test_a_lost_reply_is_carried_out_and_only_once() -> None:
    remote = FakeRemote()
    remote.lose_reply()
    assert await remote.send(upsert(1), deadline_s=1) is Failure.CUT
    assert remote.rows("sessions") == [{"session_id": "s-1", "balance": 1}]
    assert status(await remote.send(upsert(2), deadline_s=1)) == 201


@run_async
async def test_down_stores_nothing_until_up() -> None:
    remote = FakeRemote()
    remote.down()
    assert await remote.send(upsert(1), deadline_s=1) is Failure.UNREACHABLE
    assert remote.rows("sessions") == []
    remote.up()
    assert status(await remote.send(upsert(1), deadline_s=1)) == 201


@run_async
async def test_time_passes_until_the_condition_holds_and_no_longer() -> None:
    clock = ManualClock()
    start_ms = clock.now_ms()
    assert await clock.advance_until(lambda: clock.now_ms() >= start_ms + 2500) == 3.0
    assert await clock.advance_until(lambda: True) == 0
    with pytest.raises(TimeoutError, match="after 5 s the condition still did not hold"):
        await clock.advance_until(lambda: False, within_s=5)
    assert clock.now_ms() == start_ms + 8000


@pytest.mark.parametrize("patience_s", [200.0, 0.0], ids=["as it is", "control: the clock runs away"])
@run_async
async def test_time_stands_still_while_somebody_works_between_two_waits(
    patience_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.testing._PATIENCE_S", patience_s)
    clock, worked = ManualClock(), asyncio.Event()

    async def work() -> None:
        await clock.wait(asyncio.Event(), 1.0)
        for _ in range(20):  # longer than all the steps below
            await asyncio.sleep(0.001)
        worked.set()
        await clock.wait(asyncio.Event(), 1000.0)

    task = asyncio.create_task(work())
    await until(lambda: bool(clock._alarms))
    if patience_s:
        assert await clock.advance_until(worked.is_set, within_s=5) <= 2.0  # the step that wakes, and the next
    else:
        with pytest.raises(TimeoutError):
            await clock.advance_until(worked.is_set, within_s=5)
    task.cancel()


@run_async
async def test_a_held_request_is_answered_when_it_is_released(tmp_path: Path) -> None:
    clock, remote = ManualClock(), FakeRemote()
    settings = Settings(path=tmp_path / "bot.db", _env_file=None)
    async with Outbox.open(settings, clock=clock, transport=remote) as outbox, outbox.flushing():
        remote.hold()
        await outbox.put("trades", {"volume": 1})
        await clock.advance_until(lambda: remote.requests)
        assert remote.rows("trades") == []
        remote.release()
        await clock.advance_until(lambda: outbox.pending_now() == 0)
    assert len(remote.rows("trades")) == 1


@run_async
async def test_a_bot_that_reads_gets_an_answer_and_no_crash(tmp_path: Path) -> None:
    remote = FakeRemote()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=remote) as outbox:
        await outbox.put("trades", {"volume": 1})
        report = await outbox.drain(timeout=200)
        with pytest.raises(RemoteError, match="FakeRemote gives no rows"):
            await SupabaseClient(outbox).query("trades")
        rows = await SupabaseClient(outbox).query("trades", source="merged")
    assert (report.delivered, len(remote.rows("trades")), len(rows), rows.complete) == (1, 1, 1, False)
