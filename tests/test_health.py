"""The health row: when it is sent, when not, and that sending never notices. A real file, a scripted remote end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outbox.fleet import Reporter
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure
from outbox.recovery.open import open_store
from outbox.snapshot import take
from outbox.stats import FlusherState, Stats
from outbox.store.rows import StoredPause
from outbox.store.store import Store
from outbox.testing import Answer, ManualClock, ScriptedTransport, refused
from tests.support import run_async

EVERYTHING = StoredPause.of(("everything", "", "unreachable", None, None, "down", 1, 0, 0))
ORDERS = StoredPause.of(("destination", "orders", "schema", 404, "PGRST205", "none", 1, 0, 0))


class Remote(ScriptedTransport):
    """Tells when it is asked, and remembers by when it had to answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked = asyncio.Event()
        self.deadlines: list[float] = []

    async def send(self, request: Request, *, deadline_s: float) -> Answer:
        self.deadlines.append(deadline_s)
        self.asked.set()
        return await super().send(request, deadline_s=deadline_s)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(request.body)[0] for request in self.requests]


@dataclass
class Bench:
    reporter: Reporter
    remote: Remote
    clock: ManualClock
    store: Store
    running: bool = True

    async def stats(self) -> Stats:
        flusher = FlusherState(started=True, running=self.running)
        return Stats.of(self.store.path, await take(self.store), now_ms=self.clock.now_ms(), flusher=flusher)

    async def a_minute(self) -> None:
        """Let a minute pass, and everything that follows upon it."""
        await self.rest()
        self.clock.advance(60)
        await self.rest()

    async def rest(self) -> None:
        """Wait until the reporter waits for the clock; the store answers from a thread."""
        async with asyncio.timeout(100):
            while not self.clock._alarms or any(alarm.is_set() for _, alarm in self.clock._alarms):  # noqa: ASYNC110
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def bench(folder: Path, **changes: Any) -> AsyncIterator[Bench]:
    clock, remote = ManualClock(), Remote()
    store = await open_store(folder / "bot.db", clock=clock)
    found: Bench
    values: dict[str, Any] = {"clock": clock, "source": "trend@desk", "every_s": 60.0, "tell": store.sidecar.tell_task}
    found = Bench(Reporter(lambda: found.stats(), lambda: remote, **values | changes), remote, clock, store)
    try:
        yield found
    finally:
        remote.gate.set()
        await found.reporter.stop()
        await store.close()


@run_async
async def test_a_report_goes_out_at_once_every_minute_and_at_the_end(tmp_path: Path) -> None:
    async with bench(tmp_path) as found:
        found.reporter.start()
        for _ in range(2):
            await found.a_minute()
        await found.reporter.stop()

        assert [row["stopped"] for row in found.remote.rows] == [False, False, False, True]
        (request, *_) = found.remote.requests
        assert request.path.startswith("outbox_health?on_conflict=source&columns=dead,")
        assert dict(request.headers)["prefer"] == "return=minimal,resolution=merge-duplicates,missing=default"
        assert max(found.remote.deadlines) <= 10
        assert found.remote.deadlines[-1] <= 2


@pytest.mark.parametrize(
    "changes", [{"every_s": 0.0}, {"source": None}, {"source": ""}], ids=["switched off", "no name", "an empty name"]
)
@run_async
async def test_nothing_is_reported_when_it_is_switched_off_or_nobody_has_a_name(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    async with bench(tmp_path, **changes) as found:
        found.reporter.start()
        await found.reporter.stop()
        assert found.remote.requests == []


@run_async
async def test_a_missing_table_is_asked_for_once_and_again_after_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as found:
        found.remote.otherwise = refused(404, "PGRST205", "Could not find the table")
        found.reporter.start()
        for _ in range(5):
            await found.a_minute()
        assert len(found.remote.requests) == 1
        assert [record.name for record in caplog.records] == ["outbox.health"]
        (record,) = caplog.records
        assert vars(record)["table"] == "outbox_health"
        assert vars(record)["code"] == "PGRST205"

        found.reporter.resume()
        await found.a_minute()
        await found.reporter.stop()
        assert len(found.remote.requests) == 2  # and no last one: there is no row that it would change


@run_async
async def test_a_table_from_before_the_column_health_accepts_the_report_without_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as found:
        found.remote.answers.append(refused(400, "PGRST204", "Could not find the 'health' column"))
        found.reporter.start()
        await found.a_minute()
        await found.reporter.stop()

        assert ["health" in row for row in found.remote.rows] == [True, False, False, False]


@run_async
async def test_a_table_that_lacks_more_than_that_column_is_given_up(tmp_path: Path) -> None:
    async with bench(tmp_path) as found:
        found.remote.otherwise = refused(400, "PGRST204", "Could not find the 'dead' column")
        found.reporter.start()
        await found.a_minute()
        await found.a_minute()
        assert ["health" in row for row in found.remote.rows] == [True, False]


@run_async
async def test_a_failure_is_logged_once_and_the_next_report_is_sent_as_usual(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as found:
        found.remote.answers.extend([Failure.TIMEOUT, Failure.CUT, refused(503, "PGRST002")])
        found.reporter.start()
        for _ in range(3):
            await found.a_minute()
        assert len(found.remote.requests) == 4
        assert len(caplog.records) == 1

        found.remote.answers.append(Failure.TIMEOUT)  # after one that passed, it is told again
        await found.a_minute()
        assert len(caplog.records) == 2


@run_async
async def test_nothing_is_reported_while_the_remote_end_is_down_or_the_flusher_is_not_running(tmp_path: Path) -> None:
    async with bench(tmp_path) as found:
        await found.store.save_pause(EVERYTHING)
        found.reporter.start()
        await found.a_minute()
        assert found.remote.requests == []

        await found.store.end_pauses([("everything", "")])
        found.running = False
        await found.a_minute()
        assert found.remote.requests == []

        found.running = True
        await found.store.save_pause(ORDERS)
        await found.a_minute()
        assert [row["paused"] for row in found.remote.rows] == ["schema"]


@run_async
async def test_a_remote_end_that_hangs_cannot_keep_the_outbox_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.fleet._LAST_S", 0.05)
    async with bench(tmp_path) as found:
        found.remote.gate.clear()
        found.reporter.start()
        await found.remote.asked.wait()
        async with asyncio.timeout(100):
            await found.reporter.stop()
        assert len(found.remote.requests) == 1


@run_async
async def test_an_error_of_ours_is_logged_and_the_reports_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as found:

        def broken(_: Request) -> Answer:
            raise RuntimeError("a defect")

        found.remote.answers.append(broken)
        found.reporter.start()
        await found.a_minute()
        assert len(found.remote.requests) == 2
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
