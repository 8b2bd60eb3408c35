"""Reading what was just written: merged and local rows, what marks them, and what they refuse to guess."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest
from supabase_lite import SupabaseLite

import outbox.reads.merged as merged_room
from outbox import (
    ConfigError,
    Outbox,
    ReadSource,
    RemoteError,
    Settings,
    SupabaseClient,
    Undecidable,
    Unreachable,
)
from outbox.entry import StoredEntry
from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.reads.overlay import Change, Table
from outbox.reads.query import Query
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.support import run_async

TRADE = {"session_id": "s-1", "symbol": "EURUSD", "direction": 1, "pnl": 12.5, "timestamp": "2026-01-02T10:00:00Z"}
NOTHING = Reply(200, {}, b"[]")


def opened(folder: Path, remote: ScriptedTransport) -> Any:
    return Outbox.open(Settings(path=folder / "bot.db"), clock=ManualClock(), transport=remote)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["trade_id"] for row in rows]


@run_async
async def test_a_bot_sees_the_trade_that_it_has_just_logged(tmp_path: Path, clean_remote: SupabaseLite) -> None:
    values: dict[str, Any] = {"supabase_url": clean_remote.url, "supabase_key": clean_remote.secret_key}
    async with Outbox.open(Settings(path=tmp_path / "bot.db", **values)) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE | {"id": "T-1"})
        await outbox.drain()
        await client.log_trade(TRADE | {"id": "T-2", "timestamp": "2026-01-02T10:00:01Z"})
        await client.log_trade(TRADE | {"id": "T-3", "session_id": "s-2"})

        merged = await client.get_trades(session_id="s-1", source="merged")
        assert ids(merged) == ["T-2", "T-1"]
        assert (merged.source, merged.complete, merged.error) == (ReadSource.MERGED, True, None)
        assert ids(await client.get_trades(session_id="s-1")) == ["T-1"], "the control: Supabase has one of them"
        assert ids(await client.get_trades(session_id="s-1", source="merged", limit=1)) == ["T-2"]

        clean_remote.stop()
        away = await client.get_trades(session_id="s-1", source="merged")
        assert ids(away) == ["T-2", "T-1"], "the delivered copy too"
        assert (away.source, away.complete) == (ReadSource.LOCAL, False)
        assert isinstance(away.error, Unreachable)
        with pytest.raises(Unreachable):
            await client.get_trades(session_id="s-1")
        with pytest.raises(Unreachable):
            _ = [row async for row in client.rows("trades", source="merged")]


@run_async
async def test_a_session_is_one_row_whatever_is_pending_of_it(tmp_path: Path, clean_remote: SupabaseLite) -> None:
    values: dict[str, Any] = {"supabase_url": clean_remote.url, "supabase_key": clean_remote.secret_key}
    async with Outbox.open(Settings(path=tmp_path / "bot.db", **values)) as outbox:
        client = SupabaseClient(outbox)
        start = {"session_id": "s-1", "start_time": "2026-01-02T09:00:00Z", "status": "RUNNING"}
        await outbox.put("sessions", start, operation="upsert")
        await outbox.drain()
        await outbox.put("sessions", start | {"total_trades": 3}, operation="upsert")
        await outbox.put("sessions", {"status": "STOPPED"}, operation="update", match={"session_id": "s-1"})
        await outbox.put("sessions", start | {"session_id": "s-2"}, operation="upsert")

        stopped = await client.query("sessions", filters={"status": "STOPPED"}, source="merged")
        running = await client.query("sessions", filters={"status": "RUNNING"}, source="merged")
        assert [(row["session_id"], row["total_trades"]) for row in stopped] == [("s-1", 3)]
        assert [row["session_id"] for row in running] == ["s-2"]
        await outbox.drain()
        assert [row["session_id"] for row in await client.query("sessions", filters={"status": "STOPPED"})] == ["s-1"]


class Meddling(PostgrestTransport):
    """The real transport; before a read whose path holds `sign`, `meddle` has its moment."""

    def __init__(self, server: SupabaseLite, meddle: Callable[[], Awaitable[object]], sign: str = "=in.") -> None:
        super().__init__(f"{server.url}/rest/v1", server.secret_key)
        self._meddle: Callable[[], Awaitable[object]] | None = meddle
        self._sign = sign

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        if request.method == "GET" and self._sign in request.path and self._meddle is not None:
            meddle, self._meddle = self._meddle, None
            await meddle()
        return await super().send(request, deadline_s=deadline_s)


@run_async
async def test_what_is_delivered_while_a_merged_read_looks_is_not_written_over_with_what_came_before(
    tmp_path: Path, clean_remote: SupabaseLite
) -> None:
    state = {"session_id": "s-1", "start_time": "2026-01-02T09:00:00Z", "status": "RUNNING"}

    async def go_on() -> None:
        await outbox.put("sessions", state | {"total_trades": 2, "total_pnl": 5.5, "version": 2}, operation="upsert")
        await outbox.drain()

    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=Meddling(clean_remote, go_on)) as outbox:
        await outbox.put("sessions", state | {"total_trades": 1, "total_pnl": -1.0, "version": 1}, operation="upsert")
        (row,) = await SupabaseClient(outbox).query("sessions", source="merged")
        assert outbox.pending_now() == 0, "the control: both were delivered meanwhile"
    assert (row["total_trades"], row["total_pnl"], row["version"]) == (2, 5.5, 2)


@pytest.mark.parametrize("sign", ["select=", "=in.", "timestamp=lte."], ids=["at first", "by name", "the next page"])
@pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
@run_async
async def test_what_arrives_while_a_merged_read_looks_is_given_once_and_in_its_place(
    tmp_path: Path, clean_remote: SupabaseLite, sign: str, order: str
) -> None:
    """Inserts and updates between and behind the rows that are there, delivered before this or that request."""
    sign = sign.replace("lte", "gte") if order == "timestamp" else sign
    transport = Meddling(clean_remote, lambda: outbox.drain(), sign)
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=transport) as outbox:
        trades = [inserts(number)["row"] for number in range(40)]
        await outbox.put_many("trades", trades[::3])
        await outbox.drain()
        await outbox.put_many("trades", [row for number, row in enumerate(trades) if number % 3])
        for number in range(0, 40, 9):
            how = updates(number)
            await outbox.put("trades", how.pop("row"), **how)

        client = SupabaseClient(outbox)
        found = [row async for row in client.rows("trades", order=order, source="merged", page=5)]
        assert outbox.pending_now() == 0, "the control: all of it was delivered meanwhile"
        after = await client.query("trades", order=order)
    assert [row["id"] for row in found] == [row["id"] for row in after]
    assert [row["pnl"] for row in found] == [row["pnl"] for row in after]
    assert len(found) == 40


AWAY = [
    pytest.param(Failure.UNREACHABLE, id="no server"),
    pytest.param(Failure.TIMEOUT, id="no answer"),
    pytest.param(Reply(503, {}, b""), id="overloaded"),
    pytest.param(refused(503, "PGRST001"), id="no database"),
    pytest.param(Reply(429, {}, b""), id="too many requests"),
    pytest.param(refused(400, ""), id="the database died in the middle"),
]


@pytest.mark.parametrize("answer", AWAY)
@run_async
async def test_while_the_remote_end_is_away_merged_rows_are_local_ones_and_say_so(tmp_path: Path, answer: Any) -> None:
    remote = ScriptedTransport(otherwise=answer)
    async with opened(tmp_path, remote) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE | {"id": "T-1"})
        rows = await client.get_trades(source="merged")

    assert (ids(rows), rows.complete, rows.source) == (["T-1"], False, ReadSource.LOCAL)
    assert isinstance(rows.error, RemoteError)


@pytest.mark.parametrize("answer", [refused(400, "42703"), refused(401, "PGRST301"), refused(500, "57014")], ids=str)
@run_async
async def test_a_refused_query_is_an_error_of_a_merged_read_too(tmp_path: Path, answer: Reply) -> None:
    async with opened(tmp_path, ScriptedTransport(otherwise=answer)) as outbox:
        with pytest.raises(RemoteError):
            await SupabaseClient(outbox).get_trades(source="merged")


@run_async
async def test_without_a_url_merged_rows_are_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    async with Outbox.open(path=tmp_path / "bot.db") as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE)
        rows = await client.get_trades(source="merged")
    assert len(rows) == 1 and not rows.complete and isinstance(rows.error, ConfigError)


@run_async
async def test_more_than_a_merged_read_holds_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_room, "MOST_PENDING", 3)
    async with opened(tmp_path, ScriptedTransport(otherwise=NOTHING)) as outbox:
        client = SupabaseClient(outbox)
        for _ in range(3):
            await client.log_trade(TRADE)
        assert len(await client.get_trades(source="merged")) == 3  # the control
        await client.log_trade(TRADE)
        with pytest.raises(Undecidable, match="more than 3 entries are pending"):
            await client.get_trades(source="merged")


@run_async
async def test_what_a_shell_has_put_and_what_waits_is_pending_too(tmp_path: Path) -> None:
    async with opened(tmp_path, ScriptedTransport(otherwise=NOTHING)) as outbox:
        client = SupabaseClient(outbox)
        await outbox.put("events", {"event_type": "FIRST", "timestamp": "2026-01-02T10:00:00Z"}, key="k")
        await outbox.put("events", {"event_type": "SECOND", "timestamp": "2026-01-02T10:00:01Z"}, key="k")
        shell = sqlite3.connect(tmp_path / "bot.db")
        with shell:
            payload = '{"event_type": "NOTE", "timestamp": "2026-01-02T10:00:02Z"}'
            shell.execute("insert into outbox (destination, payload) values ('events', ?)", (payload,))
            waits = "update outbox set waits = 'retry', next_attempt_at_ms = 1 where payload like '%FIRST%'"
            shell.execute(waits)
        shell.close()
        for source in ("merged", "local"):
            rows = await client.query("events", order="timestamp", source=source)
            assert [row["event_type"] for row in rows] == ["FIRST", "SECOND", "NOTE"]


HARD = [
    pytest.param({"timestamp": "yesterday"}, {"order": "timestamp"}, id="a time that PostgreSQL would read"),
    pytest.param({"pnl": "a lot"}, {"filters": {"pnl": 1}}, id="no number"),
    pytest.param({}, {"filters": {"created_at": None}}, id="a default that is not known here"),
]


@pytest.mark.parametrize(("changes", "query"), HARD)
@run_async
async def test_a_pending_row_that_cannot_be_compared_is_a_typed_error(
    tmp_path: Path, changes: dict[str, object], query: dict[str, Any]
) -> None:
    async with opened(tmp_path, ScriptedTransport(otherwise=NOTHING)) as outbox:
        client = SupabaseClient(outbox)
        await outbox.put("trades", TRADE | changes)
        with pytest.raises(Undecidable):
            await client.query("trades", **query, source="merged")
        assert len(await client.query("trades", filters={"symbol": "EURUSD"}, source="merged")) == 1  # the control


@run_async
async def test_a_write_to_rows_that_are_told_apart_by_other_columns_is_a_typed_error(tmp_path: Path) -> None:
    async with opened(tmp_path, ScriptedTransport(otherwise=NOTHING)) as outbox:
        await outbox.put("trades", {"comment": "x"}, operation="update", match={"session_id": "s-1"})
        with pytest.raises(Undecidable, match="decided by other columns than id"):
            await SupabaseClient(outbox).get_trades(source="merged")


@run_async
async def test_the_rows_that_pending_entries_touch_are_asked_for_by_name_in_small_requests(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=NOTHING)
    async with opened(tmp_path, remote) as outbox:
        client = SupabaseClient(outbox)
        for _ in range(120):
            await client.log_trade(TRADE)
        assert len(await client.get_trades(limit=None, source="merged")) == 120

    named = [unquote(request.path) for request in remote.requests if "id=in.(" in request.path]
    assert [len(re.findall(r"[0-9a-f]{8}-", path)) for path in named] == [50, 50, 20]
    assert max(map(len, named)) < 4000


def inserts(number: int) -> dict[str, Any]:
    return {"row": TRADE | {"id": str(UUID(int=number)), "timestamp": f"2026-01-02T10:00:00.{number:06}Z"}}


def upserts(number: int) -> dict[str, Any]:
    return inserts(number) | {"operation": "upsert", "on_conflict": ("id",)}


def updates(number: int, **row: Any) -> dict[str, Any]:
    return {"row": row or {"pnl": 1.0}, "operation": "update", "match": {"id": str(UUID(int=number))}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("put", "few", "many"),
    [
        pytest.param(inserts, 3, 3, id="inserts"),
        pytest.param(upserts, 3, 3, id="upserts that say what the query asks"),
        pytest.param(updates, 1, 1, id="updates of other columns than the query asks for"),
        pytest.param(partial(updates, pnl=1.0, symbol="X", is_paper=True), 1, 1, id="updates of many such columns"),
        pytest.param(
            partial(updates, timestamp="2026-01-02T10:00:00Z"), 3, 21, id="the control: updates that may move a row"
        ),
    ],
)
@run_async
async def test_the_cost_of_a_merged_read_grows_with_its_limit_and_not_with_the_backlog(
    tmp_path: Path, put: Callable[[int], dict[str, Any]], few: int, many: int
) -> None:
    requests = []
    for pending in (100, 1000):
        (tmp_path / str(pending)).mkdir()
        remote = ScriptedTransport(otherwise=NOTHING)
        async with opened(tmp_path / str(pending), remote) as outbox:
            async with outbox.transaction(limit_s=60) as tx:
                for number in range(pending):
                    how = put(number)
                    await tx.put("trades", how.pop("row"), **how)
            rows = await SupabaseClient(outbox).get_trades("s-1", source="merged")
            assert len(rows) == (100 if put in (inserts, upserts) else 0)
        requests.append(len(remote.requests))
    assert requests == [few, many]


@pytest.mark.parametrize("source", ["merged", "local"])
@run_async
async def test_what_grows_with_the_backlog_is_not_done_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    threads: list[int] = []
    change, place = Table.change, Table.place

    def changing(table: Table, entry: StoredEntry) -> Change:
        threads.append(threading.get_ident())
        return change(table, entry)

    def placing(table: Table, query: Query, texts: Mapping[str, object]) -> tuple[Any, ...]:
        threads.append(threading.get_ident())
        return place(table, query, texts)

    monkeypatch.setattr(Table, "change", changing)
    monkeypatch.setattr(Table, "place", placing)
    async with opened(tmp_path, ScriptedTransport(otherwise=NOTHING)) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE)
        assert len(await client.get_trades(source=source)) == 1
    assert len(threads) >= 2 and threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("given", "most"), [pytest.param(3, 3, id="in slices"), pytest.param(1000, 10, id="the control: all at once")]
)
@run_async
async def test_pending_rows_are_given_in_slices_between_which_the_event_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int, most: int
) -> None:
    monkeypatch.setattr("outbox.reads.merged._GIVEN", given)
    turns, seen = 0, list[int]()

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened(tmp_path, ScriptedTransport(otherwise=NOTHING)) as outbox:
        client = SupabaseClient(outbox)
        for number in range(10):
            await client.log_trade(TRADE | {"id": f"T-{number}"})
        counting = asyncio.create_task(count())
        async for _ in client.rows("trades", source="merged"):
            seen.append(turns)
        counting.cancel()
    assert len(seen) == 10
    assert max(seen.count(turn) for turn in seen) == most


@run_async
async def test_a_local_read_does_not_take_defaults_for_what_only_the_remote_row_has(tmp_path: Path) -> None:
    """The session's start is pruned, or another bot's: its status is not known here, whatever the table's default."""
    start = {"session_id": "s-2", "start_time": "2026-01-02T09:00:00Z"}
    async with opened(tmp_path, ScriptedTransport(otherwise=Failure.UNREACHABLE)) as outbox:
        client = SupabaseClient(outbox)
        await outbox.put("sessions", start, operation="insert")
        assert len(await client.query("sessions", filters={"status": "RUNNING"}, source="local")) == 1  # the control
        await outbox.put("sessions", {"session_id": "s-1", "total_trades": 3}, operation="upsert")
        for query in ({"filters": {"status": "RUNNING"}}, {"select": "session_id,status"}):
            for source in ("local", "merged"):
                with pytest.raises(Undecidable, match="not known here"):
                    await client.query("sessions", source=source, **query)
        rows = await client.query("sessions", filters={"session_id": "s-1"}, source="local")
    assert [dict(row) for row in rows] == [{"session_id": "s-1", "total_trades": 3}]
