"""The commands after damage: what status shows, and how it gets healthy again; beside a running bot, too."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from outbox import Outbox, SessionManager, Settings
from outbox.testing import FakeRemote
from tests import forked
from tests.recovery.test_salvage import emptied_pages
from tests.store.tools import ROOT, shell
from tests.support import run_async


def settings(path: Path) -> Settings:
    return Settings(path=path, supabase_url=None, supabase_key=None, poll_s=0.05)


async def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    line = [sys.executable, "-m", "outbox", *arguments, "--json"]
    done = await asyncio.to_thread(forked.run, line, stdout=subprocess.PIPE, text=True)
    return done.returncode, json.loads(done.stdout)


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

        assert (await command("status", "--path", str(path)))[0] == 2  # all is well but that no URL is set
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
    code, facts = await command("salvage", str(aside), "--path", str(path))
    assert (code, facts["pending"]) == (0, 3)


@run_async
async def test_the_bot_goes_on_with_its_session_after_a_salvage_and_another_one_is_named(tmp_path: Path) -> None:
    path, other = tmp_path / "bot.db", tmp_path / "other.db"
    async with Outbox.open(settings(path)) as outbox:
        session_id = await SessionManager(outbox).start_session(10_000, ["EURUSD"])
    damaged_file = shutil.copyfile(path, tmp_path / "damaged.db")
    path.unlink()

    assert (await command("salvage", str(damaged_file), "--path", str(other)))[0] == 3
    assert not other.exists()
    async with Outbox.open(settings(other)):
        pass
    code, facts = await command("salvage", str(damaged_file), "--path", str(other))
    assert (code, facts["pending"], facts["sessions"], facts["sessions_left"]) == (0, 1, 1, [])
    async with Outbox.open(settings(other).model_copy(update={"source": settings(path).source})) as outbox:
        session = SessionManager(outbox)
        assert await session.start_session(9_000, []) == session_id
        assert (session.is_recovered, session.initial_balance, session.symbols) == (True, 10_000, ["EURUSD"])

    async with Outbox.open(settings(path)) as outbox:  # what a bot does that starts before the salvage
        assert await SessionManager(outbox).start_session(9_000, []) != session_id
    code, facts = await command("salvage", str(damaged_file), "--path", str(path))
    assert (code, facts["sessions"], facts["sessions_left"]) == (1, 0, [session_id])


@run_async
async def test_the_line_of_the_page_ends_a_session_that_was_left(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"sqlite3 bot\.db \"(insert into outbox .*?)\"", page, re.DOTALL)
    path, remote = tmp_path / "bot.db", FakeRemote()
    async with Outbox.open(settings(path), transport=remote) as outbox:
        session_id = await SessionManager(outbox).start_session(10_000, [])
        await outbox.drain(timeout=200)
        assert [row["status"] for row in remote.rows("sessions")] == ["RUNNING"]
        with shell(path) as connection:
            connection.execute(line.replace("THE-ID", session_id))
        report = await outbox.drain(timeout=200)
    assert (report.pending, report.dead) == (0, 0)
    assert [(row["status"], row["end_reason"]) for row in remote.rows("sessions")] == [("STOPPED", "UNKNOWN")]


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


@run_async
async def test_what_is_suggested_means_the_same_file_and_a_misspelt_one_is_not_made(tmp_path: Path) -> None:
    path, misspelt = tmp_path / "bot.db", tmp_path / "bto.db"
    await damaged(path)
    async with Outbox.open(settings(path)) as outbox:
        (aside,) = (await outbox.stats()).quarantined

    line = [sys.executable, "-m", "outbox", "status", "--path", str(path)]
    shown = await asyncio.to_thread(forked.run, line, stdout=subprocess.PIPE, text=True)
    assert f"outbox salvage --path {path} {aside}\n" in shown.stdout
    assert (await command("acknowledge", "--path", str(misspelt)))[0] == 3
    assert (await command("salvage", str(aside), "--path", str(misspelt)))[0] == 3
    assert not misspelt.exists()


@run_async
async def test_a_drain_beside_a_backlog_that_was_set_aside_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await damaged(path)
    async with Outbox.open(settings(path)) as outbox:
        (aside,) = (await outbox.stats()).quarantined

    code, facts = await command("drain", "--path", str(path))
    assert (code, facts["pending"], facts["quarantined"]) == (2, 0, [str(aside)])
    assert (await command("salvage", str(aside), "--path", str(path)))[0] == 0
    code, facts = await command("drain", "--timeout", "0", "--path", str(path))
    assert (code, facts["pending"], facts["quarantined"]) == (2, 3, [])


@run_async
async def test_a_request_that_fails_for_good_is_answered_and_holds_up_no_other(tmp_path: Path) -> None:
    path, wreck = tmp_path / "bot.db", tmp_path / "wreck.db"
    async with Outbox.open(settings(path)):
        wreck.write_bytes(bytes(8192))  # nothing in it can be read
        code, facts = await command("salvage", str(wreck), "--path", str(path))
        assert (code, "nothing can be read" in facts["error"]) == (3, True)
        code, facts = await command("requeue", "--all", "--yes", "--path", str(path))
        assert (code, "request" in facts) == (1, False)  # answered: nothing is dead
