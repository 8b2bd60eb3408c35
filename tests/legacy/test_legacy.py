"""The old module's files move in: whole, cut short or spoilt, once, and whatever kills the process in between."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from supabase_lite import SupabaseLite

from outbox import InvalidRequest, LocalStorage, Outbox, SessionManager, Settings
from outbox.legacy import LegacyReport, OldFile, import_legacy
from outbox.legacy.old_text import OldText
from outbox.testing import ManualClock
from tests import forked
from tests.bot.home import ROOT, opened, puts, rows
from tests.support import run_async

TRADE = {"session_id": "ab12cd34", "trade_id": "11112222", "symbol": "EURUSD", "pnl": 12.5, "is_paper": False}
START = {"session_id": "ab12cd34", "start_time": "2025-12-31T20:00:00+00:00", "status": "RUNNING"}
STATE = {
    "session_id": "ab12cd34",
    "start_time": "2025-12-31T20:00:00.123456+00:00",
    "initial_balance": 10000,
    "symbols": ["EURUSD", "GBPUSD"],
    "status": "RUNNING",
    "last_heartbeat": "2025-12-31T23:59:00+00:00",
    "current_balance": 10020.5,
}
BARS = [{"time": 1_767_225_600 + 3600 * hour, "open": 1.08, "close": 1.081 + hour / 1000} for hour in range(5)]


def item(table: str, data: dict[str, Any], operation: str = "insert", **more: object) -> dict[str, Any]:
    return {"table": table, "data": data, "operation": operation, "timestamp": "2026-01-01T00:00:00+00:00", **more}


def event(**data: object) -> dict[str, Any]:
    row = {
        "session_id": "ab12cd34",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "event_type": "X",
        "data": json.dumps(data),
    }
    return item("events", row)


PENDING_NAME, STATE_NAME = "pending_uploads.json", ".session_state.json"
PENDING = [item("sessions", START), item("trades", TRADE), event(n=1), item("sessions", START, "upsert")]


def leave(folder: Path, pending: object = None, state: object = None, **caches: object) -> Path:
    """Write the files as the old module did, and return their folder."""
    old = folder / "old"
    (old / "cache").mkdir(parents=True, exist_ok=True)
    for name, content in ((PENDING_NAME, pending), (STATE_NAME, state)):
        if content is not None:
            (old / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    for symbol, bars in caches.items():
        (old / "cache" / f"{symbol}_bars.json").write_text(json.dumps(bars))
    return old


async def moved(folder: Path, source: str | None = None) -> LegacyReport:
    async with opened(folder, ManualClock()) as outbox:
        return await import_legacy(outbox, folder / "old", source=source)


def only(report: LegacyReport) -> OldFile:
    (file,) = report.files
    return file


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------ whole files


@run_async
async def test_everything_that_the_old_module_left_is_taken_and_nothing_is_deleted(tmp_path: Path) -> None:
    old = leave(tmp_path, PENDING, STATE, EURUSD=BARS, GBPUSD=BARS[:2])
    contents = {name: (old / name).read_bytes() for name in names(old)}

    report = await moved(tmp_path)

    assert (report.taken, report.left, len(report.files)) == (4 + 1 + 7, 0, 4)
    assert names(old) == [f"{name}.imported" for name in contents]
    assert {name: (old / f"{name}.imported").read_bytes() for name in contents} == contents
    entries = rows(tmp_path, "select id, destination, operation, key, on_conflict, payload from outbox order by seq")
    trade, event = entries[1]["id"], entries[2]["id"]
    assert [(row["destination"], row["operation"], row["key"], row["on_conflict"]) for row in entries] == [
        ("sessions", "insert", "ab12cd34", None),
        ("trades", "insert", trade, None),
        ("events", "insert", event, None),
        ("sessions", "upsert", "ab12cd34", "session_id"),
    ]
    assert json.loads(entries[1]["payload"]) == TRADE
    assert puts(tmp_path, "events")[0]["data"] == {"n": 1}


@run_async
async def test_the_session_that_the_old_bot_left_running_is_recovered_by_the_new_one(tmp_path: Path) -> None:
    leave(tmp_path, state=STATE)
    async with opened(tmp_path, ManualClock()) as outbox:
        await import_legacy(outbox, tmp_path / "old")
        sessions = SessionManager(outbox)

        assert await sessions.start_session(1, []) == "ab12cd34"

        assert sessions.is_recovered
        assert (sessions.initial_balance, sessions.current_balance) == (10_000.0, 10_020.5)
        assert sessions.symbols == ["EURUSD", "GBPUSD"]
        assert sessions.start_time is not None
        assert sessions.start_time.isoformat() == "2025-12-31T20:00:00.123000+00:00"
        assert sessions.check_day_boundary()  # the last heartbeat was on the day before


@run_async
async def test_bars_are_read_back_and_those_cached_since_stay(tmp_path: Path) -> None:
    leave(tmp_path, EURUSD=[*BARS, BARS[1]])
    async with opened(tmp_path, ManualClock()) as outbox:
        storage = LocalStorage(outbox)
        newer = {**BARS[0], "close": 9.0}
        await storage.cache_bars("EURUSD", [newer])

        report = await import_legacy(outbox, tmp_path / "old")

        assert await storage.load_cached_bars("EURUSD") == [newer, *BARS[1:]]
    assert (only(report).taken, only(report).known) == (4, 2)  # one is cached already, one appears twice


@run_async
async def test_two_equal_trades_of_one_file_stay_two(tmp_path: Path) -> None:
    leave(tmp_path, [item("trades", TRADE), item("trades", TRADE)])

    assert (await moved(tmp_path)).taken == 2
    assert len({row["id"] for row in rows(tmp_path, "select id from outbox")}) == 2


@run_async
async def test_a_row_that_brings_its_id_keeps_it(tmp_path: Path) -> None:
    leave(tmp_path, [item("trades", {**TRADE, "id": "018f0000-0000-7000-8000-000000000001"})])

    await moved(tmp_path)

    assert [row["id"] for row in rows(tmp_path, "select id from outbox")] == ["018f0000-0000-7000-8000-000000000001"]


@run_async
async def test_what_json_lacks_and_the_old_module_wrote_is_taken(tmp_path: Path) -> None:
    leave(tmp_path, [item("trades", {**TRADE, "pnl": math.nan, "comment": None})])

    assert (await moved(tmp_path)).taken == 1
    assert (puts(tmp_path, "trades")[0]["pnl"], puts(tmp_path, "trades")[0]["comment"]) == ("NaN", None)


@run_async
async def test_a_folder_without_old_files_is_no_error_and_one_that_is_not_there_is(tmp_path: Path) -> None:
    leave(tmp_path)
    assert await moved(tmp_path) == LegacyReport()
    with pytest.raises(InvalidRequest, match="is not a folder; nothing was changed"):
        async with opened(tmp_path, ManualClock()) as outbox:
            await import_legacy(outbox, tmp_path / "elsewhere")


# ------------------------------------------------------------------------------------------ twice


@run_async
async def test_running_it_twice_and_putting_the_files_back_doubles_nothing(tmp_path: Path) -> None:
    old = leave(tmp_path, [*PENDING, item("trades", TRADE)], STATE, EURUSD=BARS)
    await moved(tmp_path)
    before = content(tmp_path)
    assert await moved(tmp_path) == LegacyReport()

    for name in names(old):
        (old / name).rename(old / name.removesuffix(".imported"))
    again = await moved(tmp_path)

    assert (again.taken, sum(file.known for file in again.files)) == (0, 5 + 1 + 5)
    assert content(tmp_path) == before


def content(folder: Path) -> list[list[dict[str, Any]]]:
    queries = [
        "select id, destination, operation, key, payload from outbox order by seq",
        "select * from outbox_sessions order by source",
        "select * from outbox_bars order by symbol, time_ms",
    ]
    return [rows(folder, query) for query in queries]


def test_ids_that_are_not_made_of_what_an_item_holds_would_double_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above and of the kills below."""
    monkeypatch.setattr("outbox.legacy.uuid5", lambda *_: uuid.uuid4())

    @run_async
    async def twice() -> None:
        for _ in range(2):
            leave(tmp_path, PENDING)
            await moved(tmp_path)

    twice()
    assert len(puts(tmp_path, "trades")) == 2


# The process kills itself at the n-th call of one function.
KILLED = """
import asyncio, functools, os, signal, sys
from outbox import Outbox, Settings, legacy

path, folder, name, calls = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
legacy._CHUNK = 2
*owner, name = name.split(".")
owner = functools.reduce(getattr, owner, legacy)
there = getattr(owner, name)

def dies(*arguments):
    global calls
    calls -= 1
    if calls < 0:
        os.kill(os.getpid(), signal.SIGKILL) if os.name != "nt" else os._exit(9)
    return there(*arguments)

setattr(owner, name, dies)

async def main():
    async with Outbox.open(Settings(path=path, source="bot-a")) as outbox:
        await legacy.import_legacy(outbox, folder)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "calls", "stored"),
    [
        pytest.param("_put", 1, 0, id="inside the first transaction"),
        pytest.param("_put", 3, 2, id="inside the second one"),
        pytest.param("old_text.OldText.rename", 0, 5, id="between the commit and the renaming"),
        pytest.param("old_text.sync_folder", 0, 5, id="after the renaming"),
        pytest.param("old_text.OldText.rename", 1, 5, id="between the session's commit and its renaming"),
        pytest.param("old_text.OldText.rename", 2, 5, id="between the bars' commit and their renaming"),
    ],
)
def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(
    tmp_path: Path, name: str, calls: int, stored: int
) -> None:
    pending = [*PENDING, item("trades", TRADE)]  # the second trade equals the first
    old = leave(tmp_path, pending, STATE, EURUSD=BARS)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "bot.db"), str(old), name, str(calls)]
    done = forked.run(command, cwd=ROOT, timeout=200, capture_output=True, text=True)
    assert done.returncode in (-9, 9), done.stderr
    assert len(rows(tmp_path, "select id from outbox")) == stored

    run_async(moved)(tmp_path)

    whole = tmp_path / "whole"
    leave(whole, pending, STATE, EURUSD=BARS)
    run_async(moved)(whole)
    assert content(tmp_path) == content(whole)
    assert all(name.endswith(".imported") for name in names(old))


# ------------------------------------------------------------------------------------------ broken files


@run_async
async def test_of_a_file_that_was_cut_short_the_rest_is_reported_with_its_place_and_kept(tmp_path: Path) -> None:
    text = json.dumps([item("trades", {**TRADE, "n": n}) for n in range(3)], indent=2)
    cut = text.index('"n": 2')
    old = leave(tmp_path, text[:cut])

    file = only(await moved(tmp_path))

    assert (file.taken, [row["n"] for row in puts(tmp_path, "trades")]) == (2, [0, 1])
    broken, end = file.left
    start = text.index("{", text.index('"n": 1') + 20)
    assert (broken.byte, broken.line, broken.bytes) == (start, text[:start].count("\n") + 1, cut - start)
    assert (end.byte, end.bytes, "never written" in end.why) == (cut, 0, True)
    assert file.rest == old / f"{PENDING_NAME}.unread"
    assert file.rest is not None
    assert file.rest.read_text() == text[start:cut].strip() + "\n"
    if os.name != "nt":
        assert file.rest.stat().st_mode & 0o077 == 0
    assert names(old) == [f"{PENDING_NAME}.imported", f"{PENDING_NAME}.unread"]


@run_async
async def test_an_item_that_cannot_be_put_costs_none_of_its_neighbours(tmp_path: Path) -> None:
    bad: Sequence[Any] = [
        item("no table", {"n": 1}),
        item("trades", {}),
        item("trades", {"n": 1}, "delete"),
        item("sessions", {"status": "x"}, "upsert"),
        {"table": "trades"},
        17,
    ]
    leave(tmp_path, [item("trades", TRADE), *bad, item("trades", {**TRADE, "n": 2})])

    file = only(await moved(tmp_path))

    assert (file.taken, len(file.left)) == (2, len(bad))
    assert [left.why for left in file.left][:2] == [
        (
            'destination: "no table" is not a plain SQL identifier'
            " (ASCII letters, digits and underscores, no digit first, at most 63 characters)"
        ),
        "trades: a row needs at least one column",
    ]
    assert file.rest is not None
    rest = file.rest.read_text()
    assert all(part in rest for part in ('"no table"', '"data": {}', '"delete"', '"status": "x"', "17"))


@run_async
async def test_a_file_that_a_crash_has_emptied_is_reported(tmp_path: Path) -> None:
    leave(tmp_path, "")

    file = only(await moved(tmp_path))

    assert (file.taken, file.rest) == (0, None)
    assert "is empty" in file.left[0].why


@run_async
async def test_bytes_that_are_no_utf8_are_left_and_not_guessed(tmp_path: Path) -> None:
    old = leave(tmp_path, [item("trades", TRADE), item("trades", {**TRADE, "comment": "caf_"})])
    path = old / PENDING_NAME
    path.write_bytes(path.read_bytes().replace(b"caf_", b"caf\xe9"))

    file = only(await moved(tmp_path))

    assert (file.taken, [left.why for left in file.left]) == (1, ["it is not UTF-8"])
    assert file.rest is not None
    assert b"caf\xe9" in file.rest.read_bytes()


@run_async
async def test_of_a_state_that_was_cut_short_what_is_whole_is_recovered(tmp_path: Path) -> None:
    text = json.dumps(STATE, indent=2)
    leave(tmp_path, state=text[: text.index("10000") + 3])  # 100 is not the balance

    file = only(await moved(tmp_path))

    (session,) = rows(tmp_path, "select * from outbox_sessions")
    assert (session["session_id"], session["status"], session["initial_balance"]) == ("ab12cd34", "RUNNING", None)
    assert (file.taken, file.left[0].why) == (
        1,
        "the state is cut short; taken before: session_id, start_time",
    )


@pytest.mark.parametrize(
    ("state", "why"),
    [
        pytest.param({**STATE, "session_id": ""}, "session_id: is missing", id="no id"),
        pytest.param({"last_heartbeat": 3, "session_id": "x"}, "last_heartbeat: is not a string", id="another kind"),
        pytest.param({"session_id": "x"}, "start_time: is missing, and so is last_heartbeat", id="no time"),
        pytest.param({**STATE, "start_time": "soon"}, "no session to recover: Invalid isoformat", id="no date"),
        pytest.param("{", "session_id: is missing", id="nothing"),
        pytest.param(
            {**STATE, "start_time": "0001-01-01T00:00:00+01:00"}, "start_time: is outside of the years", id="year 0"
        ),
        pytest.param(
            {**STATE, "last_heartbeat": "9999-12-31T23:59:59-01:00"}, "last_heartbeat: is outside", id="year 10000"
        ),
        pytest.param({**STATE, "symbols": 5}, "symbols: must be a list of strings", id="symbols of another kind"),
    ],
)
@run_async
async def test_a_state_without_a_session_is_kept_and_reported(tmp_path: Path, state: object, why: str) -> None:
    leave(tmp_path, state=state)

    file = only(await moved(tmp_path))

    assert file.taken == 0
    assert any(why in left.why for left in file.left)
    assert file.rest is not None
    assert rows(tmp_path, "select * from outbox_sessions") == []


@run_async
async def test_a_session_of_the_new_bots_own_is_not_replaced(tmp_path: Path) -> None:
    leave(tmp_path, state=STATE)
    async with opened(tmp_path, ManualClock()) as outbox:
        own = await SessionManager(outbox).start_session(1, [])
        taken = await import_legacy(outbox, tmp_path / "old")
        leave(tmp_path, state=STATE)
        other = await import_legacy(outbox, tmp_path / "old", source="bot-b")

    assert f"has a session of its own already, {own} (RUNNING)" in only(taken).left[0].why
    assert (taken.taken, other.taken) == (0, 1)
    found = rows(tmp_path, "select source, session_id from outbox_sessions order by source")
    assert [row["session_id"] for row in found] == [own, "ab12cd34"]


@run_async
async def test_a_session_that_has_ended_since_is_not_revived(tmp_path: Path) -> None:
    leave(tmp_path, state=STATE)
    async with opened(tmp_path, ManualClock()) as outbox:
        await import_legacy(outbox, tmp_path / "old")
        sessions = SessionManager(outbox)
        await sessions.start_session(1, [])
        await sessions.end_session({})
        leave(tmp_path, state=STATE)
        again = await import_legacy(outbox, tmp_path / "old")

    assert (only(again).taken, only(again).known) == (0, 1)
    assert rows(tmp_path, "select status from outbox_sessions") == [{"status": "STOPPED"}]


@run_async
async def test_a_bar_without_a_time_is_left_and_the_others_are_taken(tmp_path: Path) -> None:
    leave(tmp_path, EURUSD=[{"open": 1.0}, *BARS])

    file = only(await moved(tmp_path))

    assert (file.taken, len(file.left)) == (5, 1)
    assert "a bar needs its time" in file.left[0].why


# ------------------------------------------------------------------------------------------ the old bot still runs


@run_async
async def test_what_the_old_bot_writes_meanwhile_is_taken_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = leave(tmp_path, [item("trades", TRADE)])
    rename, late = OldText.rename, [item("trades", TRADE), item("trades", {**TRADE, "n": 2})]

    def meanwhile(*arguments: Any) -> Any:
        if late:
            (old / PENDING_NAME).write_text(json.dumps(late))
            late.clear()
        return rename(*arguments)

    monkeypatch.setattr(OldText, "rename", meanwhile)
    file = only(await moved(tmp_path))

    assert (file.taken, file.known) == (2, 0)
    assert len(puts(tmp_path, "trades")) == 2
    assert names(old) == [f"{PENDING_NAME}.imported"]


@run_async
async def test_a_file_that_never_stands_still_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OldText, "rename", lambda *_: None)
    old = leave(tmp_path, [item("trades", TRADE)])

    file = only(await moved(tmp_path))

    assert (file.taken, file.renamed) == (1, None)
    assert "stop the old bot first; it stays as it is" in file.left[0].why
    assert names(old) == [PENDING_NAME]


@run_async
async def test_a_file_that_cannot_be_renamed_is_reported_and_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    leave(tmp_path, [item("trades", TRADE)])
    with monkeypatch.context() as patched:
        patched.setattr(OldText, "rename", refused)
        file = only(await moved(tmp_path))
    assert "cannot be renamed: Permission denied" in file.left[0].why

    assert (only(await moved(tmp_path)).taken, len(puts(tmp_path, "trades"))) == (0, 1)


@run_async
async def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    old = leave(tmp_path, '[{"table": "x", "data": 1}]')
    await moved(tmp_path)
    leave(tmp_path, '[{"table": "y", "data": 1}]')

    await moved(tmp_path)

    assert names(old) == [
        f"{PENDING_NAME}.imported",
        f"{PENDING_NAME}.imported-2",
        f"{PENDING_NAME}.unread",
        f"{PENDING_NAME}.unread-2",
    ]


@run_async
async def test_a_bots_puts_pass_between_the_pieces_of_a_large_file(tmp_path: Path) -> None:
    leave(tmp_path, [item("trades", {**TRADE, "n": n}) for n in range(1000)])
    between: list[int] = []
    async with Outbox.open(Settings(path=tmp_path / "bot.db")) as outbox:
        work = asyncio.create_task(import_legacy(outbox, tmp_path / "old"))
        while not work.done():
            receipt = await outbox.put("events", {"event_type": "TICK", "timestamp": "2026-01-01T00:00:00Z"})
            between.append(receipt.seq)
        assert (await work).taken == 1000
    assert any(1 < seq < 1000 for seq in between)


@run_async
async def test_progress_is_reported_in_bytes_of_all_files(tmp_path: Path) -> None:
    old = leave(tmp_path, [item("trades", {**TRADE, "n": n}) for n in range(1000)], STATE, EURUSD=BARS)
    total = sum(path.stat().st_size for path in [old / PENDING_NAME, old / STATE_NAME, *(old / "cache").iterdir()])
    told: list[tuple[int, int]] = []
    async with opened(tmp_path, ManualClock()) as outbox:
        await import_legacy(outbox, old, progress=lambda *how_far: told.append(how_far))
    assert len(told) == 5 + 3  # each chunk of the entries, and each file
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {of for _, of in told} == {total}
    assert told[-1] == (total, total)


# ------------------------------------------------------------------------------------------ on to the remote end


@run_async
async def test_what_was_moved_in_arrives_once_and_a_start_that_had_arrived_is_a_dead_letter(
    tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[Any]
) -> None:
    trade = {**TRADE, "timestamp": "2026-01-01T00:00:00+00:00"}
    sql.execute("insert into sessions (session_id, start_time, status) values ('ab12cd34', now(), 'STOPPED')")
    settings = Settings(
        path=tmp_path / "bot.db",
        source="bot-a",
        supabase_url=clean_remote.url,
        supabase_key=SecretStr(clean_remote.secret_key),
    )
    for _ in range(2):
        leave(tmp_path, [item("sessions", START), item("trades", trade), item("trades", trade), event(n=1)])
        async with Outbox.open(settings) as outbox:
            await import_legacy(outbox, tmp_path / "old")
            report = await outbox.drain(timeout=200)
            assert (report.pending, report.dead) == (0, 1)

    assert sql.execute("select count(*), count(distinct id) from trades").fetchall() == [(2, 2)]
    assert sql.execute("select data ->> 'n' from events").fetchall() == [("1",)]
    assert sql.execute("select status from sessions").fetchall() == [("STOPPED",)]
    assert [row["destination"] for row in rows(tmp_path, "select * from outbox where state = 'dead'")] == ["sessions"]
