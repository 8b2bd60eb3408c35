"""A pause is as narrow as the failure, and probing finds that out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from outbox.flusher.in_flight import Requests
from outbox.flusher.pauses import Pauses
from outbox.flusher.scheduler import Lanes
from outbox.flusher.scopes import Paused
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import Answer, refused
from tests.flusher.bench import DOWN, Bench, Remote, flushing, opened, query, rows, table
from tests.support import run_async

DEAD_SERVER = refused(503, "08001", 'could not connect to server "elsewhere"')
ANON = refused(401, "42501", "permission denied for table sick")
PROXY = Reply(503, {}, b"<html>")


def sick(answer: Answer, remote: Remote) -> Callable[[Request], Answer]:
    """Answer `answer` to whatever goes to the table `sick`."""
    return lambda request: answer if table(request) == "sick" else remote.commit(request)


def bad(answer: Answer, remote: Remote, *numbers: int) -> Callable[[Request], Answer]:
    """Answer `answer` to whatever holds one of the rows `n`."""
    return lambda request: answer if {row["n"] for row in rows(request)} & set(numbers) else remote.commit(request)


async def pauses(bench: Bench) -> list[tuple[str, str, str]]:
    return [(pause.scope, pause.subject, pause.reason) for pause in (await bench.stats()).pauses]


def arrived(bench: Bench, name: str) -> int:
    return sum(of == name for of, _ in bench.remote.inserted)


@pytest.mark.parametrize(
    ("answer", "reason", "interval_s"),
    [
        pytest.param(DEAD_SERVER, "overloaded", 0.5, id="a trigger calls a dead server"),
        pytest.param(refused(500, "HV000", "fdw"), "misconfigured", 90, id="HV000"),
        pytest.param(ANON, "unauthorized", 90, id="anon lacks a grant"),
        pytest.param(PROXY, "overloaded", 0.5, id="a proxy"),
        pytest.param(Failure.TIMEOUT, "timeout", 0.5, id="no answer"),
        pytest.param(Failure.CUT, "unreachable", 0.5, id="cut"),
        pytest.param(Reply(200, {}, b"<html>"), "not_postgrest", 90, id="a page"),
    ],
)
@pytest.mark.parametrize("narrows", [True, False], ids=["as it is", "control: no answer narrows"])
@run_async
async def test_a_healthy_table_waits_at_most_two_probe_intervals_for_a_sick_one(
    narrows: bool, answer: Answer, reason: str, interval_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not narrows:
        monkeypatch.setattr(Pauses, "_narrowed", lambda *_: {})
        monkeypatch.setattr(Lanes, "_waited", lambda self, lane: (0, 0, lane.first_seq))  # the oldest comes first
    async with opened(tmp_path) as bench:
        bench.remote.otherwise = sick(answer, bench.remote)
        await bench.put_many(5, "sick")
        await bench.put_many(50, "trades")
        async with bench.outbox.flushing():
            await bench.live(2 * interval_s)
            assert (arrived(bench, "trades") == 50) is narrows
            if narrows:
                assert await pauses(bench) == [("destination", "sick", reason)]
                bench.remote.otherwise = bench.remote.commit
                await bench.settled()
                assert await pauses(bench) == []


@pytest.mark.parametrize("quick", [True, False], ids=["as it is", "control: each waits for the slow probe"])
@run_async
async def test_several_sick_tables_do_not_add_up_their_probe_intervals(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not quick:
        monkeypatch.setattr(Paused, "was_met_by", lambda *_: True)
    async with opened(tmp_path) as bench:
        for number in range(5):
            await bench.put_many(5, f"sick{number}")
        await bench.put_many(50, "trades")
        bench.remote.otherwise = lambda request: ANON if table(request) != "trades" else bench.remote.commit(request)
        async with bench.outbox.flushing():
            await bench.live(2 * 60)
            assert (arrived(bench, "trades") == 50) is quick


@pytest.mark.parametrize("alone", [True, False], ids=["as it is", "control: a limit is always everybody's"])
@pytest.mark.parametrize("count", [1, 3])
@run_async
async def test_a_limit_of_requests_that_only_some_tables_meet_is_theirs(
    alone: bool, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that limits one path, or RAISE SQLSTATE 'PT429' in one trigger."""
    if not alone:
        monkeypatch.setattr("outbox.flusher.pauses._LIMITS_ALONE", 10_000)
    limited = Reply(429, {"retry-after": "30"}, b"")
    async with opened(tmp_path) as bench:
        for number in range(count):
            await bench.put_many(5, f"sick{number}")
        await bench.put_many(50, "trades")
        bench.remote.otherwise = lambda request: limited if table(request) != "trades" else bench.remote.commit(request)
        async with bench.outbox.flushing():
            await bench.live(300)
            assert (arrived(bench, "trades") == 50) is alone
            if alone:
                assert {pause[:2] for pause in await pauses(bench)} == {
                    ("destination", f"sick{number}") for number in range(count)
                }


@run_async
async def test_a_limit_that_all_tables_meet_stays_one_pause(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        passed: list[float] = []

        def limited(request: Request) -> Answer:
            now_s = bench.clock.monotonic_s()
            if sum(at_s > now_s - 30 for at_s in passed) >= 5:
                return Reply(429, {"retry-after": "30"}, b"")
            passed.append(now_s)
            return bench.remote.commit(request)

        bench.remote.otherwise = limited
        met = set[str]()
        async with bench.outbox.flushing():
            for _ in range(30):
                for name in "abc":
                    await bench.put_many(3, name)
                await bench.live(7)
                met |= {pause[0] for pause in await pauses(bench)}
        assert met == {"everything"}


@run_async
async def test_a_sick_table_costs_few_requests_while_the_others_flow(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = sick(DEAD_SERVER, bench.remote)
        await bench.put_many(5, "sick")
        for _ in range(60):
            await bench.put_many(1, "trades")
            await bench.live(10)
        assert arrived(bench, "trades") == 60
        assert Counter(table(request) for request in bench.remote.requests)["sick"] < 30
        assert await pauses(bench) == [("destination", "sick", "overloaded")]


@run_async
async def test_a_real_outage_stays_one_pause_with_few_probes_each_of_another_table(tmp_path: Path) -> None:
    async with flushing(tmp_path, draw=None) as bench:
        bench.remote.otherwise = DOWN
        for name in "abcde":
            await bench.put_many(20, name)
        await bench.live(10)
        assert [pause[:2] for pause in await pauses(bench)] == [("everything", "")]
        first = len(bench.remote.requests)
        await bench.live(3600)
        assert [pause[:2] for pause in await pauses(bench)] == [("everything", "")]
        probes = [table(request) for request in bench.remote.requests[first:]]
        assert len(probes) < 60
        assert set(probes) == set("abcde")
        assert all(one != next_one for one, next_one in pairwise(probes))
        bench.remote.otherwise = bench.remote.commit
        await bench.settled()
        assert await pauses(bench) == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(PROXY, id="a proxy's 503"),
        pytest.param(Reply(502, {}, b"<html>"), id="a proxy's 502"),
        pytest.param(DEAD_SERVER, id="08001"),
        pytest.param(refused(400, "55000", "raised"), id="55000"),
        pytest.param(refused(404, "42P01", "raised"), id="42P01"),
        pytest.param(refused(403, "42501", "permission denied"), id="42501"),
        pytest.param(Failure.TIMEOUT, id="no answer"),
    ],
)
@pytest.mark.parametrize("number", [0, 7, 49])
@run_async
async def test_one_row_that_looks_like_an_outage_stops_neither_its_table_nor_others(
    answer: Answer, number: int, tmp_path: Path
) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = bad(answer, bench.remote, number)
        await bench.put_many(50)
        await bench.put_many(1, "trades") if number else None
        await bench.live(200)  # two probe intervals of the slow kind
        assert arrived(bench, "events") == 49
        assert (await bench.stats()).dead == 0
        bench.remote.otherwise = bench.remote.commit
        stats = await bench.settled()
        assert (stats.delivered, stats.paused) == (50 + bool(number), None)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refused(400, "42P10", "there is no unique or exclusion constraint"), id="42P10"),
        pytest.param(refused(403, "42501", "permission denied for table sessions"), id="42501"),
    ],
)
@run_async
async def test_what_only_the_merge_lacks_holds_back_no_insert_of_the_table_and_is_named(
    answer: Reply, tmp_path: Path
) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = lambda request: (
            answer if query(request).get("on_conflict") == "a,b" else bench.remote.commit(request)
        )
        await bench.outbox.put("orders", {"a": 1, "b": 2}, operation="upsert", on_conflict=("a", "b"))
        for number in range(100):
            await bench.outbox.put("orders", {"n": number})
        await bench.live(1)
        assert arrived(bench, "orders") == 100
        report = await bench.outbox.drain()
        assert (report.held_by or "").startswith("orders: upsert on (a, b) of a, b is paused")


@dataclass
class Locked(Remote):
    """The table `sick` does not answer before the gate is opened, and then too late."""

    async def send(self, request: Request, *, deadline_s: float) -> Answer:
        if table(request) == "sick":
            await super().send(request, deadline_s=deadline_s)
            return Failure.TIMEOUT
        return self.commit(request)


@pytest.mark.parametrize("kept", [True, False], ids=["as it is", "control: no place is kept"])
@run_async
async def test_a_locked_table_does_not_take_all_places_and_its_deadline_is_its_own(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(Requests, "busy", lambda *_: True)
    remote = Locked()
    remote.gate.clear()
    async with flushing(tmp_path, remote=remote, batch_rows=1) as bench:
        await bench.put_many(20, "sick")
        await bench.idle()
        assert remote.held == 4
        await bench.put_many(5, "trades")
        await bench.idle()
        assert arrived(bench, "trades") == (5 if kept else 0)
        remote.gate.set()
        await bench.idle()
        if kept:
            assert await pauses(bench) == [("destination", "sick", "timeout")]


@run_async
async def test_a_drain_finds_out_what_else_can_go_before_it_says_what_holds_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.otherwise = sick(ANON, bench.remote)
        await bench.put_many(5, "sick")
        await bench.put_many(50, "trades")
        report = await bench.outbox.drain(60)
        assert (report.delivered, report.pending) == (50, 5)
        assert (report.held_by or "").startswith("sick is paused (unauthorized)")


@run_async
async def test_an_outage_that_comes_to_need_an_operator_is_a_warning_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = Failure(DOWN.kind, "[Errno 111] Connection refused")
        await bench.put_many(1)
        await bench.idle()
        bench.remote.otherwise = refused(401, "PGRST301", "JWT expired")
        await bench.live(5)
        bench.remote.otherwise = bench.remote.commit
        await bench.settled()
    said = [(record.levelname, record.msg) for record in caplog.records if "sending" in str(record.msg)]
    assert said == [
        ("WARNING", "sending paused"),
        ("WARNING", "sending still paused, needs an operator"),
        ("WARNING", "sending resumed"),
    ]
