"""Delivered means it is there: what becomes of an insert whose id its caller chose, when the server ignores it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.testing import Answer, Failure, accepted, refused
from tests.flusher.bench import Remote, flushing, opened, prefer, rows, then
from tests.support import run_async


def reads(remote: Remote) -> list[Request]:
    return [request for request in remote.requests if request.method == "GET"]


@pytest.mark.parametrize("count", [1, 3])
@run_async
async def test_an_id_that_the_server_writes_in_its_own_way_is_read_back_once(tmp_path: Path, count: int) -> None:
    """As `citext` and triggers do; before, the same question was asked for ever."""
    remote = Remote()

    def script(request: Request) -> Answer:
        if request.method != "GET":
            return accepted(request, stored=0)
        asked = unquote(request.path).partition("(")[2].partition(")")[0]
        held = [{"id": f"abc-{n}", "n": n} for n in range(count) if f'"ABC-{n}"' in asked]
        return Reply(200, {"content-range": "*/*"}, json.dumps(held).encode())

    remote.otherwise = script
    async with opened(tmp_path, remote=remote) as bench:
        for number in range(count):
            await bench.outbox.put("fills", {"n": number}, id=f"ABC-{number}")
        await bench.outbox.put("fills", {"n": 9}, id="gone")  # control: it is not there
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (count, 1)
        assert len(reads(remote)) <= count + 2


@pytest.mark.parametrize("own_column", [False, True], ids=["id=", "the key column"])
@run_async
async def test_another_row_under_a_chosen_id_is_a_conflict_that_shows_both(tmp_path: Path, own_column: bool) -> None:
    remote, place = Remote(), dict[str, Any]()
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with opened(folder, remote=remote) as bench:
            bench.outbox.register("orders", key="ticket")
            row = {"qty": number} | ({"ticket": "1001"} if own_column else {})
            await bench.outbox.put("orders", row, id=None if own_column else "1001")
            report = await bench.outbox.drain()
            assert (report.delivered, report.dead) == ((1, 0) if number == 1 else (0, 1))
            place = await bench.entry(1)
    assert place["error_code"] == "CONFLICT"
    assert place["error_details"] == '{"qty": {"sent": 2, "stored": 1}}'
    assert [row["qty"] for row in remote.rows("orders")] == [1]


@run_async
async def test_the_same_row_told_again_and_a_lost_reply_are_deliveries(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.answers.append(then(bench.remote, Failure.CUT))
        for number in range(5):
            await bench.outbox.put("fills", {"n": number}, id=f"x-{number}")
        assert (await bench.settled()).delivered == 5
        assert len(reads(bench.remote)) >= 1  # control: it was ignored, and looked at
        assert len(bench.remote.rows("fills")) == 5


@run_async
async def test_of_a_batch_only_what_differs_dies(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for number in range(0, 50, 2):
            bench.remote.inserted["fills", f"x-{number}"] = {"id": f"x-{number}", "n": number or 99}
        for number in range(50):
            await bench.outbox.put("fills", {"n": number}, id=f"x-{number}")
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (49, 1)
        assert (await bench.entry(1))["error_code"] == "CONFLICT"
        assert len(bench.remote.requests) == 2


@run_async
async def test_a_row_that_a_trigger_swallows_is_reported(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.answers.append(lambda request: accepted(request, stored=0))
        await bench.outbox.put("fills", {"n": 1}, id="x")
        assert (await bench.outbox.drain()).dead == 1
        assert "there is no row" in (await bench.entry(1))["error_message"]


@run_async
async def test_minted_ids_cost_nothing(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.answers.append(then(bench.remote, Failure.CUT))
        await bench.put_many(3)
        assert (await bench.settled()).delivered == 3
        assert not reads(bench.remote)
        assert not [request for request in bench.remote.requests if "count" in prefer(request)]


@run_async
async def test_a_duplicate_of_our_own_key_is_looked_at_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        bench.remote.inserted["fills", "x"] = {"id": "x", "n": 2}
        bench.remote.answers.append(refused(409, "23505", "duplicate", details="Key (id)=(x) already exists."))
        await bench.outbox.put("fills", {"n": 1}, id="x")
        assert (await bench.outbox.drain()).dead == 1
        assert (await bench.entry(1))["error_code"] == "CONFLICT"


@run_async
async def test_a_server_that_does_not_count_is_believed_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def uncounted(request: Request) -> Reply:
        return Reply(201, {"preference-applied": "resolution=ignore-duplicates"}, b"")

    async with opened(tmp_path, batch_rows=1) as bench:
        bench.remote.otherwise = uncounted
        for number in range(3):
            await bench.outbox.put("fills", {"n": number}, id=f"x-{number}")
        assert (await bench.outbox.drain()).delivered == 3
        assert not reads(bench.remote)
    assert caplog.text.count("does not say how many rows it stored") == 1


@run_async
async def test_what_may_not_be_read_back_neither_dies_nor_counts_as_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with flushing(tmp_path, backoff_base_s=2) as bench:
        bench.remote.inserted["fills", "x"] = {"id": "x", "n": 1}
        commit = bench.remote.commit
        bench.remote.otherwise = lambda request: (
            refused(403, "42501", "permission denied for table fills") if request.method == "GET" else commit(request)
        )
        await bench.outbox.put("fills", {"n": 1}, id="x")
        await bench.live(30)
        await bench.outbox.put("fills", {"n": 2}, id="y")
        await bench.idle()
        stats = await bench.stats()
        assert (stats.delivered, stats.pending, stats.dead, stats.paused) == (1, 1, 0, None)
        bench.remote.otherwise = commit
        assert (await bench.settled()).delivered == 2
    assert caplog.text.count("cannot be read back") == 1


@run_async
async def test_an_insert_and_an_upsert_of_one_row_arrive_in_their_order(tmp_path: Path) -> None:
    """Else the upsert makes the row, and the insert with its other columns is ignored as a duplicate."""
    async with flushing(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.outbox.put("orders", {"id": "7", "a": 1, "b": 1})
        await bench.outbox.put("orders", {"id": "7", "b": 2}, operation="upsert", on_conflict=("id",))
        await bench.idle()
        assert [rows(request) for request in bench.remote.requests] == [[{"id": "7", "a": 1, "b": 1}]]
        bench.remote.gate.set()
        assert (await bench.settled()).delivered == 2


@run_async
async def test_so_do_those_of_a_table_that_declares_what_decides(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.gate.clear()
        await bench.outbox.put("sessions", {"session_id": "s", "symbols": ["X"]})
        await bench.outbox.put("sessions", {"session_id": "s", "status": "STOPPED"}, operation="upsert")
        await bench.idle()
        assert bench.remote.held == 1
        bench.remote.gate.set()
        assert (await bench.settled()).delivered == 2


@pytest.mark.parametrize("keep", [True, False], ids=["if_exists=keep", "control: without it"])
@run_async
async def test_a_fill_told_twice_to_two_files_stays_as_it_was_told_first(keep: bool, tmp_path: Path) -> None:
    remote = Remote()
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with opened(folder, remote=remote) as bench:
            await bench.outbox.put("fills", {"told": number}, id="f-1", if_exists="keep" if keep else None)
            report = await bench.outbox.drain()
            assert (report.delivered, report.dead) == ((1, 0) if keep or number == 1 else (0, 1))
    assert [row["told"] for row in remote.rows("fills")] == [1]


@run_async
async def test_what_is_to_be_kept_but_is_not_there_is_no_delivery(tmp_path: Path) -> None:
    """A trigger that swallows the row says nothing of one that was there before."""
    async with opened(tmp_path) as bench:
        bench.remote.answers.append(lambda request: accepted(request, stored=0))
        await bench.outbox.put("fills", {"n": 1}, id="f-1", if_exists="keep")
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (0, 1)


@pytest.mark.parametrize("resent", [True, False], ids=["sent again", "control: another bot's"])
@run_async
async def test_a_row_that_arrived_and_was_changed_since_is_no_conflict_when_it_is_sent_again(
    resent: bool, tmp_path: Path
) -> None:
    async with opened(tmp_path) as bench:
        if resent:
            await bench.outbox.put("fills", {"n": 1}, id="x")
            assert (await bench.outbox.drain()).delivered == 1
            await bench.outbox.resend()
        else:
            await bench.outbox.put("fills", {"n": 1}, id="x")
        bench.remote.inserted["fills", "x"] = {"id": "x", "n": 2}
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == ((1, 0) if resent else (0, 1))
        assert bench.remote.rows("fills") == [{"id": "x", "n": 2}]


@pytest.mark.parametrize("equal", [True, False])
@run_async
async def test_postgresql_has_the_last_word_on_what_the_texts_do_not_tell(equal: bool, tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        commit = bench.remote.commit

        def script(request: Request) -> Answer:
            if "?and=" not in request.path:
                return commit(request)
            assert unquote(request.path) == 'fills?and=(id.eq."x",wait.eq."P1D")&select=id'
            return Reply(200, {"content-range": "*/*"}, b'[{"id":"x"}]' if equal else b"[]")

        bench.remote.otherwise = script
        bench.remote.inserted["fills", "x"] = {"id": "x", "wait": "1 day"}
        await bench.outbox.put("fills", {"wait": "P1D"}, id="x")
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == ((1, 0) if equal else (0, 1))


@pytest.mark.parametrize(
    ("answer", "pending"),
    [
        pytest.param(refused(404, "42883", "operator does not exist: point = unknown"), False, id="it has no equality"),
        pytest.param(Reply(503, {}, b""), True, id="an outage"),
        pytest.param(Failure.CUT, True, id="no answer"),
        pytest.param(Reply(400, {}, b"<html>"), True, id="a gateway's page"),
    ],
)
@run_async
async def test_what_cannot_be_compared_differs_and_what_was_not_answered_waits(
    answer: Answer, pending: bool, tmp_path: Path
) -> None:
    async with flushing(tmp_path) as bench:
        commit = bench.remote.commit
        bench.remote.otherwise = lambda request: answer if "?and=" in request.path else commit(request)
        bench.remote.inserted["fills", "x"] = {"id": "x", "place": "(1,2)"}
        await bench.outbox.put("fills", {"place": "( 1, 2 )"}, id="x")
        await bench.live(30)
        stats = await bench.stats()
        assert (stats.pending, stats.dead, stats.delivered) == ((1, 0, 0) if pending else (0, 1, 0))
