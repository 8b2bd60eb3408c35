"""What travels, with what, and in what order; what one row's refusal does to the others."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import refused
from tests.flusher.bench import Remote, Row, flushing, opened, prefer, rows, table, then
from tests.support import run_async

POISON = refused(400, "22P02", 'invalid input syntax for type integer: "x"', details="the details")


def poisoned(*numbers: int) -> Any:
    """Refuse the rows whose `n` is one of `numbers`."""

    def rule(_: str, row: Row) -> Reply | None:
        return POISON if row.get("n") in numbers else None

    return rule


# ---------------------------------------------------------------------------------------------- what travels together


@run_async
async def test_rows_travel_by_destination_operation_and_columns(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for number in range(3):
            await bench.outbox.put("events", {"n": number})
            await bench.outbox.put("events", {"n": number, "note": "x"})
            await bench.outbox.put("trades", {"n": number})
            await bench.outbox.put("sessions", {"session_id": str(number)}, operation="upsert")
            await bench.outbox.put("sessions", {"session_id": str(number)})
        report = await bench.outbox.drain()
        assert (report.delivered, report.pending, report.timed_out) == (15, 0, False)
        kinds = Counter((request.path, len(rows(request))) for request in bench.remote.requests)
        assert kinds == {
            ("events?on_conflict=id&columns=id,n", 3): 1,
            ("events?on_conflict=id&columns=id,n,note", 3): 1,
            ("trades?on_conflict=id&columns=id,n", 3): 1,
            ("sessions?on_conflict=session_id&columns=session_id", 3): 1,
            ("sessions?on_conflict=id&columns=id,session_id", 3): 1,
        }
        assert bench.remote.largest == 0


@run_async
async def test_a_batch_holds_no_more_rows_than_set(tmp_path: Path) -> None:
    async with opened(tmp_path, batch_rows=10) as bench:
        ids = await bench.put_many(25)
        assert (await bench.outbox.drain()).delivered == 25
        assert sorted(bench.remote.sizes) == [5, 10, 10]
        assert bench.remote.ids("events") == ids


@run_async
async def test_a_batch_holds_no_more_bytes_than_set_whatever_the_script(tmp_path: Path) -> None:
    async with opened(tmp_path, batch_bytes=10_000) as bench:
        for size in [900] * 30 + [20_000]:
            await bench.outbox.put("events", {"note": "€" * (size // 3)})
        assert (await bench.outbox.drain()).delivered == 31
        lengths = [len(request.body) for request in bench.remote.requests]
        assert sum(length > 10_000 for length in lengths) == 1  # the one that is too large travels alone
        assert len(lengths) == 4


@run_async
async def test_an_entry_arrives_once_although_it_is_sent_twice(tmp_path: Path) -> None:
    async with flushing(tmp_path) as bench:
        bench.remote.answers.append(then(bench.remote, Failure.TIMEOUT))
        ids = await bench.put_many(3)
        await bench.settled()
        assert sum(bench.remote.sizes) > 3  # control: it was sent again
        assert bench.remote.ids("events") == ids


@run_async
async def test_a_long_backlog_of_one_destination_does_not_shut_out_another(tmp_path: Path) -> None:
    async with opened(tmp_path, batch_rows=10, requests_in_flight=2) as bench:
        await bench.put_many(500)
        await bench.outbox.put("trades", {"n": 1})
        await bench.outbox.drain()
        order = [table(request) for request in bench.remote.requests]
        assert order.index("trades") <= 2


@run_async
async def test_requests_in_flight_stay_within_their_bound(tmp_path: Path) -> None:
    async with flushing(tmp_path, batch_rows=1, requests_in_flight=3) as bench:
        bench.remote.gate.clear()
        await bench.put_many(20)
        await bench.idle()
        assert bench.remote.held == 3
        bench.remote.gate.set()
        await bench.settled()
        assert bench.remote.largest == 3


@run_async
async def test_an_idle_flusher_looks_once_a_poll_and_no_more(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        before = bench.clock.rests
        await bench.live(60)
        assert 59 <= bench.clock.rests - before <= 62


# ---------------------------------------------------------------------------------------------- poison


@run_async
async def test_one_poison_row_among_500_dies_with_the_servers_words_and_the_rest_arrive(tmp_path: Path) -> None:
    remote = Remote(rule=poisoned(321))
    remote.rule = lambda _, row: (
        Reply(400, {}, b'{"code":"22P02","message":"bad n","details":"the details","hint":"the hint"}')
        if row["n"] == 321
        else None
    )
    async with opened(tmp_path, remote=remote) as bench:
        ids = await bench.put_many(500)
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead, report.pending) == (499, 1, 0)
        assert len(remote.requests) - 1 <= 2 * math.log2(500) + 2
        assert remote.ids("events") == ids[:321] + ids[322:]
        assert await bench.entry(322) == {
            "state": "dead",
            "waits": None,
            "attempts": 1,
            "next_attempt_at_ms": None,
            "error_status": 400,
            "error_code": "22P02",
            "error_message": "bad n",
            "error_details": "the details",
            "error_hint": "the hint",
        }
        assert (await bench.stats()).paused is None


@pytest.mark.parametrize("poison", [{0}, {499}, {0, 499}, {10, 11, 12}, set(range(64))], ids=str)
@run_async
async def test_any_poison_dies_and_nothing_else(tmp_path: Path, poison: set[int]) -> None:
    async with opened(tmp_path, remote=Remote(rule=poisoned(*poison))) as bench:
        await bench.put_many(500)
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (500 - len(poison), len(poison))
        assert {row["n"] for row in bench.remote.inserted.values()} == set(range(500)) - poison


@run_async
async def test_of_two_rows_that_only_clash_with_each_other_one_arrives(tmp_path: Path) -> None:
    """A unique index on `n`: neither row is bad by itself."""

    def commit(request: Request) -> Reply:
        seen = [row["n"] for row in [*bench.remote.inserted.values(), *rows(request)]]
        if len(set(seen)) < len(seen):
            return refused(409, "23505", "duplicate", details="Key (n)=(7) already exists.")
        return bench.remote.commit(request)

    async with opened(tmp_path) as bench:
        bench.remote.otherwise = commit
        for number in [*range(10), 7]:
            await bench.outbox.put("events", {"n": number})
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (10, 1)
        assert (await bench.entry(11))["error_details"] == "Key (n)=(7) already exists."
        assert (await bench.entry(8))["state"] == "delivered"


@run_async
async def test_our_own_duplicate_is_a_delivery_and_a_strangers_is_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        ours = await bench.outbox.put("events", {"n": 1})
        bench.remote.answers.append(refused(409, "23505", "dup", details=f"Key (id)=({ours.id}) already exists."))
        assert (await bench.outbox.drain()).delivered == 1
        await bench.outbox.put("events", {"n": 2})
        bench.remote.answers.append(refused(409, "23505", "dup", details=f"Key (id)=({ours.id}) already exists."))
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (0, 1)


@run_async
async def test_a_changed_payload_is_not_sent_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.put_many(3)
        await bench.store.transact(
            lambda connection: connection.execute("update outbox set payload = '{\"n\":666}' where seq = 2")
        )
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (2, 1)
        assert {row["n"] for row in bench.remote.inserted.values()} == {0, 2}
        entry = await bench.entry(2)
        assert (entry["error_code"], entry["error_message"]) == (
            "DIGEST",
            "the stored entry is not what was put; it was not sent",
        )


# ---------------------------------------------------------------------------------------------- upserts


async def upsert(bench: Any, key: object, value: object, destination: str = "state") -> Any:
    return await bench.outbox.put(destination, {"k": key, "v": value}, operation="upsert", on_conflict=("k",))


@run_async
async def test_of_upserts_to_one_row_the_last_is_sent_and_all_are_delivered(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for value in range(5):
            await upsert(bench, "a", value)
            await upsert(bench, "b", -value)
        report = await bench.outbox.drain()
        assert (report.delivered, report.pending) == (10, 0)
        assert bench.remote.sizes == [2]
        assert {key: row["v"] for (_, key), row in bench.remote.merged.items()} == {'["a"]': 4, '["b"]': -4}


@run_async
async def test_when_the_last_upsert_is_refused_the_one_before_it_is_sent(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: POISON if row["v"] in (3, 4) else None)
    async with opened(tmp_path, remote=remote) as bench:
        for value in range(5):
            await upsert(bench, "a", value)
        await upsert(bench, "b", 0)
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (4, 2)
        assert {key: row["v"] for (_, key), row in remote.merged.items()} == {'["a"]': 2, '["b"]': 0}
        states = [(await bench.entry(seq))["state"] for seq in range(1, 7)]
        assert states == ["delivered", "delivered", "delivered", "dead", "dead", "delivered"]


@run_async
async def test_decimals_that_are_one_float_are_two_rows(tmp_path: Path) -> None:
    from decimal import Decimal

    async with opened(tmp_path) as bench:
        for digits in ("1.00000000000000000001", "1.00000000000000000002"):
            await upsert(bench, Decimal(digits), digits)
        assert (await bench.outbox.drain()).delivered == 2
        assert sorted(row["v"] for request in bench.remote.requests for row in rows(request)) == [
            "1.00000000000000000001",
            "1.00000000000000000002",
        ]


@run_async
async def test_an_upsert_that_must_wait_waits_with_all_that_it_superseded(tmp_path: Path) -> None:
    """The refused winner is the last of its key; sending the others meanwhile would be a loop without a pause."""
    remote = Remote()
    remote.otherwise = refused(409, "23503", "no parent")
    async with opened(tmp_path, remote=remote, backoff_base_s=10) as bench:
        for value in range(5):
            await upsert(bench, "a", value)
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.live(4)
        assert [rows(request) for request in remote.requests] == [[{"k": "a", "v": 4}]]
        waits = await bench.store.read("select waits from outbox order by seq")
        assert waits == [("retry",), *[("turn",)] * 4]
        remote.otherwise = remote.commit
        assert (await bench.settled()).delivered == 5
        assert next(iter(remote.merged.values()))["v"] == 4
        task.cancel()


# ---------------------------------------------------------------------------------------------- what comes later


@run_async
async def test_a_row_without_its_parent_waits_while_others_flow_and_arrives_in_the_end(tmp_path: Path) -> None:
    parents: set[int] = set()
    remote = Remote(
        rule=lambda _, row: refused(409, "23503", "no parent") if row["n"] == 2 and 2 not in parents else None
    )
    async with flushing(tmp_path, remote=remote, backoff_base_s=8) as bench:
        await bench.put_many(5)
        await bench.idle()
        stats = await bench.stats()
        assert (stats.delivered, stats.pending, stats.paused) == (4, 1, None)
        entry = await bench.entry(3)
        assert (entry["state"], entry["waits"], entry["attempts"], entry["error_code"]) == (
            "pending",
            "retry",
            1,
            "23503",
        )
        assert entry["next_attempt_at_ms"] == bench.clock.now_ms() + 4001
        sent = len(remote.requests)
        await bench.live(3.9)
        assert len(remote.requests) == sent
        await bench.put_many(5)  # they do not have to suffer for it
        await bench.idle()
        assert (await bench.stats()).pending in (1, 2)  # the second round has an n = 2 of its own
        parents.add(2)
        stats = await bench.settled()
        assert (stats.delivered, stats.dead) == (10, 0)


@run_async
async def test_waiting_rows_travel_apart_from_fresh_ones(tmp_path: Path) -> None:
    """Else each orphan that comes due would make a whole batch of good rows be halved nine times."""
    remote = Remote(rule=lambda _, row: refused(409, "23503", "no parent") if row["n"] == 7 else None)
    async with opened(tmp_path, remote=remote, backoff_base_s=2) as bench:
        await bench.outbox.put("events", {"n": 7})
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        await bench.flusher.shut_down(1)
        await task
        assert (await bench.entry(1))["attempts"] == 1
        await asyncio.gather(*(bench.outbox.put("events", {"n": 1000 + n}) for n in range(100)))
        bench.clock.advance(1.5)  # the orphan is due
        sent = len(remote.requests)
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        assert sorted(remote.sizes[sent:]) == [1, 100]
        task.cancel()


@run_async
async def test_an_update_that_matches_nothing_waits_and_its_key_with_it(tmp_path: Path) -> None:
    async with flushing(tmp_path, backoff_base_s=2) as bench:
        await bench.outbox.put("state", {"v": 1}, operation="update", match={"k": "a"})
        await bench.outbox.put("state", {"v": 2}, operation="update", match={"k": "a"})
        await upsert(bench, "b", 0)
        await bench.outbox.put("state", {"v": 3}, operation="update", match={"k": "b"})
        await bench.idle()
        stats = await bench.stats()
        assert (stats.delivered, stats.pending, stats.paused) == (2, 2, None)
        assert (await bench.entry(1))["error_message"] == "no row matched: it is not there yet"
        bench.remote.merged["state", '["a"]'] = {"k": "a"}
        await bench.settled()
        assert bench.remote.merged["state", '["a"]'] == {"k": "a", "v": 2}
        assert bench.remote.merged["state", '["b"]'] == {"k": "b", "v": 3}


@run_async
async def test_a_refused_entry_does_not_freeze_its_ordering_key(tmp_path: Path) -> None:
    async with opened(tmp_path, remote=Remote(rule=poisoned(1))) as bench:
        for number in range(4):
            await bench.outbox.put("events", {"n": number}, key="k")
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (3, 1)
        assert [row["n"] for row in bench.remote.inserted.values()] == [0, 2, 3]


# ---------------------------------------------------------------------------------------------- sizes


@run_async
async def test_413_halves_the_next_batches_too_and_kills_only_a_lone_row(tmp_path: Path) -> None:
    def commit(request: Request) -> Reply:
        sent = rows(request)
        if len(sent) > 100 or any(row["n"] == 7 for row in sent):
            return Reply(413, {"content-type": "text/html"}, b"<h1>Request Entity Too Large</h1>")
        return bench.remote.commit(request)

    async with opened(tmp_path, requests_in_flight=1) as bench:
        bench.remote.otherwise = commit
        await asyncio.gather(
            *(bench.outbox.put("events", {"n": n, "note": "x" * (70_000 if n == 7 else 1)}) for n in range(2000))
        )
        report = await bench.outbox.drain()
        assert (report.delivered, report.dead) == (1999, 1)
        assert (await bench.entry(8))["error_status"] == 413
        # Control: at full size each of four batches of 500 costs three refused requests.
        assert sum(size == 500 for size in bench.remote.sizes) <= 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Reply(413, {}, b"<h1>Request Entity Too Large</h1>"), id="413"),
        pytest.param(refused(400, "PGRST102", "Empty or invalid json"), id="a body that was lost"),
        pytest.param(Reply(400, {}, b'{"code":10003,"message":"rule 10003"}'), id="a firewall's code"),
    ],
)
@run_async
async def test_what_a_proxy_says_of_one_small_row_neither_ends_it_nor_holds_the_others(
    tmp_path: Path, answer: Reply
) -> None:
    def commit(request: Request) -> Reply:
        return answer if any(row["n"] == 7 for row in rows(request)) else bench.remote.commit(request)

    async with flushing(tmp_path, requests_in_flight=1) as bench:
        bench.remote.otherwise = commit
        await bench.put_many(20)
        await bench.live(300)
        stats = await bench.stats()
        assert (stats.delivered, stats.pending, stats.dead) == (19, 1, 0)
        assert "proxy" in (await bench.entry(8))["error_message"]
        bench.remote.otherwise = bench.remote.commit
        assert (await bench.settled()).delivered == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refused(500, "57014", "canceling statement due to statement timeout"), id="57014"),
        pytest.param(Reply(544, {}, b""), id="544"),
        pytest.param(Reply(504, {}, b"<html>"), id="504"),
        pytest.param(Failure.TIMEOUT, id="missed deadline"),
        pytest.param(Reply(500, {}, b"?"), id="unknown"),
    ],
)
@run_async
async def test_a_batch_that_is_too_much_is_halved_until_it_fits_and_grows_back(tmp_path: Path, answer: Any) -> None:
    def commit(request: Request) -> Any:
        return answer if len(rows(request)) > limit else bench.remote.commit(request)

    async with flushing(tmp_path, requests_in_flight=1) as bench:
        bench.remote.otherwise, limit = commit, 200
        await bench.put_many(1000)
        await bench.settled()
        assert max(bench.remote.sizes) == 500
        assert sum(size > 200 for size in bench.remote.sizes) < 8
        limit = 10_000
        sent = len(bench.remote.requests)
        for _ in range(12):
            await bench.put_many(600)
            await bench.settled()
        assert max(bench.remote.sizes[sent:]) == 500


@run_async
async def test_every_request_of_a_run_carries_its_own_prefer(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.put_many(1)
        await upsert(bench, "a", 1)
        await bench.outbox.drain()
        assert [prefer(request) for request in bench.remote.requests] == [
            "return=minimal,resolution=ignore-duplicates,missing=default",
            "return=minimal,resolution=merge-duplicates,missing=default",
        ]
        assert json.loads(bench.remote.requests[1].body) == [{"k": "a", "v": 1}]
