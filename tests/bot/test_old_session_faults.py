"""Faults of the old module's session and local files, each shown on a re-enactment and gone here.

Every test has one check. The old behaviour must fail it, which proves that it can fail; the new one must pass it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from outbox import LocalStorage, Outbox, SessionManager, Settings
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import ManualClock, ScriptedTransport, accepted
from tests import forked
from tests.bot.home import ROOT, VICTIM, opened, puts
from tests.support import run_async

DAY = 86400.0


# ------------------------------------------------------------------------------------------ the old behaviour


@dataclass
class Server:
    """The remote sessions, by id, with what is known of each; `up`: whether it can be reached."""

    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    up: bool = True

    def change(self, session_id: str, row: dict[str, Any]) -> None:
        if not self.up:
            raise ConnectionError
        self.sessions.setdefault(session_id, {}).update(row)

    def __call__(self, request: Request) -> Reply | Failure:
        """Answer as PostgREST does; what is no session is taken and forgotten."""
        if not self.up:
            return Failure.UNREACHABLE
        for row in json.loads(request.body) if request.path.startswith("sessions") else ():
            self.change(row["session_id"], row)
        return accepted(request)


class OldSession:
    """The session manager: a state file written on the event loop, and errors that nobody hears."""

    def __init__(self, folder: Path, server: Server, clock: ManualClock) -> None:
        self.file = folder / "state.json"
        self.server = server
        self.clock = clock
        self.session_id = ""
        self.start_time: datetime | None = None
        self.day_start: datetime | None = None

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)

    def today(self) -> datetime:
        return self.now().replace(hour=0, minute=0, second=0, microsecond=0)

    async def start_session(self, balance: float, symbols: list[str]) -> str:
        if self.file.exists() and (state := json.loads(self.file.read_text()))["status"] == "RUNNING":
            self.session_id = state["session_id"]
            return self.session_id
        self.session_id = f"old-{self.clock.now_ms()}"
        self.start_time, self.day_start = self.now(), self.today()
        self.file.write_text(json.dumps({"session_id": self.session_id, "status": "RUNNING"}))
        self.server.change(self.session_id, {"status": "RUNNING"})
        return self.session_id

    async def end_session(self, stats: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            self.server.change(self.session_id, {"status": "STOPPED", **stats})
        self.file.unlink()

    async def update_heartbeat(self, balance: float) -> None:
        state = json.loads(self.file.read_text())
        self.file.write_text(json.dumps({**state, "balance": balance}))

    def check_day_boundary(self) -> bool:
        if self.day_start is None or self.today() <= self.day_start:
            self.day_start = self.day_start or self.today()
            return False
        self.day_start = self.today()
        return True


class OldFiles:
    """The pending file and the bar cache: each a JSON file, read and written as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def load_pending(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = json.loads((self.folder / "pending.json").read_text())
        except (OSError, ValueError):
            return []
        return found

    async def cache_bars(self, symbol: str, bars: list[dict[str, Any]]) -> None:
        (self.folder / f"{symbol}.json").write_text(json.dumps(bars))

    async def load_cached_bars(self, symbol: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / f"{symbol}.json").read_text())
        return found


# ------------------------------------------------------------------------------------------ 7. the pending file


async def check_that_what_was_saved_is_still_there(storage: OldFiles | LocalStorage) -> None:
    saved = [item["data"]["trade_id"] for item in await storage.load_pending()]
    assert saved == ["first"], "the save that was cut off has left its own items, or lost those before"


def save_until_it_dies(what: str, place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = forked.run(
        [sys.executable, VICTIM, what, str(place)],
        env=environment,
        cwd=place.parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.stdout.splitlines() == ['["saved", "first"]']
    assert process.returncode != 0, "it has not died"
    assert "Traceback" not in process.stderr


@run_async
async def test_fault_7_a_crash_in_the_middle_of_a_save_emptied_the_pending_file(tmp_path: Path) -> None:
    save_until_it_dies("save-old", tmp_path)

    with pytest.raises(AssertionError):
        await check_that_what_was_saved_is_still_there(OldFiles(tmp_path))


@run_async
async def test_fault_7_is_gone_a_save_is_all_or_nothing_and_loses_nothing_before_it(tmp_path: Path) -> None:
    save_until_it_dies("save", tmp_path / "bot.db")

    async with Outbox.open(Settings(path=tmp_path / "bot.db")) as outbox:
        await check_that_what_was_saved_is_still_there(LocalStorage(outbox))


# ------------------------------------------------------------------------------------------ 8. the end of a session


async def check_that_an_end_during_an_outage_is_known_after_it(
    session: OldSession | SessionManager, server: Server, outbox: Outbox | None
) -> None:
    session_id = await session.start_session(1, ["EURUSD"])
    if outbox is not None:
        await outbox.drain()
    server.up = False
    await session.end_session({"total_trades": 3})
    server.up = True
    if outbox is not None:
        await outbox.drain()
    assert server.sessions[session_id]["status"] == "STOPPED", "it stays RUNNING for ever"
    assert server.sessions[session_id]["total_trades"] == 3


@run_async
async def test_fault_8_an_end_during_an_outage_left_the_session_running_for_ever(tmp_path: Path) -> None:
    server = Server()
    old = OldSession(tmp_path, server, ManualClock())

    with pytest.raises(AssertionError):
        await check_that_an_end_during_an_outage_is_known_after_it(old, server, None)
    assert not old.file.exists(), "and nothing is left that knows of it"


@run_async
async def test_fault_8_is_gone_the_end_is_kept_and_sent_when_the_outage_is_over(tmp_path: Path) -> None:
    server = Server()
    transport = ScriptedTransport(otherwise=server)
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), clock=ManualClock(), transport=transport) as outbox:
        await check_that_an_end_during_an_outage_is_known_after_it(SessionManager(outbox), server, outbox)
    assert len(puts(tmp_path, "sessions")) == 2


# ------------------------------------------------------------------------------------------ 9. a recovered session


async def check_that_a_recovered_session_knows_its_times(
    session: OldSession | SessionManager, clock: ManualClock, started: datetime | None
) -> None:
    clock.advance(DAY)
    await session.start_session(1, ["EURUSD"])
    assert session.start_time is not None, "it does not know when it began"
    assert session.start_time == started
    assert session.day_start is not None, "it does not know its day"
    assert session.check_day_boundary(), "it has slept over midnight and does not notice"


@run_async
async def test_fault_9_a_recovered_session_had_no_times(tmp_path: Path) -> None:
    clock, server = ManualClock(), Server()
    first = OldSession(tmp_path, server, clock)
    await first.start_session(1, ["EURUSD"])

    recovered = OldSession(tmp_path, server, clock)
    with pytest.raises(AssertionError):
        await check_that_a_recovered_session_knows_its_times(recovered, clock, first.start_time)
    assert (recovered.start_time, recovered.day_start, recovered.check_day_boundary()) == (None, None, False)


@run_async
async def test_fault_9_is_gone_a_recovered_session_has_its_times(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        first = SessionManager(outbox)
        await first.start_session(1, ["EURUSD"])
        started = first.start_time
    async with opened(tmp_path, clock) as outbox:
        await check_that_a_recovered_session_knows_its_times(SessionManager(outbox), clock, started)


# ------------------------------------------------------------------------------------------ 10. files on the event loop


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The threads that have opened a file or run a statement."""
    threads: list[int] = []
    original = io.open

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.get_ident())
        return original(*arguments, **options)

    monkeypatch.setattr(io, "open", noted)  # what pathlib calls
    yield threads
    assert threads, "nothing was seen, so nothing was checked"


async def check_that_the_event_loop_does_no_file_work(
    session: OldSession | SessionManager, storage: OldFiles | LocalStorage, workers: list[int]
) -> None:
    workers.clear()
    await session.update_heartbeat(2)
    await storage.cache_bars("EURUSD", [{"time": 1, "close": 1.5}])
    assert await storage.load_cached_bars("EURUSD") == [{"time": 1, "close": 1.5}]
    assert threading.get_ident() not in workers, "the event loop stood still for a file"


@run_async
async def test_fault_10_heartbeat_and_caches_wrote_files_on_the_event_loop(tmp_path: Path, workers: list[int]) -> None:
    old = OldSession(tmp_path, Server(), ManualClock())
    await old.start_session(1, ["EURUSD"])

    with pytest.raises(AssertionError):
        await check_that_the_event_loop_does_no_file_work(old, OldFiles(tmp_path), workers)


@run_async
async def test_fault_10_is_gone_every_statement_runs_in_a_thread_of_its_own(tmp_path: Path, workers: list[int]) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        session = SessionManager(outbox)
        await session.start_session(1, ["EURUSD"])
        statements: list[str] = []

        def ran(sql: str) -> None:
            statements.append(sql)
            workers.append(threading.get_ident())

        for connection in (outbox._store.writer.commits.connection, outbox._store._reader):
            await connection.set_trace_callback(ran)

        await check_that_the_event_loop_does_no_file_work(session, LocalStorage(outbox), workers)

        assert any("update outbox_sessions" in sql for sql in statements)
        assert any("insert into outbox_bars" in sql for sql in statements)
        assert any("from outbox_bars" in sql for sql in statements)
