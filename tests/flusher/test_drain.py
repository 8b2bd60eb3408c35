"""`drain` waits for what time can fix, and for nothing else: then it returns at once and says who must act.

Time is moved by hand here: a drain that waits for its hour does not end.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reason, Reply
from outbox.stats import DrainReport
from outbox.testing import refused
from tests.flusher.bench import DOWN, Bench, flushing, opened, table
from tests.support import run_async

HOUR_S, MINUTE_S = 3600.0, 60.0
BAD_KEY = refused(401, "PGRST301", "JWT expired")
NO_TABLE = refused(404, "PGRST205", "Could not find the table 'public.events' in the schema cache")
NO_COLUMN = refused(400, "PGRST204", "Could not find the 'oops' column of 'events' in the schema cache")
GRANT = refused(403, "42501", "permission denied for table events")
REFUSED = refused(400, "23514", "check constraint")


async def drained(bench: Bench) -> DrainReport:
    """Drain for an hour that never passes."""
    async with asyncio.timeout(200):
        return await bench.outbox.drain(timeout=HOUR_S)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(BAD_KEY, "everything is paused (unauthorized): 401 PGRST301 JWT expired", id="a wrong key"),
        pytest.param(Reply(540, {}, b""), "everything is paused (suspended): 540", id="a paused project"),
        pytest.param(Reply(404, {}, b"<html>"), "everything is paused (misconfigured): 404", id="a wrong URL"),
        pytest.param(NO_TABLE, "events is paused (schema): 404 PGRST205 Could not find the table", id="no table"),
        pytest.param(GRANT, "events: insert of id, n is paused (forbidden): 403 42501 ", id="a missing GRANT"),
        pytest.param(NO_COLUMN, "events: insert of id, n is paused (schema): 400 PGRST204", id="no column"),
    ],
)
@pytest.mark.parametrize("joins", [pytest.param(True, id="with a flusher"), pytest.param(False, id="alone")])
@run_async
async def test_a_drain_does_not_wait_for_an_operator(tmp_path: Path, answer: Reply, says: str, joins: bool) -> None:
    async with (flushing if joins else opened)(tmp_path) as bench:
        bench.remote.otherwise = answer
        await bench.put_many(3)
        for tries in range(1, 3):
            report = await drained(bench)
            assert (report.delivered, report.pending, report.timed_out, report.seconds) == (0, 3, False, 0.0)
            assert (report.held_by or "").startswith(says)
            assert len(bench.remote.requests) >= tries  # it has tried, each time

        bench.remote.otherwise = bench.remote.commit  # somebody has acted
        report = await drained(bench)
        assert (report.delivered, report.pending, report.held_by) == (3, 0, None)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(DOWN, id="nobody answers"),
        pytest.param(Failure.TIMEOUT, id="no answer in time"),
        pytest.param(Reply(503, {}, b""), id="overloaded"),
        pytest.param(Reply(429, {}, b""), id="too many requests"),
        pytest.param(Reply(200, {}, b"<html>log in"), id="a captive portal"),
    ],
)
@run_async
async def test_control_a_drain_waits_for_what_resolves_by_itself(tmp_path: Path, answer: Reply | Failure) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = answer
        await bench.put_many(3)
        await bench.idle()
        drain = asyncio.create_task(bench.outbox.drain(timeout=MINUTE_S))
        await bench.live(MINUTE_S / 6)
        assert not drain.done()
        report = await bench.ended(drain)
        assert (report.pending, report.timed_out, report.held_by) == (3, True, None)


@run_async
async def test_control_if_each_reason_were_left_to_time_the_drain_would_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reason in Reason:
        monkeypatch.setattr(reason, "needs_operator", False)
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = BAD_KEY
        await bench.put_many(3)
        drain = asyncio.create_task(bench.outbox.drain(timeout=MINUTE_S))
        await bench.live(MINUTE_S / 6)
        assert not drain.done()
        assert (await bench.ended(drain)).timed_out


@run_async
async def test_a_drain_sends_all_that_another_tables_trouble_does_not_hold_back(tmp_path: Path) -> None:
    async with flushing(tmp_path, batch_rows=2) as bench:

        def script(request: Request) -> Reply | Failure:
            return NO_TABLE if table(request) == "events" else bench.remote.commit(request)

        bench.remote.otherwise = script
        await bench.put_many(3, "events")
        await bench.put_many(9, "trades")
        report = await drained(bench)
        assert (report.pending, report.seconds) == (3, 0.0)
        assert len(bench.remote.ids("trades")) == 9
        assert (report.held_by or "").startswith("events is paused")
        assert "trades" not in (report.held_by or "")


@run_async
async def test_a_drain_waits_for_an_entry_that_is_tried_again_by_itself(tmp_path: Path) -> None:
    parents = False

    async with flushing(tmp_path) as bench:

        def script(request: Request) -> Reply | Failure:
            if table(request) == "events":
                return NO_TABLE
            return bench.remote.commit(request) if parents else refused(409, "23503", "no such session")

        bench.remote.otherwise = script
        await bench.put_many(1, "events")
        await bench.put_many(1, "trades")
        drain = asyncio.create_task(bench.outbox.drain(timeout=HOUR_S))
        await bench.live(2)
        assert not drain.done()
        parents = True
        report = await bench.ended(drain)
        assert (report.delivered, report.pending, report.timed_out) == (1, 1, False)


@run_async
async def test_a_drain_does_not_overlook_what_a_shell_has_put_in(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:

        def script(request: Request) -> Reply | Failure:
            return NO_TABLE if table(request) == "events" else bench.remote.commit(request)

        bench.remote.otherwise = script
        await bench.put_many(1, "events")
        await bench.idle()
        with closing(sqlite3.connect(bench.path)) as shell, shell:
            shell.execute("insert into outbox (destination, payload) values ('trades', json_object('n', 1))")
        report = await drained(bench)
        assert (report.delivered, report.pending) == (1, 1)


@run_async
async def test_in_strict_order_a_drain_does_not_wait_for_what_stands_behind_a_dead_letter(tmp_path: Path) -> None:
    async with flushing(tmp_path, strict_order=True) as bench:
        bench.remote.answers.append(REFUSED)
        await bench.outbox.put("events", {"n": 0}, key="k")
        await bench.idle()
        await bench.outbox.put("events", {"n": 1}, key="k")
        report = await drained(bench)
        assert (report.pending, report.dead, report.seconds) == (1, 1, 0.0)
        assert report.held_by == "what is left waits behind dead letters of its keys (OUTBOX_STRICT_ORDER)"


@run_async
async def test_without_a_url_a_drain_says_so_and_with_nothing_pending_it_says_nothing(tmp_path: Path) -> None:
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
        assert (await outbox.drain(timeout=HOUR_S)).held_by is None
        await outbox.put("events", {"n": 1})
        report = await outbox.drain(timeout=HOUR_S)
    assert (report.pending, report.timed_out) == (1, False)
    assert report.held_by == "SUPABASE_URL and SUPABASE_SECRET_KEY not set: rows are kept in the file until they are"


@run_async
async def test_a_request_from_before_the_drain_that_fails_with_the_old_key_is_not_its_try(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.put_many(1)
        await bench.idle()
        bench.remote.answers.append(BAD_KEY)  # what it is going to get; by then the key has been fixed
        drain = asyncio.create_task(bench.outbox.drain(timeout=HOUR_S))
        await bench.idle()
        bench.remote.gate.set()
        async with asyncio.timeout(200):
            report = await drain
    assert (report.delivered, report.pending, report.held_by) == (1, 0, None)


@run_async
async def test_a_request_under_way_is_waited_for(tmp_path: Path) -> None:
    """Others of its lane may have met the bad key already; this one was sent before it became bad."""
    async with flushing(tmp_path, batch_rows=1, requests_in_flight=2) as bench:
        await bench.put_many(1)
        await bench.idle()  # the lane's first batch is of one row; now there may be two at once
        bench.remote.gate.clear()
        await bench.put_many(2)
        await bench.idle()
        drain = asyncio.create_task(bench.outbox.drain(timeout=HOUR_S))
        await bench.idle()
        assert not drain.done()
        bench.remote.gate.set()
        async with asyncio.timeout(200):
            assert (await drain).pending == 0
