"""Starting, stopping, draining, crashing: what is pending stays pending, and arrives later, once."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

import outbox.outbox as outbox_module
from outbox import Outbox, Settings
from outbox.errors import UsageError
from outbox.flusher.context import FlusherContext
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.flusher.bench import DOWN, Clock, Remote, flushing, opened, rows, then
from tests.support import run_async


@run_async
async def test_a_captive_portal_delivers_nothing(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = Reply(200, {"content-type": "text/html"}, b"<html>Welcome to Hotel WiFi</html>")
        await bench.put_many(5)
        await bench.outbox.put("events", {"n": 1}, operation="update", match={"id": "x"})
        await bench.live(60)
        stats = await bench.stats()
        assert (stats.pending, stats.delivered, stats.paused) == (6, 0, "not_postgrest")


@run_async
async def test_control_a_delivery_by_status_alone_would_lose_them(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        marks = {"preference-applied": "resolution=ignore-duplicates"}
        bench.remote.otherwise = Reply(200, marks, b"<html>Welcome to Hotel WiFi</html>")
        await bench.put_many(5)
        await bench.idle()
        assert (await bench.stats()).delivered == 5
        assert bench.remote.inserted == {}


@run_async
async def test_an_upsert_that_was_ignored_instead_of_merged_waits_until_it_is_merged(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        ignored = {"preference-applied": "return=minimal, resolution=ignore-duplicates, missing=default"}
        bench.remote.otherwise = Reply(200, ignored, b"")
        await bench.outbox.put("sessions", {"session_id": "s", "status": "STOPPED"}, operation="upsert")
        await bench.live(60)
        stats = await bench.stats()
        assert (stats.pending, stats.delivered, stats.paused) == (1, 0, "not_postgrest")
        bench.remote.otherwise = bench.remote.commit
        assert (await bench.settled()).delivered == 1
        assert [row["status"] for row in bench.remote.rows("sessions")] == ["STOPPED"]


@run_async
async def test_what_was_sent_but_not_settled_is_sent_again_with_the_same_id(tmp_path: Path) -> None:
    remote, clock = Remote(), Clock()
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:

        async def die(*_: Any, **__: Any) -> None:
            raise asyncio.CancelledError  # the process is killed between the answer and its settling

        bench.store.settle = die  # type: ignore[method-assign]
        ids = await bench.put_many(4)
        await bench.idle()
        assert remote.ids("events") == ids
        assert (await bench.outbox.stats()).pending == 4
        await bench.flusher.shut_down(0)
    sent = len(remote.requests)
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:
        stats = await bench.settled()
        assert stats.delivered == 4
        assert len(remote.requests) > sent  # control: it was sent again
        assert remote.ids("events") == ids


@run_async
async def test_cancelling_the_flusher_leaves_a_hung_request_pending(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.put_many(5)
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        assert bench.remote.held == 1
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert not bench.flusher.requests
        assert (await bench.stats()).pending == 5
        bench.remote.gate.set()
        assert (await bench.outbox.drain()).delivered == 5


@run_async
async def test_closing_waits_for_a_hung_request_no_longer_than_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_GRACE_S", 0.05)
    async with opened(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.put_many(5)
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        await bench.outbox.close()  # the request never ends
        await task
    async with opened(tmp_path) as bench:
        assert (await bench.stats()).pending == 5


@run_async
async def test_a_flusher_that_is_told_to_stop_starts_nothing_more(tmp_path: Path) -> None:
    """The step that is under way when the stop comes would otherwise start requests that nobody cancels."""
    async with opened(tmp_path, batch_rows=1) as bench:
        await bench.put_many(4)
        ready = bench.store.ready

        async def stop_meanwhile(*args: Any, **named: Any) -> Any:
            found = await ready(*args, **named)
            stopping.append(asyncio.create_task(bench.flusher.shut_down(0)))
            await asyncio.gather(*stopping[:-1])
            for _ in range(10):
                await asyncio.sleep(0)
            return found

        stopping: list[asyncio.Task[None]] = []
        bench.store.ready = stop_meanwhile  # type: ignore[method-assign]
        bench.remote.gate.clear()
        task = asyncio.create_task(bench.outbox.run_flusher())
        async with asyncio.timeout(200):
            await task
        assert bench.remote.requests == []


@run_async
async def test_a_second_flusher_is_refused(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        with pytest.raises(UsageError, match="running already"):
            await bench.outbox.run_flusher()
        with pytest.raises(UsageError, match="running already"):
            await bench.flusher.run()
        await bench.put_many(1)
        await bench.idle()
        assert (await bench.stats()).delivered == 1


@run_async
async def test_a_flusher_that_was_stopped_can_run_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for number in range(1, 4):
            task = asyncio.create_task(bench.outbox.run_flusher())
            await bench.put_many(1)
            await bench.idle()
            await bench.flusher.shut_down(1)
            await task
            assert (await bench.stats()).delivered == number
            assert not (await bench.stats()).flusher.running


# ---------------------------------------------------------------------------------------------- drain


@run_async
async def test_drain_runs_a_flusher_of_its_own_and_stops_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.put_many(7)
        report = await bench.outbox.drain()
        assert (report.delivered, report.pending, report.dead, report.timed_out) == (7, 0, 0, False)
        assert not bench.flusher.state.now.running
        await bench.put_many(1)
        assert (await bench.outbox.drain()).delivered == 1


@run_async
async def test_drain_joins_a_running_flusher_and_leaves_it_running(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(7)
        await bench.idle()
        bench.remote.otherwise = bench.remote.commit
        report = await bench.outbox.drain()
        assert (report.delivered, report.pending) == (7, 0)
        assert bench.flusher.state.now.running
        await bench.put_many(1)
        await bench.idle()
        assert (await bench.stats()).delivered == 8


@run_async
async def test_drain_reports_that_its_time_was_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(7)
        report = await bench.ended(asyncio.create_task(bench.outbox.drain(timeout=5)))
        assert (report.delivered, report.pending, report.timed_out) == (0, 7, True)
        assert report.seconds >= 5
        assert not bench.flusher.state.now.running


@pytest.mark.parametrize("waits", [True, False], ids=["as it is", "control: it does not wait"])
@run_async
async def test_drain_counts_what_was_committed_a_moment_before_it_looked(
    waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        settle, noted = bench.store.settle, bench.flusher.noted
        committed, may_note = asyncio.Event(), asyncio.Event()

        async def settle_late(*args: Any, **more: Any) -> None:
            await settle(*args, **more)
            committed.set()
            await may_note.wait()

        async def ask() -> None:
            if waits:
                may_note.set()
                await noted()

        monkeypatch.setattr(bench.store, "settle", settle_late)
        monkeypatch.setattr(bench.flusher, "noted", ask)
        await bench.put_many(3)
        await committed.wait()
        report = await bench.outbox.drain()  # it looks, and nothing is pending
        assert (report.delivered, report.pending) == (3 if waits else 0, 0)
        may_note.set()


@pytest.mark.parametrize("to_its_end", [True, False], ids=["as it is", "control: cancelled with its request"])
@run_async
async def test_what_is_being_written_down_when_the_time_is_up_is_counted(
    to_its_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, batch_rows=3, requests_in_flight=1) as bench:
        settle = bench.store.settle

        async def settle_late(*args: Any, **more: Any) -> None:
            await settle(*args, **more)
            bench.clock.advance(10)  # the time is up
            await asyncio.wait(bench.flusher.requests._tasks)  # its request is cancelled

        monkeypatch.setattr(bench.store, "settle", settle_late)
        if not to_its_end:
            monkeypatch.setattr(FlusherContext, "note", lambda self, work: work)
        await bench.put_many(7)
        report = await bench.outbox.drain(timeout=5)
        assert (report.delivered, report.pending, report.timed_out) == (3 if to_its_end else 0, 4, True)


@run_async
async def test_drain_gives_up_a_hung_request_when_its_time_is_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.put_many(7)
        draining = asyncio.create_task(bench.outbox.drain(timeout=5))
        await bench.idle()
        bench.clock.advance(6)
        async with asyncio.timeout(200):
            report = await draining
        assert (report.pending, report.timed_out) == (7, True)


@run_async
async def test_drain_of_nothing_returns_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        report = await bench.outbox.drain()
        assert (report.delivered, report.pending, report.seconds, report.timed_out) == (0, 0, 0.0, False)
        assert bench.remote.requests == []


@run_async
async def test_drain_returns_at_once_where_nothing_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(path=tmp_path / "outbox.db", _env_file=None)
    async with Outbox.open(settings, clock=ManualClock()) as box:
        await box.put("events", {"n": 1})
        report = await box.drain()
        assert (report.pending, report.seconds) == (1, 0.0)


@run_async
async def test_drain_waits_for_what_others_put_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:

        def put_one_more(request: Request) -> Any:
            if len(bench.remote.requests) < 5:
                bench.outbox.put_nowait("events", {"n": 99})
            return bench.remote.commit(request)

        bench.remote.otherwise = put_one_more
        await bench.put_many(3)
        report = await bench.outbox.drain()
        assert (report.delivered, report.pending) == (7, 0)


# ---------------------------------------------------------------------------------------------- the testing room


@run_async
async def test_the_example_in_outbox_testing_works(tmp_path: Path) -> None:
    clock, remote = ManualClock(), ScriptedTransport()
    async with Outbox.open(path=tmp_path / "test.db", clock=clock, transport=remote) as box:
        remote.answers.append(Failure.UNREACHABLE)
        await box.put("trades", {"n": 1})
        draining = asyncio.create_task(box.drain(timeout=1_000_000))
        while not draining.done():
            clock.advance(0.1)
            await asyncio.sleep(0)
        assert draining.result().delivered == 1
        assert len(remote.requests) == 2


def test_the_manual_clock_adds_up_small_steps() -> None:
    clock = ManualClock(1000)
    for _ in range(1000):
        clock.advance(0.0005)
    assert clock.now_ms() == 1500
    clock.step_wall_clock(-1)
    assert clock.now_ms() == 500


@run_async
async def test_the_manual_clock_wakes_only_what_is_due() -> None:
    clock = ManualClock()
    event = asyncio.Event()
    soon, late = (asyncio.create_task(clock.wait(event, seconds)) for seconds in (1, 2))
    await asyncio.sleep(0)
    clock.advance(1)
    assert await soon is False
    assert not late.done()
    event.set()
    assert await late is True
    assert clock._alarms == []
    assert await clock.wait(event, 5) is True


@run_async
async def test_a_scripted_refusal_reads_like_postgrests() -> None:
    remote = ScriptedTransport()
    remote.answers.append(refused(409, "23503", "no parent", details="d"))
    request = Request("POST", "t?columns=a", (("prefer", "resolution=merge-duplicates"),), b"[]")
    answer = await remote.send(request, deadline_s=1)
    assert isinstance(answer, Reply)
    assert answer.body == b'{"code": "23503", "message": "no parent", "details": "d", "hint": null}'
    answer = await remote.send(request, deadline_s=1)
    assert isinstance(answer, Reply)
    assert (answer.status, dict(answer.headers)) == (201, {"preference-applied": "resolution=merge-duplicates"})


@run_async
async def test_a_lost_reply_to_an_update_is_repaired_by_its_repetition(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        await bench.outbox.put("state", {"k": "a", "v": 0}, operation="upsert", on_conflict=("k",))
        await bench.idle()
        bench.remote.answers.append(then(bench.remote, Failure.CUT))
        await bench.outbox.put("state", {"v": 1}, operation="update", match={"k": "a"})
        await bench.settled()
        assert bench.remote.merged["state", '["a"]'] == {"k": "a", "v": 1}
        assert [rows(request) for request in bench.remote.requests[1:]] == [[{"v": 1}], [{"v": 1}]]
