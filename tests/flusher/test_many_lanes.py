"""Ever other columns: a step reads as many lanes as it may start, not all that are ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.flusher import ready_lanes
from outbox.flusher.ready_lanes import ReadyLanes
from outbox.store.reader import Reader
from outbox.testing import refused
from tests.flusher.bench import Remote, flushing, opened, table
from tests.support import run_async

NO_COLUMN = refused(400, "PGRST204", "Could not find the column")


async def put_sets(bench: object, sets: int, destination: str = "events") -> None:
    for start in range(0, sets, 100):
        async with bench.outbox.transaction() as tx:  # type: ignore[attr-defined]
            for number in range(start, min(start + 100, sets)):
                await tx.put(destination, {"n": number, f"c{number}": 1})


@pytest.mark.parametrize("bounded", [True, False], ids=["as it is", "control: each step reads all lanes"])
@run_async
async def test_the_lanes_that_are_read_for_a_request_do_not_grow_with_the_sets_of_columns(
    bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    async with opened(tmp_path) as bench:
        await put_sets(bench, 500)
        assert (await bench.outbox.drain()).delivered == 500
        per_request = read / len(bench.remote.requests)
    assert (per_request <= 2 * ready_lanes.SHARE + 4) is bounded, per_request


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
