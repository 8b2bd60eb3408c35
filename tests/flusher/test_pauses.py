"""An outage is no row's fault: what pauses, how far, for how long, and what ends it."""

from __future__ import annotations

import asyncio
import random
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import refused
from tests.flusher.bench import DOWN, Bench, Clock, Remote, flushing, opened, rows, table
from tests.store.tools import until
from tests.support import run_async

NO_COLUMN = refused(400, "PGRST204", "Could not find the 'oops' column of 'events' in the schema cache")
NO_TABLE = refused(404, "PGRST205", "Could not find the table 'public.events' in the schema cache")
BAD_KEY = refused(401, "PGRST301", "JWT expired")


def only(name: str, answer: Reply | Failure, remote: Remote, column: str = "") -> Any:
    """Answer `answer` to requests for one table (that send `column`)."""

    def script(request: Request) -> Reply | Failure:
        return answer if table(request) == name and column in request.path else remote.commit(request)

    return script


async def pauses(bench: Bench) -> list[tuple[str, str, str, int]]:
    stats = await bench.stats()
    return [(pause.scope, pause.subject, pause.reason, pause.failures) for pause in stats.pauses]


# ---------------------------------------------------------------------------------------------- scopes


@pytest.mark.parametrize(
    ("answer", "scope", "reason", "flowing"),
    [
        pytest.param(DOWN, "everything", "unreachable", set(), id="network"),
        pytest.param(Failure.TIMEOUT, "everything", "timeout", set(), id="no answer"),
        pytest.param(Failure.CUT, "everything", "unreachable", set(), id="cut"),
        pytest.param(BAD_KEY, "everything", "unauthorized", set(), id="bad key"),
        pytest.param(Reply(503, {}, b""), "everything", "overloaded", set(), id="503"),
        pytest.param(Reply(200, {}, b"<html>log in"), "everything", "not_postgrest", set(), id="captive portal"),
        pytest.param(Reply(540, {}, b""), "everything", "suspended", set(), id="paused project"),
        pytest.param(NO_TABLE, "destination", "schema", {"trades"}, id="missing table"),
        pytest.param(refused(403, "42501", "permission denied"), "lane", "forbidden", {"trades", "events"}, id="GRANT"),
        pytest.param(NO_COLUMN, "lane", "schema", {"trades", "events"}, id="missing column"),
    ],
)
@run_async
async def test_a_pause_stops_its_scope_and_touches_no_entry(
    tmp_path: Path, answer: Reply | Failure, scope: str, reason: str, flowing: set[str]
) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.otherwise = answer if scope == "everything" else only("events", answer, bench.remote, "oops")
        if scope == "destination":
            bench.remote.otherwise = only("events", answer, bench.remote)
        for number in range(5):
            await bench.outbox.put("events", {"n": number, "oops": 1})
            await bench.outbox.put("events", {"n": number})
            await bench.outbox.put("trades", {"n": number})
        before = await bench.entries()
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.live(30)
        stats = await bench.stats()
        assert (stats.paused, stats.dead) == (reason, 0)
        assert [pause.scope for pause in stats.pauses] == [scope]
        assert {name for name, _ in bench.remote.inserted} == flowing
        after = {entry[0]: entry for entry in await bench.entries()}
        held = [entry for entry in before if after[entry[0]][4] == "pending"]
        assert len(held) == {"everything": 15, "destination": 10, "lane": 5}[scope]
        assert all(after[entry[0]][:16] == (*entry[:12], after[entry[0]][12], *entry[13:16]) for entry in held)
        for entry in held:
            assert (await bench.entry(entry[0]))["attempts"] == 0
            assert (await bench.entry(entry[0]))["error_status"] is None
        # It ends by itself, with the first answer about rows.
        bench.remote.otherwise = bench.remote.commit
        await bench.settled()
        assert await pauses(bench) == []
        assert len(bench.remote.inserted) == 15
        task.cancel()


@run_async
async def test_a_pause_is_probed_with_one_row(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(100)
        await bench.live(300)
        assert bench.remote.sizes[0] in range(1, 101)
        first = bench.remote.sizes.count(bench.remote.sizes[0])
        assert first >= 1
        assert set(bench.remote.sizes[bench.remote.sizes.index(1) :]) == {1}


@run_async
async def test_several_requests_that_meet_one_failure_count_once(tmp_path: Path) -> None:
    async with flushing(tmp_path, batch_rows=1) as bench:
        bench.remote.gate.clear()
        await bench.put_many(10)
        await bench.idle()
        assert bench.remote.held == 4
        bench.remote.otherwise = DOWN
        bench.remote.gate.set()
        await bench.idle()
        assert await pauses(bench) == [("everything", "", "unreachable", 1)]


@run_async
async def test_a_failure_while_the_clock_stands_still_counts_and_does_not_loop(tmp_path: Path) -> None:
    """A clock of 16 ms, as on Windows: the pause and its probe have the same time."""
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(1)
        await bench.idle()
        for count in range(2, 6):
            bench.flusher.try_at_once()
            await bench.idle()
            assert len(bench.remote.requests) == count
            assert await pauses(bench) == [("everything", "", "unreachable", count)]


@run_async
async def test_a_waiting_pause_costs_no_steps(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=60) as bench:
        bench.remote.otherwise = BAD_KEY
        await bench.put_many(10)
        await bench.idle()
        before = bench.clock.rests
        await bench.live(600)
        # Ten polls and ten probes, each of which ends in a step or two of its own.
        assert bench.clock.rests - before < 60


@run_async
async def test_an_answer_about_the_table_ends_the_pause_of_everything(tmp_path: Path) -> None:
    """The network is back and the table is missing: `unreachable` would be a lie."""
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(1)
        await bench.live(1)
        bench.remote.otherwise = NO_TABLE
        await bench.live(60)
        assert [pause[:3] for pause in await pauses(bench)] == [("destination", "events", "schema")]


@run_async
async def test_a_pause_that_holds_nothing_back_any_more_ends(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = only("events", NO_COLUMN, bench.remote, "oops")
        await bench.outbox.put("events", {"oops": 1})
        await bench.idle()
        assert len(await pauses(bench)) == 1
        await bench.store.transact(lambda connection: connection.execute("delete from outbox"))
        await bench.live(100)
        assert (await bench.outbox.stats()).paused is None


@run_async
async def test_new_rows_wait_with_the_others_and_do_not_shorten_a_pause(tmp_path: Path) -> None:
    async with flushing(tmp_path, backoff_base_s=20) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(1)
        await bench.idle()
        for _ in range(50):
            await bench.put_many(1)
            await bench.idle()
        assert len(bench.remote.requests) == 1
        await bench.live(9.9)
        assert len(bench.remote.requests) == 1
        await bench.live(0.2)
        assert len(bench.remote.requests) == 2


@run_async
async def test_a_late_answer_ends_a_pause(tmp_path: Path) -> None:
    async with flushing(tmp_path, batch_rows=1, requests_in_flight=2, backoff_base_s=100) as bench:
        bench.remote.gate.clear()
        await bench.put_many(2)
        await bench.idle()
        bench.remote.answers.append(DOWN)
        bench.remote.gate.set()
        await bench.idle()
        await bench.settled(within_s=1)
        assert await pauses(bench) == []


# ---------------------------------------------------------------------------------------------- how long


@pytest.mark.parametrize(
    ("header", "at_least_s", "at_most_s"),
    [
        pytest.param("20", 20, 22, id="seconds"),
        pytest.param(formatdate(1_767_225_600 + 30, usegmt=True), 30, 33, id="date"),
        pytest.param("86400", 60, 66, id="capped"),
        pytest.param("0", 0.2, 0.3, id="zero is no leave to storm"),
        pytest.param(formatdate(0, usegmt=True), 0.2, 0.3, id="a date in the past is none either"),
        pytest.param("soon", 0.2, 0.3, id="nonsense"),
    ],
)
@run_async
async def test_retry_after_is_honoured_and_capped(
    tmp_path: Path, header: str, at_least_s: float, at_most_s: float
) -> None:
    async with flushing(tmp_path, backoff_cap_s=60) as bench:
        bench.remote.otherwise = Reply(429, {"retry-after": header}, b"")
        await bench.put_many(1)
        await bench.idle()
        await bench.live(at_least_s - 0.01)
        assert len(bench.remote.requests) == 1
        await bench.live(at_most_s - at_least_s + 0.02)
        assert len(bench.remote.requests) >= 2  # a date is in the past by then


@run_async
async def test_retry_after_zero_does_not_make_a_storm(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = Reply(503, {"retry-after": "0"}, b"")
        await bench.put_many(1)
        await bench.live(600)
        assert len(bench.remote.requests) < 20


@pytest.mark.slow
@run_async
async def test_six_hours_of_outage_cost_few_requests_and_no_row(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=300, draw=None) as bench:
        dice = random.Random(1)
        troubles: list[Reply | Failure] = [DOWN, Failure.TIMEOUT, Failure.CUT, Reply(502, {}, b"")]
        bench.remote.otherwise = lambda _: dice.choice(troubles)
        await bench.put_many(1000)
        before = await bench.entries()
        await bench.live(6 * 3600)
        assert len(bench.remote.requests) < 300  # two for each 300 s of the cap, and the first few
        assert await bench.entries() == before
        assert (await bench.stats()).pauses[0].failures > 50
        bench.remote.otherwise = bench.remote.commit
        stats = await bench.settled(within_s=3600)
        assert (stats.delivered, stats.dead) == (1000, 0)
        assert len(bench.remote.inserted) == 1000


@pytest.mark.parametrize("step_s", [86_400, -86_400])
@run_async
async def test_a_step_of_the_wall_clock_neither_stalls_nor_storms(tmp_path: Path, step_s: int) -> None:
    remote = Remote(rule=lambda _, row: refused(409, "23503", "no parent") if row["n"] == 1 and missing else None)
    missing = True
    async with flushing(tmp_path, remote=remote, backoff_base_s=4, backoff_cap_s=100) as bench:
        await bench.put_many(2)
        await bench.idle()
        remote.otherwise = DOWN
        await bench.put_many(1)
        await bench.idle()
        sent = len(remote.requests)
        bench.clock.step_wall_clock(step_s)
        await bench.live(1.5)
        assert len(remote.requests) == sent  # the first pause is 2 s
        await bench.live(100)
        assert sent < len(remote.requests) < sent + 12
        remote.otherwise, missing = remote.commit, False
        await bench.settled(within_s=200)


@pytest.mark.parametrize("step_s", [86_400, -86_400])
@run_async
async def test_a_step_of_the_wall_clock_between_two_runs_neither_stalls_nor_storms(tmp_path: Path, step_s: int) -> None:
    clock = Clock()
    remote = Remote(rule=lambda _, row: refused(409, "23503", "no parent") if row["n"] == 1 and missing else None)
    missing = True
    async with flushing(tmp_path, remote=remote, clock=clock, backoff_base_s=50, backoff_cap_s=100) as bench:
        await bench.put_many(2)
        await bench.idle()
        remote.otherwise = DOWN
        await bench.put_many(1)
        await bench.idle()
    clock.step_wall_clock(step_s)
    sent = len(remote.requests)
    async with flushing(tmp_path, remote=remote, clock=clock, backoff_base_s=50, backoff_cap_s=100) as bench:
        await bench.live(400)
        assert sent < len(remote.requests) < sent + 20
        remote.otherwise, missing = remote.commit, False
        stats = await bench.settled(within_s=200)
        assert stats.delivered == 3


# ---------------------------------------------------------------------------------------------- restarts, reload, drain


@run_async
async def test_a_pause_survives_a_restart_which_does_not_storm(tmp_path: Path) -> None:
    clock, remote = Clock(), Remote()
    remote.otherwise = BAD_KEY
    for restart in range(5):
        async with flushing(tmp_path, remote=remote, clock=clock) as bench:
            if not restart:
                await bench.put_many(10)
            await bench.idle()
            assert [pause[:3] for pause in await pauses(bench)] == [("everything", "", "unauthorized")]
    assert len(remote.requests) == 1
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:
        remote.otherwise = remote.commit
        await bench.settled(within_s=90)
        assert await bench.store.pauses() == []


@run_async
async def test_reload_ends_every_pause_at_once(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = BAD_KEY
        await bench.put_many(10)
        await bench.idle()
        bench.remote.otherwise = bench.remote.commit
        await bench.outbox.reload()
        await bench.idle()
        assert (await bench.stats()).delivered == 10
        assert await bench.store.pauses() == []


@run_async
async def test_drain_makes_one_immediate_try_and_keeps_the_count(tmp_path: Path) -> None:
    async with flushing(tmp_path, backoff_base_s=100) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(3)
        await bench.idle()
        draining = asyncio.create_task(bench.outbox.drain(timeout=1))
        await until(lambda: len(bench.remote.requests) == 2)  # at once: no time passes
        await bench.advance(1)
        report = await draining
        assert (report.delivered, report.pending, report.timed_out) == (0, 3, True)
        assert len(bench.remote.requests) == 2
        assert await pauses(bench) == [("everything", "", "unreachable", 2)]


@run_async
async def test_a_pause_that_cannot_be_removed_from_the_file_is_removed_later(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = DOWN
        await bench.put_many(3)
        await bench.idle()
        end_pauses, failures = bench.store.end_pauses, []

        async def fail(keys: Any) -> None:
            failures.append(keys)
            bench.store.end_pauses = end_pauses  # type: ignore[method-assign]
            raise OSError("disk I/O error")

        bench.store.end_pauses = fail  # type: ignore[assignment, method-assign]
        bench.remote.otherwise = bench.remote.commit
        await bench.settled()
        assert len(failures) == 1
        await bench.idle()
        assert await bench.store.pauses() == []


@run_async
async def test_a_verdict_that_cannot_be_written_is_not_sent_for_in_a_loop(tmp_path: Path) -> None:
    """A full disk: the server takes the batch each time, and the file never hears of it."""
    async with flushing(tmp_path) as bench:
        settle = bench.store.settle

        async def fail(*_: Any, **__: Any) -> None:
            raise OSError("no space left")

        bench.store.settle = fail  # type: ignore[method-assign]
        await bench.put_many(3)
        await bench.live(600)
        assert 3 < len(bench.remote.requests) < 30
        stats = await bench.stats()
        assert stats.pending == 3
        assert stats.flusher.last_error == "OSError: no space left"
        bench.store.settle = settle  # type: ignore[method-assign]
        await bench.settled(within_s=400)
        assert len(bench.remote.inserted) == 3


@run_async
async def test_a_step_that_fails_is_repeated_once_a_poll_whatever_is_put(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        ready_lanes, calls = bench.store.ready_lanes, 0

        async def fail() -> Any:
            nonlocal calls
            calls += 1
            raise OSError("database is locked")

        bench.store.ready_lanes = fail  # type: ignore[method-assign]
        for _ in range(20):
            await bench.put_many(1)
            await bench.idle()
        assert calls == 1
        bench.store.ready_lanes = ready_lanes  # type: ignore[method-assign]
        await bench.settled(within_s=3)


# ---------------------------------------------------------------------------------------------- stuck rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Failure.TIMEOUT, id="times out"),
        pytest.param(Failure.CUT, id="is cut"),
        pytest.param(refused(500, "57014", "statement timeout"), id="57014"),
        pytest.param(refused(500, "XX000", "invalid memory alloc request size"), id="XX000"),
        pytest.param(Reply(500, {}, b""), id="unknown"),
        pytest.param(Reply(403, {}, b"<html>WAF"), id="a firewall"),
    ],
)
@pytest.mark.parametrize("stuck", [{0}, {5}, {0, 1, 2, 7}], ids=str)
@run_async
async def test_rows_that_fail_alone_let_the_others_pass_and_are_shown(
    tmp_path: Path, answer: Any, stuck: set[int]
) -> None:
    def commit(request: Request) -> Any:
        return answer if any(row["n"] in stuck for row in rows(request)) else bench.remote.commit(request)

    async with flushing(tmp_path, requests_in_flight=1, poll_s=60.0) as bench:  # no shell: an hour has few polls
        bench.remote.otherwise = commit
        await bench.put_many(20)
        await bench.live(3600)
        assert {row["n"] for row in bench.remote.inserted.values()} == set(range(20)) - stuck
        for number in stuck:
            entry = await bench.entry(number + 1)
            assert (entry["state"], entry["waits"]) == ("pending", "retry")
            assert "stuck" in entry["error_hint"]
            assert 1 <= entry["attempts"] < 40  # 24 an hour at half the cap of 300 s
        # And what is put from now on passes them within a few probes.
        await asyncio.gather(*(bench.outbox.put("events", {"n": 100 + n}) for n in range(50)))
        await bench.live(300)
        assert len(bench.remote.inserted) == 70 - len(stuck)
        assert len(bench.remote.requests) < 300
        stuck = set()
        assert (await bench.settled()).delivered == 70


@run_async
async def test_a_stuck_row_of_an_ordering_key_holds_back_only_its_key(tmp_path: Path) -> None:
    def commit(request: Request) -> Any:
        return Failure.TIMEOUT if any(row["n"] == 0 for row in rows(request)) else bench.remote.commit(request)

    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = commit
        for number in range(12):
            await bench.outbox.put("events", {"n": number}, key=f"k{number % 3}")
        await bench.live(600)
        assert {row["n"] for row in bench.remote.inserted.values()} == {n for n in range(12) if n % 3}
        bench.remote.otherwise = bench.remote.commit
        await bench.settled()
        assert [row["n"] for row in bench.remote.inserted.values() if row["n"] % 3 == 0] == [0, 3, 6, 9]


@run_async
async def test_an_outage_of_timeouts_touches_no_entry_and_accuses_none(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.otherwise = Failure.TIMEOUT
        await bench.put_many(10)
        before = await bench.entries()
        await bench.live(3600)
        assert await bench.entries() == before
        bench.remote.otherwise = bench.remote.commit
        await bench.settled()
        assert [(await bench.entry(seq))["attempts"] for seq in range(1, 11)] == [0] * 10
