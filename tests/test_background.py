"""Background tasks go on whatever they meet and say so; what goes on is told when it begins and once a minute."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from outbox import Outbox, Settings
from outbox.background import Background
from outbox.cli.status import read_status, show
from outbox.logs import Repeating
from outbox.stats import Stats
from outbox.testing import FakeRemote, ManualClock
from tests.support import run_async


def settings(path: Path, **more: Any) -> Settings:
    return Settings(path=path / "bot.db", _env_file=None, **more)


def failures(stats: Stats) -> dict[str, int]:
    return {task.name: task.failures for task in stats.tasks}


# ---------------------------------------------------------------------------------------------- tasks


@run_async
async def test_without_a_free_thread_no_task_ends_and_it_is_logged_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:
        assert set(failures(await outbox.stats()).values()) == {0}
        with monkeypatch.context() as moment:

            def full(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            moment.setattr(threading.Thread, "start", full)
            assert outbox._maintenance is not None
            state = outbox._maintenance.background.state
            await clock.advance_until(lambda: state.failures >= 2, within_s=math.inf, step_s=30)
        told = [record for record in caplog.records if record.msg == "background task failed and continues"]
        assert {record.levelno for record in told} == {logging.ERROR}
        stats = await outbox.stats()
        assert failures(stats)["maintenance"] >= 2
        (its,) = (task for task in stats.tasks if task.name == "maintenance")
        assert (its.running, its.last_error) == (True, "RuntimeError: can't start new thread")
        # It goes on: a turn later nothing fails any more.
        before = state.failures
        await clock.advance_until(lambda: clock.monotonic_s() > 2000, step_s=100)
        assert state.failures == before
        assert {task.name for task in stats.tasks} == {"writer", "maintenance", "inbox"}


@run_async
async def test_an_error_of_ours_in_the_writer_reaches_its_caller_and_the_next_put_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Outbox.open(settings(tmp_path), transport=FakeRemote()) as outbox:
        writer = outbox._store.writer

        def broken() -> list[Any]:
            raise RuntimeError("a bug")

        with monkeypatch.context() as moment:
            moment.setattr(writer, "_next_group", broken)
            with pytest.raises(RuntimeError, match="a bug"):
                await outbox.put("events", {"n": 1})
        await outbox.put("events", {"n": 2})
        assert failures(await outbox.stats())["writer"] == 1
        seen = read_status(outbox.path, warnings=(), stalled_after_s=300)  # as a command does, from the file
        assert {name: task["failures"] for name, task in seen.tasks.items()} == failures(await outbox.stats())
        console = Console(width=200)
        with console.capture() as shown:
            show(seen, console)
        assert "background task writer goes on after 1 error, the last: RuntimeError: a bug" in shown.get()


@run_async
async def test_a_turn_that_fails_ends_only_that_turn() -> None:
    clock, stop, turns = ManualClock(), asyncio.Event(), 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise ZeroDivisionError
        stop.set()

    told: list[tuple[bool, int]] = []
    watched = Background(
        "test", turn, clock=clock, stop=stop, tell=lambda state: told.append((state.running, state.failures))
    )
    await clock.advance_until(watched.task.done)
    assert told == [(True, 0), (True, 1), (True, 2), (False, 2)]
    assert (turns, watched.state.failures, watched.state.running) == (3, 2, False)


@run_async
async def test_a_task_that_is_cancelled_from_outside_says_so(caplog: pytest.LogCaptureFixture) -> None:
    never: Any = asyncio.Event().wait
    watched = Background("test", never, clock=ManualClock(), stop=asyncio.Event(), tell=lambda _: None)
    await asyncio.sleep(0)
    watched.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watched.task
    assert "background task was cancelled task=test" in caplog.text
    assert not watched.state.running


# ---------------------------------------------------------------------------------------------- what repeats


def test_a_lasting_condition_is_logged_when_it_begins_when_it_changes_and_once_a_minute_with_a_count() -> None:
    clock = ManualClock()
    repeating, told = Repeating(clock), []
    for second in range(181):
        detail = "disk full" if 90 <= second < 100 else "I/O error"
        for _ in range(36):
            if (news := repeating.news("commit failed", detail)) is not None:
                told.append((second, detail, news.get("repeated", 0)))
        clock.advance(1)
    assert [(second, detail) for second, detail, _ in told] == [
        (0, "I/O error"),
        (60, "I/O error"),
        (90, "disk full"),
        (120, "I/O error"),
        (180, "I/O error"),
    ]
    assert told[1][2] == 60 * 36 - 1
    repeating.over("commit failed")
    assert repeating.news("commit failed", "I/O error") == {}  # it begins again


def test_errors_that_never_read_alike_do_not_flood_either() -> None:
    clock = ManualClock()
    repeating = Repeating(clock)
    assert sum(repeating.news("failed", f"error {n}") is not None for n in range(10_000)) == 8
    clock.advance(60)
    assert repeating.news("failed", "one more") is not None
    assert len(repeating._told["failed"]) <= 8


@run_async
async def test_a_put_that_repairs_its_text_each_time_writes_one_line_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:
        for _ in range(50):
            await outbox.put("events", {"data": "a\0b"})
        assert caplog.text.count("text repaired") == 1
        clock.advance(60)
        await outbox.put("events", {"data": "a\0b"})
    assert "repeated=49" in caplog.text


# ---------------------------------------------------------------------------------------------- clocks

DAY = 86_400.0


async def delivered(outbox: Outbox) -> None:
    await outbox.put("events", {"n": 1})
    assert (await outbox.drain(timeout=20)).delivered == 1


@run_async
async def test_a_clock_that_jumps_a_month_ahead_prunes_nothing_before_its_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:
        await delivered(outbox)
        clock.step_wall_clock(30 * DAY)
        await clock.advance_until(lambda: clock.monotonic_s() > 1000 + 3 * DAY, within_s=4 * DAY, step_s=DAY / 4)
        assert (await outbox.stats()).pruned == 0
        # Control: the retention itself, on the clock that does not jump.
        for _ in range(30):
            await asyncio.sleep(0.01)
            clock.advance(DAY / 4)
        while (await outbox.stats()).pruned == 0:
            await asyncio.sleep(0.01)
            clock.advance(60)


@run_async
async def test_a_clock_that_is_wrong_at_the_start_has_an_hour_to_be_set_right(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:
        await delivered(outbox)
    clock.step_wall_clock(30 * DAY)
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:
        for _ in range(20):
            await asyncio.sleep(0.005)
            clock.advance(120)
        assert (await outbox.stats()).pruned == 0
        clock.step_wall_clock(-30 * DAY)  # set right within the hour
        for _ in range(40):
            await asyncio.sleep(0.005)
            clock.advance(120)
        assert (await outbox.stats()).pruned == 0
    clock.step_wall_clock(30 * DAY)
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:
        while (await outbox.stats()).pruned == 0:  # control: a clock that stays as it is
            await asyncio.sleep(0.005)
            clock.advance(120)
