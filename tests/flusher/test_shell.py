"""What a plain INSERT from a sqlite3 shell becomes, and that no shell can stop the flusher."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.testing import Answer, refused
from tests.flusher.bench import Bench, Remote, flushing, opened, rows
from tests.support import run_async


def shell(bench: Bench, sql: str, *parameters: object) -> int:
    """Run one statement from another connection and return the rowid of what it put in."""
    connection = sqlite3.connect(bench.path, isolation_level=None)
    try:
        return connection.execute(sql, parameters).lastrowid or 0
    finally:
        connection.close()


@run_async
async def test_a_shells_entry_is_sent_within_one_poll(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        shell(bench, "insert into outbox (destination, payload) values ('events', json_object('n', 1, 'at', 'now'))")
        await bench.live(1)
        assert (await bench.stats()).delivered == 1
        (request,) = bench.remote.requests
        assert request.path == "events?on_conflict=id&columns=at,id,n"
        (row,) = rows(request)
        assert {"n": 1, "at": "now"}.items() <= row.items()
        assert len(row["id"]) == 36


@run_async
async def test_blanks_around_a_shells_object_do_no_harm(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        shell(bench, "insert into outbox (id, destination, payload) values ('i', 'events', ?)", ' \n\t{ "n" : 1 } \r\n')
        await bench.live(1)
        assert bench.remote.inserted == {("events", "i"): {"id": "i", "n": 1}}


@run_async
async def test_a_shells_upsert_and_update_keep_the_order_of_their_key(tmp_path: Path) -> None:
    async with opened(tmp_path, poll_s=1) as bench:
        await bench.outbox.put("sessions", {"session_id": "s", "pnl": 1}, operation="upsert")
        shell(bench, "insert into outbox (destination, operation, payload) values ('sessions', 'upsert', ?)",
              '{"session_id":"s","pnl":2}')  # fmt: skip
        shell(bench, "insert into outbox (destination, operation, payload, match) values ('sessions', 'update', ?, ?)",
              '{"pnl":3}', '{"session_id":"s"}')  # fmt: skip
        await bench.outbox.put("sessions", {"session_id": "s", "note": "x"}, operation="upsert")
        assert (await bench.outbox.drain()).delivered == 4
        assert list(bench.remote.merged.values()) == [{"session_id": "s", "pnl": 3, "note": "x"}]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"operation": "upsert"}, "conflict columns", id="an upsert decided by nothing"),
        pytest.param({"payload": "{}"}, "empty row", id="an empty object"),
        pytest.param({"payload": '{"a b":1}'}, "not a plain SQL identifier", id="a column that is no name"),
        pytest.param({"payload": '{"a;drop":1}'}, "not a plain SQL identifier", id="a column that is SQL"),
        pytest.param({"operation": "update"}, "which rows", id="an update of what"),
        pytest.param({"operation": "update", "match": "{}"}, "which rows", id="an update of everything"),
        pytest.param({"operation": "update", "match": "[1]"}, "JSON object", id="a match that is a list"),
        pytest.param({"operation": "update", "match": '"id"'}, "JSON object", id="a match that is a text"),
        pytest.param({"operation": "update", "match": "5"}, "JSON object", id="a match that is a number"),
        pytest.param({"operation": "update", "match": '{"n":1}'}, "matched and set", id="matched and set"),
        pytest.param({"operation": "update", "match": '{"limit":1}'}, "PostgREST", id="a match that is no filter"),
        pytest.param({"on_conflict": "n"}, "belongs to an upsert", id="an insert with conflict columns"),
        pytest.param({"match": '{"n":1}'}, "belongs to an update", id="an insert with a match"),
        pytest.param({"operation": "upsert", "on_conflict": "n, m"}, "identifier", id="a blank between columns"),
        pytest.param({"payload": '{"n":' + "9" * 5000 + "}"}, "", id="a number that Python does not read"),
        pytest.param({"payload": '{"n":' + "[" * 998 + "]" * 998 + "}"}, "", id="nested deeper than Python goes"),
    ],
)
@run_async
async def test_an_entry_that_cannot_be_sent_dies_with_its_reason_and_holds_back_no_other(
    tmp_path: Path, values: dict[str, str], reason: str
) -> None:
    values = {"destination": "events", "payload": '{"n":1}', **values}
    async with flushing(tmp_path, poll_s=1) as bench:
        marks = ", ".join("?" * len(values))
        seq = shell(bench, f"insert into outbox ({', '.join(values)}) values ({marks})", *values.values())
        shell(bench, "insert into outbox (destination, payload) values ('events', '{\"n\":2}')")
        await bench.outbox.put("events", {"n": 3})
        await bench.live(3)
        stats = await bench.stats()
        entry = await bench.entry(seq)
        if entry["state"] != "delivered":  # what only Python cannot read may be sent as it is
            assert (entry["state"], entry["error_code"]) == ("dead", "INVALID")
            assert reason in entry["error_message"]
            assert "nothing was written" not in entry["error_message"]
        assert (stats.pending, stats.delivered + stats.dead) == (0, 3)
        assert {2, 3} <= {row["n"] for row in bench.remote.inserted.values() if row["n"] in (2, 3)}


@run_async
async def test_a_thousand_shell_entries_are_read_step_by_step(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        numbers = "with recursive n(n) as (select 1 union all select n + 1 from n where n < 1200)"
        shell(bench, f"{numbers} insert into outbox (destination, payload) select 'events', json_object('n', n) from n")
        await bench.live(2)
        assert (await bench.stats()).delivered == 1200


@run_async
async def test_a_shells_entry_does_not_starve_behind_rows_that_keep_coming(tmp_path: Path) -> None:
    """It is read late: later rows of its lane have been handed out by then, and some are always under way."""
    async with opened(tmp_path, batch_rows=1, requests_in_flight=2, poll_s=1) as bench:
        shell(bench, "insert into outbox (id, destination, payload) values ('late', 'events', '{\"n\":-1}')")
        await bench.put_many(60)
        unread, send = bench.store.unread, bench.remote.send
        before: list[asyncio.Event] = []

        async def a_little_later(limit: int) -> Any:
            return await unread(limit) if len(bench.remote.requests) > 15 else []

        async def once_the_next_has_come(request: Request, *, deadline_s: float) -> Answer:
            answer = await send(request, deadline_s=deadline_s)
            if before:
                before.pop().set()
            before.append(asyncio.Event())
            next_one = before[0]
            for _ in range(20_000):  # a flusher that starts over lets the last one end first
                if next_one.is_set() or len(bench.remote.requests) == 61:
                    break
                await asyncio.sleep(0)
            return answer

        bench.store.unread = a_little_later  # type: ignore[method-assign]
        bench.remote.send = once_the_next_has_come  # type: ignore[method-assign]
        assert (await bench.outbox.drain()).delivered == 61
        assert bench.remote.ids("events").index("late") < 30


@run_async
async def test_an_entry_that_a_shell_deletes_or_settles_meanwhile_does_no_harm(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        bench.remote.gate.clear()
        await bench.put_many(3)
        await bench.idle()
        shell(bench, "delete from outbox where seq = 1")
        shell(bench, "update outbox set state = 'discarded' where seq = 2")
        bench.remote.gate.set()
        stats = await bench.settled()
        assert (stats.delivered, stats.removed, stats.discarded) == (1, 1, 1)


@run_async
async def test_a_dead_entry_that_a_shell_revives_is_sent(tmp_path: Path) -> None:
    remote = Remote(rule=lambda _, row: refused(400, "23514", "check") if bad else None)
    bad = True
    async with flushing(tmp_path, remote=remote, poll_s=1) as bench:
        await bench.put_many(1)
        await bench.idle()
        assert (await bench.stats()).dead == 1
        bad = False
        shell(bench, "update outbox set state = 'pending', waits = null where state = 'dead'")
        await bench.live(1)
        assert (await bench.stats()).delivered == 1


@run_async
async def test_a_shells_number_keeps_its_digits(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    def keep(request: Any) -> Reply:
        bodies.append(request.body)
        return bench.remote.commit(request)

    async with flushing(tmp_path, poll_s=1) as bench:
        bench.remote.otherwise = keep
        payload = '{"n":1.10000000000000000000000001,"m":12345678901234567890123}'
        shell(bench, "insert into outbox (id, destination, payload) values ('i', 'events', ?)", payload)
        await bench.live(1)
        assert bodies == [b'[{"id":"i",' + payload[1:].encode() + b"]"]
        assert json.loads(bodies[0])


_COPY = """
insert into main.outbox (id, destination, operation, state, key, payload, on_conflict, match, lane, waits, digest)
select id, destination, operation, state, key, payload, on_conflict, match, lane, waits, digest
  from other.outbox where seq > ?
"""


@run_async
async def test_rows_that_a_shell_copies_from_another_outbox_are_read_again_and_hold_back_no_other(
    tmp_path: Path,
) -> None:
    """They carry that file's lane numbers, and that they waited for their turn there."""
    (tmp_path / "other").mkdir()
    async with opened(tmp_path / "other", poll_s=1) as bench:
        other = bench.path
        for n in range(3):
            await bench.outbox.put("sessions", {"session_id": "s", "n": n}, operation="upsert")
        await bench.outbox.put("notes", {"n": 1}, id="copied")
        await bench.outbox.put("fills", {"n": 2, "only": "there"}, id="odd")

    async with flushing(tmp_path, poll_s=1) as bench:
        await bench.outbox.put("fills", {"n": 1}, id="mine")
        connection = sqlite3.connect(bench.path, isolation_level=None)
        connection.execute("attach ? as other", (str(other),))
        connection.execute(_COPY, (1,))  # without the first upsert: the second one is the first of its key here
        connection.close()
        await bench.live(3)
        stats = await bench.stats()
        assert (stats.pending, stats.dead, stats.delivered, stats.flusher.last_error) == (0, 0, 5, None)
        assert bench.remote.inserted == {
            ("fills", "mine"): {"id": "mine", "n": 1},
            ("notes", "copied"): {"id": "copied", "n": 1},
            ("fills", "odd"): {"id": "odd", "n": 2, "only": "there"},
        }
        assert list(bench.remote.merged.values()) == [{"session_id": "s", "n": 2}]
