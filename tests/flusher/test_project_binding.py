"""The file remembers its project: what is put for one does not go to another by a changed URL."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outbox.flusher.context import ProjectBinding
from outbox.flusher.flusher import Flusher
from outbox.postgrest.verdicts import Failure, Reply
from outbox.recovery.salvage import nobody
from tests.flusher.bench import Bench, Clock, Remote, flushing, opened
from tests.store.tools import rows
from tests.support import run_async


@dataclass
class Project(Remote):
    """A remote end that is a project."""

    project: str = "mine"


async def delivered_at(folder: Path, project: str = "mine", clock: Clock | None = None) -> Project:
    """Let the file of `folder` deliver one row to `project`."""
    remote = Project(project=project)
    async with flushing(folder, remote=remote, clock=clock or Clock()) as bench:
        await bench.outbox.put("events", {"n": 0})
        await bench.settled()
    return remote


async def left_in_a_damaged_file(folder: Path) -> tuple[list[str], Path]:
    """Put three rows for the project "mine" and move the file away; return their ids, and where it is."""
    await delivered_at(folder)
    async with opened(folder) as bench:
        ids = await bench.put_many(3)
    return ids, (folder / "outbox.db").rename(folder / "damaged.db")


def remembered(folder: Path) -> list[tuple[object, ...]]:
    return rows(folder / "outbox.db", "select value from outbox_meta where name = 'project'")


async def paused(bench: Bench) -> list[tuple[str, str, str]]:
    return [(pause.scope, pause.subject, pause.reason) for pause in (await bench.stats()).pauses]


AWAY = [("everything", "", "other_project")]


@run_async
async def test_another_project_gets_nothing_and_no_row_is_touched_until_it_is_adopted(tmp_path: Path) -> None:
    await delivered_at(tmp_path)
    assert remembered(tmp_path) == [("mine",)]

    other = Project(project="other")
    async with flushing(tmp_path, remote=other) as bench:
        ids = await bench.put_many(3)
        before = await bench.entries()
        await bench.live(500)
        stats = await bench.stats()
        assert (other.requests, stats.pending, stats.paused) == ([], 3, "other_project")
        assert await paused(bench) == AWAY
        assert "outbox adopt" in str(stats.pauses[0].message)
        assert await bench.entries() == before

        assert await bench.outbox.adopt() == "mine"
        await bench.settled()
        assert sorted(other.ids("events")) == sorted(ids)
        assert await paused(bench) == []
    assert remembered(tmp_path) == [("other",)]


@run_async
async def test_control_without_the_check_the_rows_go_to_the_other_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await delivered_at(tmp_path)
    monkeypatch.setattr(ProjectBinding, "is_foreign", lambda self, transport: False)
    other = Project(project="other")
    async with flushing(tmp_path, remote=other) as bench:
        ids = await bench.put_many(3)
        await bench.settled()
        assert sorted(other.ids("events")) == sorted(ids)


@pytest.mark.parametrize("told", [True, False], ids=["told of it", "control: not told"])
@run_async
async def test_entries_that_are_salvaged_beside_a_running_flusher_do_not_go_to_another_project(
    told: bool, tmp_path: Path
) -> None:
    lost, damaged = await left_in_a_damaged_file(tmp_path)
    other = Project(project="other")
    async with flushing(tmp_path, remote=other) as bench:
        if not told:
            bench.outbox._flusher.load_project = nobody  # type: ignore[method-assign]
        assert (await bench.outbox._salvage(damaged))["pending"] == 3
        await bench.live(10)
        await bench.outbox.put("events", {"n": 1})
        await bench.live(10)
        # Without being told the flusher believes that the file belongs to whoever answers first.
        assert sorted(other.ids("events"))[:3] == ([] if told else sorted(lost))
        assert (await bench.outbox.stats()).paused == "other_project"
    assert remembered(tmp_path) == [("mine",)]


@pytest.mark.parametrize("looks", [True, False], ids=["a look before each request", "control: none"])
@run_async
async def test_entries_that_are_salvaged_in_the_middle_of_a_step_do_not_go_to_another_project(
    looks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, damaged = await left_in_a_damaged_file(tmp_path)
    other = Project(project="other")
    if not looks:
        monkeypatch.setattr(Flusher, "_may_go", lambda self, transport: True)
    async with flushing(tmp_path, remote=other) as bench:
        ready, due = bench.store.ready, [damaged]

        async def after_a_salvage(*args: Any, **more: Any) -> Any:
            if due:
                await bench.outbox._salvage(due.pop())
            return await ready(*args, **more)

        monkeypatch.setattr(bench.store, "ready", after_a_salvage)
        await bench.outbox.put("events", {"n": 1})
        await bench.live(10)

        sent = "".join(str(request.body) for request in other.requests)
        assert [each in sent for each in lost] == [not looks] * 3
        assert (await bench.outbox.stats()).paused == "other_project"


@run_async
async def test_the_way_back_needs_no_adoption_and_the_pause_outlives_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    mine = await delivered_at(tmp_path, clock=clock)
    for _ in range(2):
        other = Project(project="other")
        async with flushing(tmp_path, remote=other, clock=clock) as bench:
            await bench.outbox.put("events", {"n": 1})
            await bench.idle()
            assert (await paused(bench), other.requests) == (AWAY, [])
    async with opened(tmp_path, remote=mine, clock=clock) as bench:
        assert await paused(bench) == AWAY  # it is in the file
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.settled()
        assert await paused(bench) == []
        await bench.flusher.shut_down(0)
        await task
    assert len(mine.inserted) == 3


@run_async
async def test_a_drain_and_a_reload_do_not_send_to_another_project(tmp_path: Path) -> None:
    await delivered_at(tmp_path)
    other = Project(project="other")
    async with flushing(tmp_path, remote=other) as bench:
        await bench.outbox.put("events", {"n": 1})
        await bench.idle()
        await bench.outbox.reload()
        report = await bench.outbox.drain(timeout=5)
        assert (report.seconds, report.timed_out, report.pending, other.requests) == (0.0, False, 1, [])
        assert report.held_by is not None
        assert "the project mine, and the URL names other" in report.held_by
        assert "outbox adopt" in report.held_by
        assert await paused(bench) == AWAY


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Failure.UNREACHABLE, id="none"),
        pytest.param(Failure.TIMEOUT, id="unknown"),
        pytest.param(Reply(200, {}, b"<html>log in"), id="a captive portal"),
        pytest.param(Reply(401, {}, b'{"code": "PGRST301"}'), id="a wrong key"),
    ],
)
@run_async
async def test_a_project_that_has_answered_for_no_row_is_not_remembered(
    answer: Reply | Failure, tmp_path: Path
) -> None:
    misspelt = Project(project="misspelt")
    misspelt.otherwise = answer
    async with flushing(tmp_path, remote=misspelt) as bench:
        await bench.outbox.put("events", {"n": 1})
        await bench.idle()
        assert misspelt.requests
    assert remembered(tmp_path) == []

    mine = Project()
    async with flushing(tmp_path, remote=mine) as bench:
        await bench.settled()
    assert remembered(tmp_path) == [("mine",)]


@run_async
async def test_the_project_is_remembered_before_anything_counts_as_delivered_there(tmp_path: Path) -> None:
    async with opened(tmp_path, remote=Project()) as bench:

        async def die(*_: object, **__: object) -> None:
            raise asyncio.CancelledError

        bench.store.settle = die  # type: ignore[method-assign]
        await bench.outbox.put("events", {"n": 1})
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        assert await bench.store.project() == "mine"
        await bench.flusher.shut_down(0)
        await task


@run_async
async def test_this_machine_is_never_checked_and_never_remembered(tmp_path: Path) -> None:
    await delivered_at(tmp_path)
    here = Remote()  # it says of no project that it is one
    async with flushing(tmp_path, remote=here) as bench:
        await bench.outbox.put("events", {"n": 1})
        await bench.settled()
        assert len(here.inserted) == 1
    assert remembered(tmp_path) == [("mine",)]
