"""A sqlite3 shell that somebody forgot: it can delay, it cannot lose anything, and the health says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings, StoreBusy
from outbox.store import files
from outbox.testing import ManualClock
from tests import forked
from tests.store.tools import count, until
from tests.support import run_async

pytestmark = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 shell; CI has one")

# 12 rows of 1 MB are a WAL beyond the 8 MiB from which on the housekeeper looks.
MANY, TEXT = 12, "x" * 1_000_000


class Shell:
    """A real sqlite3 shell that stays open."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            ["sqlite3", "-batch", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, sql: str) -> None:
        """Run `sql` and return once it is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{sql}\n.print done\n")
        self._process.stdin.flush()
        while (line := self._process.stdout.readline()) and line.strip() != "done":
            pass
        assert line

    def leave(self) -> None:
        self._process.communicate(timeout=100)


@contextlib.contextmanager
def shell(path: Path) -> Iterator[Shell]:
    opened = Shell(path)
    try:
        yield opened
    finally:
        opened.leave()


def wal_bytes(path: Path) -> int:
    return files.file_bytes(path.with_name(path.name + "-wal"))


async def status(path: Path) -> dict[str, Any]:
    """What `outbox status --json` says beside the running bot."""
    command = [sys.executable, "-m", "outbox", "status", "--path", str(path), "--json"]
    done = await asyncio.to_thread(forked.run, command, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    return found


def settings(path: Path, **values: Any) -> Settings:
    return Settings(path=path, _env_file=None, **values)


async def looked(outbox: Outbox, clock: ManualClock, *, held: bool) -> None:
    """Let minutes pass until the housekeeper has seen how things are."""
    keeper = outbox._maintenance
    assert keeper is not None
    while (keeper.notices.checkpoint_held_ms is not None) is not held:
        clock.advance(60)
        await asyncio.sleep(0.005)


@run_async
async def test_a_shell_that_reads_lets_the_wal_grow_and_the_health_says_so(tmp_path: Path) -> None:
    path, clock = tmp_path / "bot.db", ManualClock()
    async with Outbox.open(settings(path), clock=clock) as outbox:
        await outbox.put("trades", {"n": 0})
        with shell(path) as forgotten:
            forgotten.run("begin; select count(*) from outbox;")
            for n in range(MANY):
                await outbox.put("trades", {"n": n, "text": TEXT})  # puts go on
            grown = wal_bytes(path)
            assert grown > MANY * len(TEXT)

            await looked(outbox, clock, held=True)

            stats = await outbox.stats()
            assert stats.checkpoint_held_ms is not None
            assert stats.warnings[0].startswith(
                f"checkpoint held back by a reader: the WAL has {stats.wal_bytes:,} bytes"
            )
            await until(lambda: b"checkpoint_held_ms" in path.with_name("bot.db-wal").read_bytes())
            told = await status(path)
            assert told["checkpoint_held"] is not None
            assert (told["health"], told["exit_code"]) in (("hindered", 4), ("stalled", 2))
            assert told["wal_bytes"] >= grown
            assert any("checkpoint held back by a reader" in each for each in told["warnings"])
            await outbox.put("trades", {"n": MANY})

        await looked(outbox, clock, held=False)
        assert wal_bytes(path) < 100_000  # it is small again, and the disk has its room back
        assert (await outbox.stats()).checkpoint_held_ms is None
        await outbox.put("trades", {"n": MANY + 1})
        assert not [each for each in (await status(path))["warnings"] if "checkpoint" in each]
    assert count(path) == MANY + 3


@run_async
async def test_without_the_housekeeper_the_wal_keeps_its_size(tmp_path: Path) -> None:
    """The control: SQLite empties a WAL by writing it anew from its beginning; the file stays as long as it was."""
    path = tmp_path / "bot.db"
    async with Outbox.open(settings(path), clock=ManualClock()) as outbox:
        with shell(path) as forgotten:
            forgotten.run("begin; select count(*) from outbox;")
            for n in range(MANY):
                await outbox.put("trades", {"n": n, "text": TEXT})
        for n in range(3):
            await outbox.put("trades", {"n": n})
        assert wal_bytes(path) > MANY * len(TEXT)


@run_async
async def test_a_reader_of_a_short_wal_is_not_reported(tmp_path: Path) -> None:
    path, clock = tmp_path / "bot.db", ManualClock()
    async with Outbox.open(settings(path), clock=clock) as outbox:
        with shell(path) as forgotten:
            forgotten.run("begin; select count(*) from outbox;")
            await outbox.put("trades", {"n": 1})
            keeper = outbox._maintenance
            assert keeper is not None
            await keeper._maintain()
            assert (await outbox.stats()).checkpoint_held_ms is None


@run_async
async def test_a_shell_that_writes_makes_puts_wait_and_then_say_so_while_the_loop_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with shell(path) as forgotten:
        async with Outbox.open(settings(path, busy_timeout_s=0.5)) as outbox:
            forgotten.run("begin immediate;")
            put = asyncio.create_task(outbox.put("trades", {"n": 1}))
            ticks = 0
            while not put.done():
                await asyncio.sleep(0.001)
                ticks += 1
            error = put.exception()
            assert isinstance(error, StoreBusy)
            assert "nothing was written" in str(error)
            assert ticks >= 3  # in the loop's own thread, one wait of SQLite would be one tick
            forgotten.run("commit;")

        async with Outbox.open(settings(path, busy_timeout_s=60)) as outbox:
            forgotten.run("begin immediate;")
            late = asyncio.create_task(outbox.put("trades", {"n": 2}))
            await until(lambda: not outbox._store.writer._line)
            forgotten.run("commit;")  # it leaves in time
            await late
            await outbox.put("trades", {"n": 3})
    assert count(path) == 2
