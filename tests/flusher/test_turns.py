"""Nobody starves: whose turn it is hangs on who has waited, not on how much anybody has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outbox import Receipt
from outbox.flusher.flusher import Flusher
from outbox.flusher.scheduler import Lanes
from outbox.flusher.traffic import Sweep
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import Answer, refused
from tests.flusher.bench import Bench, Remote, Row, flushing, opened, rows, table
from tests.store.tools import shell
from tests.support import run_async

NO_PARENT = refused(409, "23503", "no parent")


def turns(bench: Bench) -> list[str]:
    return [table(request) for request in bench.remote.requests]


@pytest.mark.parametrize(
    ("in_flight", "fair"),
    [
        pytest.param(1, True, id="one request at a time"),
        pytest.param(4, True, id="four at a time"),
        pytest.param(1, False, id="control: the oldest first"),
    ],
)
@run_async
async def test_a_lane_has_its_turn_within_tables_times_lanes_requests_whatever_the_others_have(
    in_flight: int, fair: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six tables of two lanes at most, five with a long backlog: the sixth waits for 6 x 2 requests at most."""
    if not fair:
        monkeypatch.setattr(Lanes, "_waited", lambda self, lane: (0, 0, lane.first_seq))
        # No place for a table that has none in flight: while a slow disk settles the others, it would be the sixth's.
        monkeypatch.setattr(Flusher, "_has_room", lambda self, lane: self.requests.may_start(alone=False, probe=False))
    async with opened(tmp_path, batch_rows=1, requests_in_flight=in_flight) as bench:
        for name in "abcde":
            for number in range(30):
                await bench.outbox.put(name, {"n": number})
                await bench.outbox.put(name, {"n": number, "note": "x"})
        await bench.outbox.put("trades", {"n": 1})
        await bench.outbox.drain()
        assert (turns(bench).index("trades") <= 12) is fair
        assert len(bench.remote.inserted) == 301


@pytest.mark.parametrize("in_flight", [1, 4])
@run_async
async def test_a_lane_whose_lone_row_once_lost_its_reply_has_its_turns_like_any_other(
    in_flight: int, tmp_path: Path
) -> None:
    async with flushing(tmp_path, batch_rows=1, requests_in_flight=in_flight) as bench:
        bench.remote.answers.append(Failure.TIMEOUT)
        await bench.outbox.put("trades", {"n": 1})
        await bench.idle()
        for number in range(50):
            for name in "abcde":
                await bench.outbox.put(name, {"n": number})
        before = len(bench.remote.requests)
        assert before == 1
        await bench.settled()
        assert turns(bench)[before:].index("trades") <= 2 * 6


@run_async
async def test_a_suspect_that_is_discarded_by_hand_is_forgotten(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = Failure.TIMEOUT
        await bench.put_many(1)
        await bench.live(1)
        (traffic,) = bench.flusher._lanes._traffic.values()
        assert list(traffic.suspects) == [1]
        await bench.store.transact(
            lambda connection: connection.execute("update outbox set state = 'discarded', settled_at_ms = 1")
        )
        bench.remote.otherwise = bench.remote.commit
        await bench.put_many(3)
        await bench.settled()
        await bench.put_many(1)
        await bench.settled()
        assert traffic.suspects == {}


# ------------------------------------------------------------------------------------------ orphans


def requests_until(bench: Bench, wanted: set[int]) -> int:
    """Return after how many requests the rows `n` of `wanted` had all arrived."""
    left = set(wanted)
    for count, request in enumerate(bench.remote.requests, start=1):
        found = {row["n"] for row in rows(request)}
        if not any(row["n"] < 0 for row in rows(request)):
            left -= found
        if not left:
            return count
    raise AssertionError("they never arrived")


@pytest.mark.parametrize("parts", [True, False], ids=["as it is", "control: parts in their order"])
@run_async
async def test_hundreds_of_orphans_do_not_hold_the_healthy_rows_behind_them(
    parts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans = 450  # with the others one batch
    if not parts:
        monkeypatch.setattr("outbox.flusher.traffic._MANY", 10_000)
    remote = Remote(rule=lambda _, row: NO_PARENT if row["n"] < 0 else None)
    async with opened(tmp_path, remote=remote) as bench:
        for number in [*range(-orphans, 0), *range(50)]:
            await bench.outbox.put("events", {"n": number})
        async with bench.outbox.flushing():
            await bench.until(lambda: len(remote.inserted) == 50)
            assert (requests_until(bench, set(range(50))) < 100) is parts
            # And what is put from now on waits for none of them.
            before = len(remote.requests)
            await bench.outbox.put("events", {"n": 1000})
            await bench.until(lambda: len(remote.inserted) == 51)
            assert len(remote.requests) - before < 12
            remote.rule = lambda _, __: None
            assert (await bench.settled()).delivered == orphans + 51


@pytest.mark.parametrize("told", [True, False], ids=["the server names the parent", "control: it does not"])
@run_async
async def test_all_children_of_one_missing_parent_are_found_by_one_refusal(told: bool, tmp_path: Path) -> None:
    details = 'Key (order_id)=(7) is not present in table "orders".' if told else None
    no_parent = refused(409, "23503", "no parent", details=details)
    remote = Remote(rule=lambda _, row: no_parent if row["order_id"] == 7 else None)
    async with opened(tmp_path, remote=remote) as bench:
        for number in range(400):
            await bench.outbox.put("notes", {"n": number, "order_id": 7 if number % 2 else number})
        async with bench.outbox.flushing():
            await bench.until(lambda: len(remote.inserted) == 200)
            assert (len(remote.requests) <= 5) is told
            assert (await bench.stats()).pending == 200
            remote.rule = lambda _, __: None
            assert (await bench.settled()).delivered == 400


@pytest.mark.parametrize("sweeps", [True, False], ids=["as it is", "control: the oldest first"])
@run_async
async def test_rows_that_are_refused_for_longer_than_they_wait_do_not_hold_the_row_behind_them(
    sweeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal takes a second: twenty orphans, found one by one, are ready again before the last of them is.

    docs/promises.md names the bound: before a row that waits, each of them is tried once; once more, if it was put
    meanwhile. One by one, out of batches of five, that is less than two requests for each.
    """
    if not sweeps:
        monkeypatch.setattr(Sweep, "postponed", lambda self, seq, last_seq: None)
    orphans, begun, most = 20, 45, 300  # the second pass has begun by then
    arrived = list[int]()  # after how many requests
    meanwhile = list[asyncio.Future[Receipt]]()

    def rule(_: str, row: Row) -> Reply | None:
        return NO_PARENT if row["n"] < orphans and len(remote.requests) <= most else None

    def slow(request: Request) -> Answer:
        bench.clock.advance(1.0)
        if len(remote.requests) == begun:
            meanwhile.append(asyncio.ensure_future(bench.outbox.put("legs", {"n": orphans + 1}, key="put meanwhile")))
        answer = remote.commit(request)
        arrived.extend([len(remote.requests)] * (len(remote.inserted) - len(arrived)))
        return answer

    remote = Remote(rule=rule)
    async with opened(tmp_path, remote=remote, batch_rows=5, backoff_base_s=1.0, backoff_cap_s=5.0) as bench:
        remote.otherwise = slow
        for number in range(orphans + 1):
            await bench.outbox.put("legs", {"n": number}, key=f"leg {number}")
        async with bench.outbox.flushing():
            assert (await bench.settled()).delivered == orphans + 2
        assert (arrived[0] < 2 * orphans and arrived[1] < begun + 4 * orphans) is sweeps
        assert (arrived[0] > most) is not sweeps


# ------------------------------------------------------------------------------------------ shell rows


@pytest.mark.parametrize("slices", [True, False], ids=["as it is", "control: all are read first"])
@run_async
async def test_many_shell_rows_do_not_delay_a_trade(
    slices: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not slices:
        monkeypatch.setattr("outbox.flusher.flusher._STEP", 100_000)
    left = list[int]()
    async with opened(tmp_path) as bench:

        def count(request: Request) -> Answer:
            if table(request) == "trades":
                with shell(bench.path) as connection:
                    left.extend(connection.execute("select count(*) from outbox where lane is null").fetchone())
            return bench.remote.commit(request)

        bench.remote.otherwise = count
        with shell(bench.path) as connection:
            connection.execute("begin")
            for number in range(3000):
                sql = "insert into outbox (destination, payload) values ('events', json_object('n', ?))"
                connection.execute(sql, (number,))
            connection.execute("commit")
        await bench.outbox.put("trades", {"n": 1})
        await bench.outbox.drain()
        assert (left[0] >= 2500) is slices
        assert len(bench.remote.inserted) == 3001
