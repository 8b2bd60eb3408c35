"""What onlookers are told of the flusher: it stands beside the file, costs no commit and is written rarely."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from outbox.errors import StoreBusy
from outbox.store import lock
from outbox.store.sidecar import Flushing, Sidecar, parse
from tests.flusher.bench import Bench, flushing, opened
from tests.support import run_async

FOREIGN_WORDS = "whatever a library says, a password perhaps"


def written(bench: Bench) -> Flushing:
    """Return what stands in the sidecar, as another process reads it."""
    found = parse(bench.path.with_name("outbox.db.lock").read_bytes()).flushing
    assert found is not None
    assert lock.written(bench.path).flushing == found  # as this one knows it
    return found


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Flushing]:
    told: list[Flushing] = []
    tell = Sidecar.tell

    def count(self: Sidecar, now: Flushing) -> None:
        told.append(now)
        tell(self, now)

    monkeypatch.setattr(Sidecar, "tell", count)
    return told


@run_async
async def test_the_file_records_when_the_flusher_starts_polls_delivers_and_ends(tmp_path: Path) -> None:
    async with opened(tmp_path, poll_s=1) as bench:
        assert written(bench) == Flushing()
        began_ms = bench.clock.now_ms()
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        assert written(bench) == Flushing(running=True, since_ms=began_ms, looked_ms=began_ms)
        await bench.put_many(1)
        await bench.live(5)
        await bench.put_many(1)
        await bench.idle()
        found = written(bench)
        assert (found.delivered_ms, found.looked_ms) == (began_ms + 5000, began_ms + 5000)
        await bench.flusher.shut_down(1)
        await task
        found = written(bench)
        assert (found.running, found.since_ms, found.error) == (False, began_ms + 5000, None)


@run_async
async def test_a_delivery_is_recorded_within_seconds_although_nothing_comes_after_it(tmp_path: Path) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        await bench.idle()  # its first look has just been told
        await bench.put_many(1)
        await bench.live(3)
        assert written(bench).delivered_ms is not None


@run_async
async def test_an_idle_flusher_writes_once_a_minute_and_a_busy_one_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with flushing(tmp_path, poll_s=1) as bench:
        told = counted(monkeypatch)
        changes = await bench.store.look_for_work()
        await bench.live(600)  # 600 looks
        assert len(told) == 10
        assert await bench.store.look_for_work() == changes  # nothing was committed for it

        told.clear()
        for _ in range(50):
            await bench.put_many(2)
            await bench.advance(0.1)
        assert (await bench.stats()).delivered == 100
        assert 1 <= len(told) <= 6


@run_async
async def test_an_internal_error_is_logged_once_a_minute_without_the_text_of_foreign_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [StoreBusy(path=Path("bot.db"), waited_s=5)]

    async def failing() -> Any:
        raise errors[0]

    async with flushing(tmp_path, poll_s=1) as bench:
        monkeypatch.setattr(bench.flusher.pauses, "settings_may_help", lambda: False)
        monkeypatch.setattr(bench.store, "look_for_work", failing)
        told = counted(monkeypatch)
        await bench.live(30)
        found = written(bench)
        assert found.error == "StoreBusy: bot.db stayed locked for 5 s; nothing was written"
        assert found.running
        assert len(told) == 1
        errors[0] = RuntimeError(FOREIGN_WORDS)
        await bench.live(2)
        assert written(bench).error == "RuntimeError: see the log"
        assert FOREIGN_WORDS in str(bench.flusher.state.now.last_error)  # the control: they were there to be told


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 100, id="a gap"),
        pytest.param(b'{"running": tru', id="cut short"),
        pytest.param(b'{"running": "yes"}', id="no truth"),
        pytest.param(b'{"running": true, "since_ms": "now"}', id="no time"),
        pytest.param(b'{"running": true, "mood": "fine"}', id="another version's"),
    ],
)
def test_a_line_that_makes_no_sense_says_nothing(line: bytes) -> None:
    assert parse(b" " * 576 + line).flushing is None


def test_control_a_line_that_makes_sense_is_read() -> None:
    assert parse(b" " * 576 + json.dumps({"running": True, "since_ms": 5}).encode()).flushing == Flushing(True, 5)


def test_the_longest_error_fits(tmp_path: Path) -> None:
    with lock.WriterLock(tmp_path / "bot.db") as held:
        held.sidecar.tell(Flushing(True, 2**53, 2**53, 2**53, '\u20ac"\\\n' * 500, 2**53))
        found = parse((tmp_path / "bot.db.lock").read_bytes())
    assert found.flushing is not None
    assert found.flushing.error is not None and len(found.flushing.error) == 200
    assert found.holder is not None
