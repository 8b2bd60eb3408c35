"""What an instrumented outbox tells OpenTelemetry, read back through the SDK."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from outbox import IdConflict, Outbox, Settings, StoreCorrupt
from outbox.metrics import instrument
from outbox.metrics.figures import FIGURES, Kind, Watched
from outbox.snapshot import Snapshot, take_in_thread
from outbox.testing import FakeRemote, ManualClock, Reply, refused
from tests.store.tools import shell, until
from tests.support import run_async


def rule(_table: str, row: Mapping[str, Any]) -> Reply | None:
    match row:
        case {"volume": 13}:
            return refused(400, "23514", "too much")
        case {"session_id": "missing"}:
            return refused(409, "23503", "no such session")
        case _:
            return None


class Collected:
    """The figures at one moment, by name and attributes; `outbox.name` is left out."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        data = reader.get_metrics_data()
        self.metrics = {} if data is None else {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }  # fmt: skip

    def values(self, name: str) -> dict[str, Any]:
        """Return the values by the values of their attributes, joined by a comma."""
        if name not in self.metrics:
            return {}
        return {
            ",".join(str(value) for key, value in (point.attributes or {}).items() if key != "outbox.name"): getattr(
                point, "value", getattr(point, "count", None)
            )
            for point in self.metrics[name].data.data_points
        }


def provider() -> tuple[MeterProvider, InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    return MeterProvider(metric_readers=[reader], shutdown_on_exit=False), reader


def opened(path: Path, clock: ManualClock, remote: FakeRemote) -> Any:
    return Outbox.open(Settings(path=path, source=path.stem, _env_file=None), clock=clock, transport=remote)


@run_async
async def test_every_figure_says_what_happened(tmp_path: Path) -> None:
    clock, remote, (meter_provider, reader) = ManualClock(), FakeRemote(rule=rule), provider()
    async with opened(tmp_path / "bot.db", clock, remote) as outbox:
        instrument(outbox, meter_provider)
        for volume in (1, 2, 13):
            await outbox.put("fills", {"volume": volume})
        await outbox.drain()
        await outbox.put("fills", {"session_id": "missing"})
        sent = len(remote.requests)
        async with outbox.flushing():
            await until(lambda: len(remote.requests) > sent)
            running = Collected(reader).values("outbox.flusher.running")
        remote.down()
        await outbox.put("events", {"event_type": "TICK"})
        sent = len(remote.requests)
        async with outbox.flushing():
            await until(lambda: len(remote.requests) > sent)
        clock.advance(90)
        found = Collected(reader)

    assert running == {"": 1}
    assert found.values("outbox.flusher.running") == {"": 0}
    assert found.values("outbox.entries.pending") == {"fills": 1, "events": 1}
    assert found.values("outbox.entries.delivered") == {"fills": 2, "events": 0}
    assert found.values("outbox.entries.rejected") == {"fills": 1, "events": 0}
    assert found.values("outbox.entries.dead") == {"fills": 1}
    assert found.values("outbox.entries.retries")["fills"] >= 1
    assert found.values("outbox.pauses.started")["unreachable"] == 1
    assert found.values("outbox.pauses.started")["unauthorized"] == 0
    assert found.values("outbox.pauses.active") == {"everything,unreachable": 1}
    assert found.values("outbox.put.duration") == {"fills": 4, "events": 1}
    assert found.values("outbox.entries.oldest_age")[""] >= 90
    assert found.values("outbox.db.size")[""] > 0
    assert found.values("outbox.wal.size")[""] > 0
    assert found.values("outbox.checkpoint.held_back") == {"": 0}
    assert set(found.metrics) == {figure.name for figure in FIGURES}
    assert all(found.metrics[figure.name].unit == figure.unit for figure in FIGURES)


@run_async
async def test_each_cause_of_red_is_a_figure_of_its_own(tmp_path: Path) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    async with opened(tmp_path / "bot.db", clock, FakeRemote()) as outbox:
        instrument(outbox, meter_provider)
        await outbox.put("fills", {"volume": 1})
        well = Collected(reader).values("outbox.health.cause")
        with shell(tmp_path / "bot.db") as connection:
            facts = {"loss": '{"what": "entries 3 to 5"}', "reserve_released_ms": "1", "files_lost_ms": "1"}
            connection.executemany("insert or replace into outbox_meta (name, value) values (?, ?)", facts.items())
        (tmp_path / "bot.db.corrupt-20260102T030405Z").touch()
        outbox._store._lock.sidecar.update(damage="page 7 is damaged")
        assert outbox._maintenance is not None
        assert outbox._maintenance.background is not None
        outbox._maintenance.background.task.cancel()
        await asyncio.wait({outbox._maintenance.background.task})
        found = Collected(reader).values("outbox.health.cause")
    causes = {"damage", "quarantine", "loss", "reserve_released", "files_lost", "task_died"}
    assert well == dict.fromkeys(causes, 0)  # the control
    assert found == dict.fromkeys(causes, 1)


@run_async
async def test_an_entry_that_waits_for_its_parent_shows(tmp_path: Path) -> None:
    clock, remote, (meter_provider, reader) = ManualClock(), FakeRemote(rule=rule), provider()
    async with opened(tmp_path / "bot.db", clock, remote) as outbox:
        instrument(outbox, meter_provider)
        before = Collected(reader).values("outbox.entries.postponed")
        await outbox.put("fills", {"session_id": "missing"})
        async with outbox.flushing():
            await until(lambda: bool(remote.requests))
        found = Collected(reader)
    assert before == {"": 0}
    assert found.values("outbox.entries.postponed") == {"": 1}
    assert found.values("outbox.entries.retries") == {"fills": 1}


@run_async
async def test_a_checkpoint_that_is_held_back_shows_for_how_long(tmp_path: Path) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    async with opened(tmp_path / "bot.db", clock, FakeRemote()) as outbox:
        instrument(outbox, meter_provider)
        since_ms = clock.now_ms()
        sql = "insert or replace into outbox_meta values ('checkpoint_held_ms', ?)"
        await outbox._store.transact(lambda connection: connection.execute(sql, (str(since_ms),)))
        clock.advance(42)
        assert Collected(reader).values("outbox.checkpoint.held_back") == {"": 42}


@run_async
async def test_a_put_that_fails_is_timed_with_its_error(tmp_path: Path) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    async with opened(tmp_path / "bot.db", clock, FakeRemote()) as outbox:
        instrument(outbox, meter_provider)
        await outbox.put("fills", {"volume": 1}, id="a")
        with pytest.raises(IdConflict):
            await outbox.put("fills", {"volume": 2}, id="a")
        future = outbox.put_nowait("fills", {"volume": 3})
        await future
        await asyncio.to_thread(lambda: outbox.put_threadsafe("fills", {"volume": 4}))
        await outbox.drain()
        assert Collected(reader).values("outbox.put.duration") == {"fills": 3, "fills,IdConflict": 1}


@run_async
async def test_timing_a_put_is_no_look_at_its_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, (meter_provider, _) = ManualClock(), provider()
    async with opened(tmp_path / "bot.db", clock, FakeRemote()) as outbox:
        instrument(outbox, meter_provider)
        await outbox.put("fills", {"volume": 1}, id="a")
        outbox.put_nowait("fills", {"volume": 2}, id="a")
        await outbox.put("fills", {"volume": 3})
    assert "put_nowait failed and its result was never read" in caplog.text


@run_async
async def test_the_figures_are_read_from_any_thread_while_the_event_loop_stands_still(tmp_path: Path) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    async with opened(tmp_path / "bot.db", clock, FakeRemote()) as outbox:
        instrument(outbox, meter_provider)
        await outbox.put("fills", {"volume": 1})
        found: list[Any] = []
        scrape = threading.Thread(target=lambda: found.append(Collected(reader).values("outbox.entries.pending")))
        scrape.start()
        scrape.join(200)  # the loop is blocked by this very line
        assert found == [{"fills": 1}]


@run_async
async def test_two_outboxes_are_told_apart_and_a_closed_one_falls_silent(tmp_path: Path) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    async with opened(tmp_path / "one.db", clock, FakeRemote()) as one:
        instrument(one, meter_provider)
        instrument(one, meter_provider)  # again: nothing is counted twice
        await one.put("fills", {"volume": 1})
        async with opened(tmp_path / "other.db", clock, FakeRemote()) as other:
            instrument(other, meter_provider, name="gold-bot")
            await other.put("fills", {"volume": 1})
            assert names(reader) == {"one": 1, "gold-bot": 1}
            assert Collected(reader).values("outbox.put.duration") == {"fills": 1}
        assert names(reader) == {"one": 1}
    assert names(reader) == {}


@run_async
async def test_two_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    async with (
        opened(tmp_path / "a" / "bot.db", clock, FakeRemote()) as one,
        opened(tmp_path / "b" / "bot.db", clock, FakeRemote()) as other,
    ):
        for outbox in (one, other):
            instrument(outbox, meter_provider)
            await outbox.put("fills", {"volume": 1})
        assert names(reader) == {"bot": 1, str((tmp_path / "b" / "bot.db").resolve()): 1}


def names(reader: InMemoryMetricReader) -> dict[str, float]:
    metric = Collected(reader).metrics.get("outbox.entries.pending")
    points: list[Any] = [] if metric is None else list(metric.data.data_points)
    return {point.attributes["outbox.name"]: point.value for point in points}


@run_async
async def test_a_file_that_cannot_be_read_is_said_and_the_other_one_still_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, (meter_provider, reader) = ManualClock(), provider()
    healthy = Watched.snapshot

    def snapshot(self: Watched) -> Snapshot:
        if self.outbox.path.name == "one.db":
            raise StoreCorrupt("one.db is damaged", path=self.outbox.path)
        return healthy(self)

    monkeypatch.setattr(Watched, "snapshot", snapshot)
    async with (
        opened(tmp_path / "one.db", clock, FakeRemote()) as one,
        opened(tmp_path / "other.db", clock, FakeRemote()) as other,
    ):
        for outbox in (one, other):
            instrument(outbox, meter_provider)
            await outbox.put("fills", {"volume": 1})
        assert names(reader) == {"other": 1}
    assert "metric cannot be read" in caplog.text


@pytest.mark.parametrize("shared", [True, False], ids=["as it is", "control: each figure begins anew"])
@run_async
async def test_a_collection_takes_one_snapshot_and_the_next_one_another(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def counted(path: Path, **beside: Any) -> Snapshot:
        taken.append(path)
        return take_in_thread(path, **beside)

    monkeypatch.setattr("outbox.operating.take_in_thread", counted)
    if not shared:
        monkeypatch.setattr(Watched, "begin", lambda self, figure: setattr(self, "_snapshot", None))
    meter_provider, reader = provider()
    async with (
        opened(tmp_path / "one.db", ManualClock(), FakeRemote()) as one,
        opened(tmp_path / "other.db", ManualClock(), FakeRemote()) as other,
    ):
        for outbox in (one, other):
            instrument(outbox, meter_provider)
        pending = []
        for entries in range(3):
            await one.put("fills", {"volume": 1})
            pending.append(Collected(reader).values("outbox.entries.pending"))
            if shared:
                assert sorted(path.name for path in taken) == sorted(["one.db", "other.db"] * (entries + 1))
    assert pending == [{"fills": 1}, {"fills": 2}, {"fills": 3}]
    assert shared or len(taken) > 3 * 2 * 8


@pytest.mark.slow
def test_the_library_itself_does_not_load_opentelemetry() -> None:
    code = (
        "import sys, outbox.outbox, outbox.cli.app\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0


def test_without_the_extra_the_import_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.metrics'] = None; sys.modules['opentelemetry'] = None\n"
        "try:\n    import outbox.metrics\n"
        "except ModuleNotFoundError as error:\n    assert 'pip install opentelemetry-api' in str(error)\n"
        "else:\n    raise SystemExit('it was imported')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0


def test_only_what_is_recorded_has_nothing_to_read() -> None:
    assert [figure.kind for figure in FIGURES if figure.read is None] == [Kind.HISTOGRAM]
