"""Ever other columns: a step reads as many lanes as it may start, and inserts of many sets share a request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from outbox.entry import LaneSpec, Operation
from outbox.flusher import many_lanes, scheduler
from outbox.flusher.many_lanes import ReadyLanes, columns_of, sharing
from outbox.postgrest.client import Request
from outbox.store.reader import Reader
from outbox.store.rows import Lane
from outbox.testing import Answer, Failure, refused
from tests.flusher.bench import Bench, Remote, flushing, opened, query, rows, table
from tests.support import run_async
from tests.test_counted_work import counted_hops

NO_COLUMN = refused(400, "PGRST204", "Could not find the column")


async def put_sets(bench: Bench, sets: int, destination: str = "events", **more: Any) -> None:
    for start in range(0, sets, 100):
        async with bench.outbox.transaction() as tx:
            for number in range(start, min(start + 100, sets)):
                await tx.put(destination, {"n": number, f"c{number}": 1}, **more)


def posts(remote: Remote) -> list[Request]:
    return [request for request in remote.requests if request.method == "POST"]


def spec(
    columns: str,
    *,
    table: str = "events",
    operation: Operation = Operation.INSERT,
    key: str = "id",
    ordered: bool = False,
) -> LaneSpec:
    return LaneSpec(table, operation, key, columns, ordered)


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "may_share", lambda _: False)


@pytest.mark.parametrize("bounded", [True, False], ids=["as it is", "control: each step reads all lanes"])
@run_async
async def test_the_lanes_that_are_read_for_a_request_do_not_grow_with_the_sets_of_columns(
    bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    if not bounded:
        monkeypatch.setattr(ReadyLanes, "must_read", lambda self, *, idle: True)
    read = 0
    ready_lanes_of, put_since = Reader.ready_lanes, Reader.lanes_put_since

    async def counted(self: Reader) -> object:
        nonlocal read
        found = await ready_lanes_of(self)
        read += len(found)
        return found

    async def counted_since(self: Reader, seq: int) -> object:
        nonlocal read
        found = await put_since(self, seq)
        read += len(found)
        return found

    monkeypatch.setattr(Reader, "ready_lanes", counted)
    monkeypatch.setattr(Reader, "lanes_put_since", counted_since)
    async with opened(tmp_path, requests_in_flight=1) as bench:  # else a step may go on as long as it is answered
        await put_sets(bench, 500)
        assert (await bench.outbox.drain()).delivered == 500
        per_request = read / len(bench.remote.requests)
    assert (per_request <= 2 * many_lanes.SHARE + 4) is bounded, per_request


@run_async
async def test_a_table_with_one_lane_has_its_turn_beside_one_with_hundreds(tmp_path: Path) -> None:
    async with flushing(tmp_path, requests_in_flight=1) as bench:
        bench.remote.gate.clear()
        await put_sets(bench, 200)
        await bench.outbox.put("trades", {"n": 1})
        bench.remote.gate.set()
        await bench.idle()
        # And what is put while the others wait in line:
        turns = [table(request) for request in bench.remote.requests]
        assert turns.index("trades") < 12
        assert len(bench.remote.inserted) == 201


@run_async
async def test_a_misspelt_column_holds_back_only_its_own_rows_among_hundreds_of_sets(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: NO_COLUMN if row["n"] % 10 == 0 else None)
    async with flushing(tmp_path, remote=remote) as bench:
        await put_sets(bench, 200)
        await bench.until(lambda: len(remote.inserted) == 180)
        remote.rule = lambda _, __: None
        assert (await bench.settled()).delivered == 200


@pytest.mark.parametrize("shared", [True, False], ids=["as it is", "control: a request for each set"])
@run_async
async def test_inserts_of_many_sets_share_a_request_and_arrive_as_they_were_put(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared:
        alone(monkeypatch)
    async with opened(tmp_path) as bench:
        await put_sets(bench, 300)
        assert (await bench.outbox.drain()).delivered == 300
        found = sorted(bench.remote.rows("events"), key=lambda row: int(row["n"]))
        assert [row.keys() - {"id"} for row in found] == [{"n", f"c{number}"} for number in range(300)]
        for request in posts(bench.remote):
            named = set(query(request)["columns"].split(","))
            assert named == {column for row in rows(request) for column in row}
    assert (len(posts(bench.remote)) < 20) is shared


@run_async
async def test_a_thousand_sets_cost_at_most_three_times_the_work_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for name, sets in (("one", 1), ("many", 1000)):
        (tmp_path / name).mkdir()
        async with opened(tmp_path / name, batch_rows=100) as bench:
            with counted_hops(monkeypatch) as hops:
                for start in range(0, 1000, 100):
                    futures = [
                        bench.outbox.put_nowait("events", {"n": number, f"c{number % sets}": 1})
                        for number in range(start, start + 100)
                    ]
                    await asyncio.gather(*futures)
                assert (await bench.outbox.drain()).delivered == 1000
            counts.append((len(hops), len(bench.remote.requests)))
    assert counts[1][0] <= 3 * counts[0][0], counts
    assert counts[1][1] <= 3 * counts[0][1], counts


@run_async
async def test_on_a_view_each_set_goes_alone(tmp_path: Path) -> None:
    """PostgREST does not know what the table beneath gives a column that is not sent."""
    remote = Remote()

    def view(request: Request) -> Answer:
        no = refused(400, "42703", "column events.tableoid does not exist")
        return no if request.method == "GET" else remote.commit(request)

    remote.otherwise = view
    async with opened(tmp_path, remote=remote) as bench:
        await put_sets(bench, 200)
        assert (await bench.outbox.drain()).delivered == 200
        # Control: the last ones are too few for the queue, and go alone anyway.
        assert all(len(rows(request)) == 1 for request in posts(remote))


@pytest.mark.parametrize(
    "more", [{"operation": "upsert", "on_conflict": ("n",)}, {"key": "k"}], ids=["upserts", "a line"]
)
@run_async
async def test_what_would_overwrite_or_has_a_line_travels_with_its_own_columns_only(
    more: dict[str, Any], tmp_path: Path
) -> None:
    async with opened(tmp_path) as bench:
        await put_sets(bench, 100, **more)
        assert (await bench.outbox.drain()).delivered == 100
        assert all(len(rows(request)) == 1 for request in posts(bench.remote))


@pytest.mark.parametrize("bad", [1, 7, 100])
@run_async
async def test_poison_rows_among_hundreds_of_sets_die_alone(bad: int, tmp_path: Path) -> None:
    no = refused(400, "22P02", "invalid input syntax")
    remote = Remote(rule=lambda _, row: no if row["n"] % 300 < bad and row["n"] < 300 else None)
    async with flushing(tmp_path, remote=remote) as bench:
        await put_sets(bench, 400)
        stats = await bench.settled() if bad <= 10 else None
        if stats is None:  # one after another with one cause: some of them may be the table's for a while
            await bench.until(lambda: len(remote.inserted) == 400 - bad)
        else:
            assert (stats.delivered, stats.dead) == (400 - bad, bad)
        assert len(remote.requests) < 12 * bad + 120


@pytest.mark.parametrize("answer", [Failure.CUT, Failure.TIMEOUT, refused(503, "57P03", "starting up")])
@run_async
async def test_a_lost_reply_and_an_outage_of_a_shared_request_lose_and_double_nothing(
    answer: Answer, tmp_path: Path
) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.gate.clear()
        await put_sets(bench, 300)
        commit = bench.remote.commit
        lost = [3]

        def script(request: Request) -> Answer:
            reply = commit(request)
            if request.method == "POST" and lost[0]:
                lost[0] -= 1
                return answer
            return reply

        bench.remote.otherwise = script
        bench.remote.gate.set()
        stats = await bench.settled()
        assert (stats.delivered, stats.dead, stats.paused) == (300, 0, None)
        assert len(bench.remote.rows("events")) == 300


@run_async
async def test_a_row_that_breaks_the_server_does_not_hold_the_sets_that_shared_its_request(tmp_path: Path) -> None:
    broken = refused(500, "XX000", "invalid memory alloc request size")
    remote = Remote(rule=lambda _, row: broken if row["n"] == 150 else None)
    async with flushing(tmp_path, remote=remote) as bench:
        await put_sets(bench, 300)
        await bench.until(lambda: len(remote.inserted) == 299)
        remote.rule = lambda _, __: None
        assert (await bench.settled()).delivered == 300


@run_async
async def test_sharing_keeps_to_the_bytes_and_the_rows_of_a_request(tmp_path: Path) -> None:
    async with opened(tmp_path, batch_bytes=10_000, batch_rows=50) as bench:
        for start in range(0, 200, 50):
            async with bench.outbox.transaction() as tx:
                for number in range(start, start + 50):
                    await tx.put("events", {"n": number, f"c{number}": "x" * (500 if number % 2 else 10)})
        assert (await bench.outbox.drain()).delivered == 200
        assert max(len(request.body) for request in posts(bench.remote)) <= 10_100
        assert 10 < max(len(rows(request)) for request in posts(bench.remote)) <= 50


@pytest.mark.parametrize(
    ("lanes", "found"),
    [
        pytest.param([spec("id,b"), spec("id,c")], [0, 1], id="other columns"),
        pytest.param([spec("a,id"), spec("id,c")], [1], id="not itself"),
        pytest.param(
            [spec("id,b", table="trades"), spec("b,no", key="no"), spec("id,c")], [2], id="of one table and key"
        ),
        pytest.param([spec("id,b", ordered=True), spec("id,b", operation=Operation.UPSERT)], [], id="plain inserts"),
        pytest.param(
            [spec("id,b"), spec("id,c"), spec("id,d"), spec("id,e")], [0, 1, 2], id="as many as there is room"
        ),
        pytest.param([spec("id," + "x" * 7995), spec("id,c")], [0], id="what a URL may name"),
        pytest.param([spec("id," + "x" * 8000), spec("id,c")], [], id="one that is too long ends it"),
    ],
)
def test_which_lanes_share_a_request(lanes: list[LaneSpec], found: list[int]) -> None:
    chosen = sharing(spec("a,id"), [Lane(number, each, 1) for number, each in enumerate(lanes)], 3)
    assert [lane.number for lane in chosen] == found
    assert columns_of([spec("b,id"), spec("a,id")]) == "a,b,id"
