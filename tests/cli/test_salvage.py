"""The commands after damage: what status shows, and how it gets healthy again; beside a running bot, too."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from outbox import Outbox, Settings
from tests.store.test_salvage import emptied_pages
from tests.store.tools import ROOT, shell
from tests.support import run_async


def settings(path: Path) -> Settings:
    return Settings(path=path, supabase_url=None, supabase_key=None, poll_s=0.05)


async def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "outbox", *arguments, "--json",
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out)


async def damaged(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        for number in range(3):
            await outbox.put("trades", {"n": number})
    emptied_pages(path)


@run_async
async def test_status_is_red_until_the_damaged_file_is_salvaged_while_the_bot_runs(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await damaged(path)
    async with Outbox.open(settings(path)) as outbox:
        await outbox.put("trades", {"n": 3})
        (aside,) = (await outbox.stats()).quarantined

        code, facts = await command("status", "--path", str(path))
        assert (code, facts["health"], facts["quarantined"]) == (5, "damaged", [str(aside)])

        code, facts = await command("salvage", str(aside), "--path", str(path))
        assert (code, facts["pending"], facts["unreadable"]) == (0, 3, [])

        assert (await command("status", "--path", str(path)))[0] == 0
        stats = await outbox.stats()
        assert (stats.pending, stats.quarantined) == (4, ())


@run_async
async def test_salvage_works_without_a_bot_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await damaged(path)
    async with Outbox.open(settings(path)) as outbox:
        (aside,) = (await outbox.stats()).quarantined

    assert (await command("salvage", str(tmp_path / "nothing"), "--path", str(path)))[0] == 3
    assert (await command("salvage", str(path), "--path", str(path)))[0] == 3
    code, facts = await command("doctor", "--salvage", str(aside), "--path", str(path))
    assert (code, facts["pending"]) == (0, 3)


@run_async
async def test_a_loss_is_shown_until_it_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with Outbox.open(settings(path)) as outbox:
        await outbox.put("trades", {"n": 1})
    with shell(path) as connection:  # what a lost -wal leaves
        connection.execute("delete from outbox")
        connection.execute("delete from sqlite_sequence where name = 'outbox'")
    async with Outbox.open(settings(path)) as outbox:
        assert "entries 1 to 1" in str((await outbox.stats()).loss)

    code, facts = await command("status", "--path", str(path))
    assert (code, "entries 1 to 1" in facts["loss"]) == (5, True)
    assert (await command("acknowledge", "--path", str(path)))[1]["acknowledged"] is True
    assert (await command("status", "--path", str(path)))[0] == 0
