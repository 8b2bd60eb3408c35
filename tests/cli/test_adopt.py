"""`outbox adopt`, and what `outbox status` says before: with a bot that the URL leads astray, and without one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from outbox import Outbox, Settings
from outbox.cli.app import app
from outbox.testing import FakeRemote
from tests.cli.test_salvage import command
from tests.support import run_async


@dataclass
class Project(FakeRemote):
    """A remote end that is a project."""

    project: str = "mine"


def settings(path: Path) -> Settings:
    return Settings(path=path, poll_s=0.05, _env_file=None)


async def filled(path: Path) -> None:
    """Make a file that belongs to `mine`, with nothing pending."""
    async with Outbox.open(settings(path), transport=Project()) as outbox:
        await outbox.put("events", {"n": 0})
        assert (await outbox.drain(timeout=200)).pending == 0


async def until_paused(outbox: Outbox) -> None:
    async with asyncio.timeout(100):
        while (await outbox.stats()).paused is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


@run_async
async def test_a_bot_with_another_projects_url_waits_for_the_command(tmp_path: Path) -> None:
    path, other = tmp_path / "bot.db", Project(project="other")
    await filled(path)
    async with Outbox.open(settings(path), transport=other) as outbox, outbox.flushing():
        await outbox.put("events", {"n": 1})
        await until_paused(outbox)
        code, facts = await command("status", "--path", str(path))
        (pause,) = facts["pauses"]
        assert (code, pause["scope"], pause["reason"]) == (2, "everything", "other_project")
        shown = (await asyncio.to_thread(CliRunner().invoke, app, ["status", "--path", str(path)])).stdout
        assert "other project" in shown
        assert "outbox adopt" in " ".join(shown.split())  # a narrow terminal folds it
        assert other.requests == []

        code, facts = await command("adopt", "--path", str(path))
        assert (code, facts["by"], facts["was"]) == (0, "the running bot", "mine")
        assert (await outbox.drain(timeout=200)).pending == 0
    assert len(other.inserted) == 1


@run_async
async def test_without_a_bot_the_command_does_it_itself(tmp_path: Path) -> None:
    path, other = tmp_path / "bot.db", Project(project="other")
    await filled(path)
    async with Outbox.open(settings(path), transport=other) as outbox, outbox.flushing():
        await outbox.put("events", {"n": 1})
        await until_paused(outbox)

    code, facts = await command("adopt", "--path", str(path))
    assert (code, facts["by"], facts["was"]) == (0, "this command", "mine")
    assert (await command("status", "--path", str(path)))[1]["pauses"] == []
    assert (await command("adopt", "--path", str(path)))[1]["was"] is None
    async with Outbox.open(settings(path), transport=other) as outbox:
        assert (await outbox.drain(timeout=200)).delivered == 1
