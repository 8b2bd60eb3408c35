"""A fault of the table is no fault of its rows: few die of it, and these come back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from outbox.flusher import traffic
from outbox.flusher.scopes import Paused
from outbox.flusher.traffic import Source, Traffic
from outbox.postgrest.verdicts import Reply
from outbox.testing import refused
from tests.flusher.bench import Bench, Clock, Remote, Row, flushing, opened, rows
from tests.support import run_async

NOT_NULL = refused(400, "23502", 'null value in column "new" of relation "events" violates not-null constraint')
POLICY = refused(403, "42501", 'new row violates row-level security policy for table "events"')


def uuid_into_int8(_: str, row: Row) -> Reply:
    return refused(400, "22P02", f'invalid input syntax for type bigint: "{row["id"]}"')


def raised(_: str, row: Row) -> Reply:
    return refused(400, "P0001", f"row {row['n']} is not what this table takes today")


FAULTS = [
    pytest.param(lambda _, __: NOT_NULL, id="a NOT NULL column that a migration added"),
    pytest.param(lambda _, __: POLICY, id="a missing policy"),
    pytest.param(uuid_into_int8, id="a uuid into an int8 column"),
    pytest.param(raised, id="a trigger that raises the row's own values"),
]


async def lane_pause(bench: Bench) -> tuple[str, str, str]:
    (pause,) = (await bench.stats()).pauses
    return pause.scope, pause.reason, pause.message or ""


@pytest.mark.parametrize("rule", FAULTS)
@pytest.mark.parametrize("rows", [11, 40, 200])
@run_async
async def test_ten_rows_die_of_their_tables_fault_and_come_back_when_it_accepts_one(
    rule: object, rows: int, tmp_path: Path
) -> None:
    async with flushing(tmp_path, remote=Remote(rule=rule)) as bench:  # type: ignore[arg-type]
        await bench.put_many(rows)
        await bench.live(600)
        stats = await bench.stats()
        assert stats.dead <= 10
        assert stats.pending >= rows - 10
        scope, reason, said = await lane_pause(bench)
        assert (scope, reason) == ("lane", "refused")
        assert "outbox requeue --destination events --code" in said
        bench.remote.rule = lambda _, __: None
        await bench.live(2 * 90)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.pending, stats.paused) == (rows, 0, 0, None)


@run_async
async def test_control_without_a_bound_all_of_them_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MOST_REFUSED", 10_000)
    async with flushing(tmp_path, remote=Remote(rule=lambda _, __: NOT_NULL)) as bench:
        await bench.put_many(40)
        await bench.live(600)
        assert (await bench.stats()).dead == 40


@run_async
async def test_a_drain_says_what_holds_it(tmp_path: Path) -> None:
    async with opened(tmp_path, remote=Remote(rule=lambda _, __: NOT_NULL)) as bench:
        await bench.put_many(40)
        report = await bench.outbox.drain()
        assert (report.dead, report.pending) == (10, 30)
        assert (report.held_by or "").startswith("events: insert of id, n is paused (refused): 400 23502 null value in")


@run_async
async def test_another_table_goes_on_meanwhile(tmp_path: Path) -> None:
    rule = lambda name, _: NOT_NULL if name == "events" else None  # noqa: E731
    async with flushing(tmp_path, remote=Remote(rule=rule)) as bench:
        await bench.put_many(40)
        await bench.put_many(40, "trades")
        await bench.live(1)
        assert sum(name == "trades" for name, _ in bench.remote.inserted) == 40


@pytest.mark.parametrize("killed_after", [1, 5, 9, 10, 12])
@run_async
async def test_a_run_goes_on_after_a_restart(killed_after: int, tmp_path: Path) -> None:
    clock, remote = Clock(), Remote(rule=lambda _, __: NOT_NULL)
    async with flushing(tmp_path, remote=remote, clock=clock, batch_rows=1, requests_in_flight=1) as bench:
        await bench.put_many(killed_after)
        await bench.live(1)
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:
        await bench.put_many(50)
        await bench.live(300)
        assert (await bench.stats()).dead == 10
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:
        remote.rule = lambda _, __: None
        await bench.live(200)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead) == (50 + killed_after, 0)


@run_async
async def test_what_the_pause_names_brings_them_back_too(tmp_path: Path) -> None:
    async with flushing(tmp_path, remote=Remote(rule=lambda _, __: NOT_NULL)) as bench:
        await bench.put_many(40)
        await bench.live(100)
        bench.remote.rule = lambda _, __: None
        await bench.outbox.requeue(destination="events", code="23502")
        await bench.outbox.reload()
        await bench.live(1)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead) == (40, 0)


@pytest.mark.parametrize("every", [2, 3, 10])
@run_async
async def test_poison_rows_among_good_ones_die_alone(every: int, tmp_path: Path) -> None:
    rule = lambda _, row: NOT_NULL if row["n"] % every == 0 else None  # noqa: E731
    async with flushing(tmp_path, remote=Remote(rule=rule)) as bench:
        await bench.put_many(300)
        await bench.live(200)
        stats = await bench.stats()
        bad = len(range(0, 300, every))
        assert (stats.delivered, stats.dead, stats.paused) == (300 - bad, bad, None)


@run_async
async def test_a_row_that_comes_back_and_is_bad_itself_dies_for_good(tmp_path: Path) -> None:
    rule = lambda _, row: NOT_NULL if row["n"] < 30 else None  # noqa: E731
    async with flushing(tmp_path, remote=Remote(rule=rule), batch_rows=1) as bench:
        await bench.put_many(30)
        await bench.live(100)
        assert (await bench.stats()).dead == 10
        for number in range(30, 40):
            await bench.outbox.put("events", {"n": number})
        await bench.live(400)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.paused) == (10, 30, None)


class Shared(Counter[Source]):
    """One count for all sources: as they take turns, each is only ever asked for one of its ends."""

    def __getitem__(self, key: Source) -> int:
        return self.total()


@pytest.mark.parametrize("by_itself", [True, False], ids=["as it is", "control: one count for all sources"])
@run_async
async def test_probes_show_both_ends_of_what_is_new_beside_rows_that_came_back(by_itself: bool, tmp_path: Path) -> None:
    rule = lambda _, row: None if row["n"] == 139 else NOT_NULL  # noqa: E731
    async with flushing(tmp_path, remote=Remote(rule=rule), batch_rows=1, requests_in_flight=1) as bench:
        await bench.put_many(30)
        await bench.live(100)
        if not by_itself:
            for traffic in bench.flusher._lanes._traffic.values():
                traffic.probes = Shared()
        for number in range(100, 140):  # the last one is accepted: ten rows come back, and are refused again
            await bench.outbox.put("events", {"n": number})
        await bench.until(lambda: len(bench.remote.inserted) == 1)
        await bench.live(300)
        first = len(bench.remote.requests)
        await bench.live(600)
        asked = {row["n"] for request in bench.remote.requests[first:] for row in rows(request)}
        new = asked.intersection(range(10, 139))
        assert (max(new) > 120 and min(new) < 100) is by_itself


@run_async
async def test_a_revived_row_does_not_revert_what_a_later_one_of_its_key_has_brought(tmp_path: Path) -> None:
    async with flushing(tmp_path, remote=Remote(rule=lambda _, __: NOT_NULL)) as bench:
        for number in range(12):
            await bench.outbox.put("sessions", {"session_id": "s", "version": number}, operation="upsert")
        for number in range(30):
            await bench.outbox.put("sessions", {"session_id": f"s-{number}", "version": 1}, operation="upsert")
        await bench.live(300)
        bench.remote.rule = lambda _, __: None
        await bench.live(400)
        stats = await bench.stats()
        assert stats.pending == 0
        assert [row["version"] for row in bench.remote.rows("sessions") if row["session_id"] == "s"] == [11]
        assert len(bench.remote.rows("sessions")) == 31


@pytest.mark.parametrize("restarted", [False, True])
@run_async
async def test_rows_with_ever_other_columns_share_one_bound_and_one_pause(restarted: bool, tmp_path: Path) -> None:
    clock, remote = Clock(), Remote(rule=lambda name, _: NOT_NULL if name == "events" else None)
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:
        for number in range(40):
            await bench.outbox.put("events", {"n": number, f"c{number}": 1})
        await bench.outbox.put("trades", {"n": 1})
        await bench.live(30 if restarted else 600)
        stats = await bench.stats()
        assert (stats.dead, stats.pending, stats.delivered) == (10, 30, 1)
        assert [(pause.scope, pause.subject, pause.reason) for pause in stats.pauses] == [
            ("destination", "events", "refused")
        ]
        if not restarted:
            assert len(remote.requests) < 40  # one probe in an interval, not one for each set of columns
            remote.rule = lambda _, __: None
            await bench.live(180)
    async with flushing(tmp_path, remote=remote, clock=clock) as bench:
        remote.rule = lambda _, __: None
        await bench.live(600)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.pending, stats.paused) == (41, 0, 0, None)


@run_async
async def test_a_lane_that_is_refused_has_its_bound_while_other_columns_are_accepted(tmp_path: Path) -> None:
    rule = lambda _, row: None if "new" in row else NOT_NULL  # noqa: E731
    async with flushing(tmp_path, remote=Remote(rule=rule), batch_rows=1) as bench:
        for number in range(40):
            await bench.outbox.put("events", {"n": number})
            await bench.outbox.put("events", {"n": number, "new": 1})
        await bench.live(600)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.pending) == (40, 10, 30)


@run_async
async def test_poison_rows_in_many_lanes_die_alone_while_others_are_accepted(tmp_path: Path) -> None:
    rule = lambda _, row: NOT_NULL if row["n"] % 2 else None  # noqa: E731
    async with flushing(tmp_path, remote=Remote(rule=rule), requests_in_flight=1) as bench:
        for number in range(50):
            await bench.outbox.put("events", {"n": number, f"c{number}": 1})
        await bench.live(600)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.paused) == (25, 25, None)


@run_async
async def test_control_counted_by_lane_alone_one_row_dies_for_each_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traffic, "is_run_full", lambda self, cause: self.run.is_full(cause))
    async with flushing(tmp_path, remote=Remote(rule=lambda _, __: NOT_NULL)) as bench:
        for number in range(40):
            await bench.outbox.put("events", {"n": number, f"c{number}": 1})
        await bench.live(60)
        assert (await bench.stats()).dead == 40


OF_INSERTS = {
    "alike": lambda number: {"n": number},
    "ever other columns": lambda number: {"n": number, f"c{number}": 1},
    "the upserts' own rows": lambda number: {"k": number % 7, f"c{number}": 1},
}


@pytest.mark.parametrize("columns", OF_INSERTS)
@run_async
async def test_upserts_of_a_table_go_on_whose_inserts_are_all_refused(columns: str, tmp_path: Path) -> None:
    """A NOT NULL column that only the upserts bring, say: the fault is the inserts', and so is the pause."""
    async with flushing(tmp_path, remote=Remote(rule=lambda _, row: None if "new" in row else NOT_NULL)) as bench:
        late = await late_upserts(bench, columns)
        assert late == 0
        await bench.live(600)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.pending) == (40, 10, 30)
        scope = "lane" if columns == "alike" else "destination"
        assert [(pause.scope, pause.reason) for pause in stats.pauses] == [(scope, "refused")]
        bench.remote.rule = lambda _, __: None
        await bench.live(600)
        stats = await bench.stats()
        assert (stats.delivered, stats.dead, stats.pending, stats.paused) == (80, 0, 0, None)


@pytest.mark.parametrize("columns", ["ever other columns", "the upserts' own rows"])
@run_async
async def test_control_held_with_the_inserts_they_would_have_waited(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Paused, "holds", lambda self, lane: True)
    async with flushing(tmp_path, remote=Remote(rule=lambda _, row: None if "new" in row else NOT_NULL)) as bench:
        assert await late_upserts(bench, columns) > 10


async def late_upserts(bench: Bench, columns: str) -> int:
    """Put inserts and upserts in turns; return how many of the upserts in all were not there half a minute later."""
    late = 0
    for number in range(40):
        await bench.outbox.put("events", OF_INSERTS[columns](number))
        upsert = {"k": number % 7, "n": number, "new": 1}
        await bench.outbox.put("events", upsert, operation="upsert", on_conflict=("k",))
        if number % 8 == 7:
            await bench.live(30)
            late += number + 1 - (await bench.stats()).delivered
    return late
