"""An update that matches no row holds back no other entry, and one that was applied is not refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from outbox.flusher.backoff import lets_pass
from outbox.flusher.context import Unmatched
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.testing import Failure, refused
from tests.flusher.bench import Bench, Clock, Remote, flushing, table, then
from tests.support import run_async
from tests.test_counted_work import counted_hops

ROW = {"id": "7", "qty": 1, "price": 2}


async def update(bench: Bench, qty: int, **match: object) -> Any:
    return await bench.outbox.put("positions", {"qty": qty}, operation="update", match=match or {"id": "7"})


async def upsert(bench: Bench) -> Any:
    return await bench.outbox.put("positions", ROW, operation="upsert", on_conflict=("id",))


@pytest.mark.parametrize(
    ("behind", "bringer", "waited_s", "passes"),
    [
        (False, False, 1e6, False),
        (True, False, 59.9, False),
        (True, False, 60.0, True),
        (True, True, 0.0, True),
    ],
)
def test_what_stands_behind_waits_a_minute_and_what_brings_the_row_not_at_all(
    behind: bool, bringer: bool, waited_s: float, passes: bool
) -> None:
    assert lets_pass(behind=behind, bringer=bringer, waited_s=waited_s) is passes


@run_async
async def test_an_upsert_that_brings_the_row_does_not_wait_for_an_update_that_came_too_early(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300) as bench:
        await update(bench, 5)
        await upsert(bench)
        await bench.idle()
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.pending) == (1, 1, 0)
        assert "gave up: later entries of its key go on" in (await bench.entry(1))["error_message"]
        assert bench.remote.rows("positions") == [ROW]


@run_async
async def test_nor_one_that_is_put_while_the_update_waits_for_its_next_try(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300) as bench:
        await update(bench, 5)
        await bench.live(3600)
        started_s = bench.clock.monotonic_s()
        await bench.outbox.put("positions", ROW)  # an insert does the same
        await bench.idle()
        assert (await bench.stats()).pending == 0
        assert bench.clock.monotonic_s() - started_s == 0
        assert bench.remote.rows("positions") == [ROW]


@run_async
async def test_another_update_waits_at_most_about_a_minute(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300) as bench:
        await update(bench, 5, symbol="X")
        await update(bench, 6, symbol="X")
        await bench.live(50)
        assert (await bench.stats()).dead == 0  # control: its row may still come
        await bench.live(15)
        assert (await bench.entry(1))["state"] == "dead"
        sent = [request for request in bench.remote.requests if b'"qty":6' in request.body]
        assert sent  # the second has had its try


@run_async
async def test_one_that_is_put_later_does_not_wait_for_the_end_of_a_long_backoff(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300) as bench:
        await update(bench, 5)
        await bench.live(3600)
        await update(bench, 6)
        await bench.idle()
        assert (await bench.entry(1))["state"] == "dead"


@run_async
async def test_alone_an_update_waits_for_its_row_as_before(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300) as bench:
        await update(bench, 5)
        await bench.live(7200)
        assert (await bench.stats()).pending == 1
        bench.remote.inserted["positions", "7"] = dict(ROW)
        assert (await bench.settled()).delivered == 1


@run_async
async def test_it_waits_while_an_insert_from_before_it_may_bring_its_row(tmp_path: Path) -> None:
    held = [True]
    remote = Remote(rule=lambda _, row: refused(400, "PGRST204", "no column") if held[0] and "x" in row else None)
    async with flushing(tmp_path, remote=remote, poll_s=300) as bench:
        await bench.outbox.put("positions", {"symbol": "X", "x": 1})
        await update(bench, 5, symbol="X")
        await update(bench, 6, symbol="X")
        await bench.live(600)
        assert (await bench.stats()).dead == 0
        held.clear()
        held.append(False)
        assert (await bench.settled()).delivered == 3


@run_async
async def test_an_update_whose_reply_was_lost_and_that_matches_no_more_is_delivered(tmp_path: Path) -> None:
    """A trigger counts the version up: the replay finds nothing, though it was applied. Also across a restart."""

    remote = Remote()
    remote.inserted["positions", "7"] = ROW | {"version": 3}
    async with flushing(tmp_path, remote=remote) as bench:
        remote.answers.append(then(remote, Failure.CUT))
        await update(bench, 5, id="7", version=3)
        await bench.idle()
        assert (await bench.stats()).pending == 1
    remote.rows("positions")[0]["version"] += 1
    async with flushing(tmp_path, remote=remote) as bench:
        assert (await bench.settled()).delivered == 1
        assert remote.rows("positions")[0]["qty"] == 5
        # Control: one that was never applied is not.
        await update(bench, 9, id="7", version=3)
        await bench.live(10)
        assert (await bench.stats()).pending == 1


@run_async
async def test_where_the_row_cannot_be_read_the_update_waits_and_an_outage_is_a_pause(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300) as bench:
        commit = bench.remote.commit

        def unread(request: Request) -> Reply:
            return Reply(503, {}, b"") if request.method == "GET" else commit(request)

        bench.remote.otherwise = unread
        await update(bench, 5)
        await update(bench, 6)
        await bench.live(600)
        stats = await bench.stats()
        assert (stats.dead, stats.pending, stats.paused) == (0, 2, "overloaded")
        assert len(bench.remote.requests) < 60  # its backoff grows, although each update itself is answered
        assert {table(request) for request in bench.remote.requests} == {"positions"}


@pytest.mark.parametrize("known", [True, False], ids=["as it is", "control: a restart forgets them"])
@run_async
async def test_after_a_restart_too_others_wait_a_minute_and_not_a_whole_backoff(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:

        async def nothing(*_: object, **__: object) -> None:
            return None

        monkeypatch.setattr(Unmatched, "load", nothing)
    clock = Clock()
    async with flushing(tmp_path, clock=clock) as bench:
        await update(bench, 5)
        await bench.live(1800)  # its backoff has grown to five minutes
        await bench.until(lambda: clock.monotonic_s() % 600 > 330)
        tries = len(bench.remote.requests)
        await bench.until(lambda: len(bench.remote.requests) > tries)  # it was tried just now
    async with flushing(tmp_path, clock=clock) as bench:
        await update(bench, 6)
        await bench.live(70)
        assert ((await bench.entry(1))["state"] == "dead") is known


@pytest.mark.parametrize("strict", [True, False])
@run_async
async def test_in_strict_order_its_line_waits_behind_the_dead_update_for_an_operator(
    strict: bool, tmp_path: Path
) -> None:
    async with flushing(tmp_path, strict_order=strict) as bench:
        early = await update(bench, 5)
        await upsert(bench)
        await bench.live(120)
        stats = await bench.stats()
        assert (stats.dead, stats.pending, stats.delivered) == ((1, 1, 0) if strict else (1, 0, 1))
        if strict:
            await bench.outbox.discard(ids=[early.id], reason="it came too early")
            await bench.idle()
            assert (await bench.stats()).delivered == 1


@run_async
async def test_hundreds_of_unmatched_updates_cost_the_same_each_and_their_upserts_follow_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hops(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        async with flushing(folder) as bench:
            with counted_hops(monkeypatch) as found:
                puts = bench.outbox.put_nowait
                await asyncio.gather(
                    *(puts("positions", {"qty": 1}, operation="update", match={"id": str(n)}) for n in range(count))
                )
                await bench.idle()
                rows = [{"id": str(number), "qty": 2} for number in range(count)]
                await asyncio.gather(*(puts("positions", row, operation="upsert", on_conflict=("id",)) for row in rows))
                started_s = bench.clock.monotonic_s()
                stats = await bench.settled()
            assert (stats.delivered, stats.dead) == (count, count)
            assert bench.clock.monotonic_s() - started_s <= 60
            return len(found) / count

    assert await hops(300) <= 2 * await hops(30)
