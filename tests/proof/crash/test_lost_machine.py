"""A machine is lost with its bot and whatever copied the file elsewhere: what a copy holds is sent, nothing twice.

Litestream and the loop of `docs/durability.md` copy beside a bot that puts and sends; all are killed at one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from supabase_lite import ROOT, SupabaseLite
from witness import Witness

from outbox import Outbox, Settings
from outbox.store import files
from tests.store.tools import rows, until
from tests.support import run_async

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX's shell, SIGKILL; no Litestream in a wheel for Windows")

# It puts trades, each under its own number in the file, and sends them ten by ten.
BOT = """
import asyncio, itertools, json, sys
from outbox import Outbox, Settings

async def main():
    async with Outbox.open(Settings(path=sys.argv[1])) as outbox:
        for number in itertools.count(int(sys.argv[2])):
            row = {"session_id": "lost", "symbol": "EURUSD", "timestamp": "2026-01-02", "trade_id": str(number)}
            assert (await outbox.put("trades", row)).seq == number
            print(json.dumps(["trades", str(number)]), flush=True)
            if number % 10 == 0:
                await outbox.drain(timeout=200)
            await asyncio.sleep(0.01)  # the next tick: whoever copies needs the machine, too

asyncio.run(main())
"""
BEFORE = 20  # put by a life before, which was closed: the database file has them
EARLY = 40  # acknowledged before the last step of the copying began


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies `bot.db` to the folder `elsewhere`, both below one folder.

    begun, done: the number of the newest step that has begun, at least, and of the newest one that has ended.
    """

    command: Callable[[Path], list[str]]
    begun: Callable[[Path], int]
    done: Callable[[Path], int]
    restore: Callable[[Path, Path], object]

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        with (folder / "copier.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(folder), cwd=folder, env={**os.environ, "PATH": path},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            kill(process)
            process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started, unless it is dead already."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- who copies


def litestream(folder: Path) -> list[str]:
    """Twenty times as often as by itself, so that the test need not wait.

    It checkpoints nothing by itself meanwhile, see `lose`.
    """
    (folder / "litestream.yml").write_text(
        f"""
dbs:
  - path: {folder}/bot.db
    monitor-interval: 50ms
    checkpoint-interval: 1h
    min-checkpoint-page-count: 1000000
    replica: {{type: file, path: {folder}/elsewhere, sync-interval: 50ms}}
""",
        encoding="utf-8",
    )
    return ["litestream", "replicate", "-config", str(folder / "litestream.yml")]


def newest_transaction(steps: Path) -> int:
    """Return the number of the newest of Litestream's files, which are called FIRST-LAST.ltx, hexadecimal."""
    return max((int(file.stem.split("-")[1], 16) for file in steps.glob("*.ltx")), default=0)


def restored_by_litestream(folder: Path, to: Path) -> None:
    program = Path(sys.executable).with_name("litestream")
    subprocess.run([program, "restore", "-o", str(to), f"file://{folder}/elsewhere"], check=True, capture_output=True)


def the_loop_of_the_page(folder: Path) -> list[str]:
    """As it stands there, for this folder and without its 300 s."""
    page = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    (loop,) = re.findall(r"```sh\n(bot=.*?)```", page, re.DOTALL)
    for there, here in (("/srv/bot", folder), ("/mnt/elsewhere", folder / "elsewhere"), ("sleep 300", "sleep 0")):
        assert loop.count(there) == 1
        loop = loop.replace(there, str(here))
    return ["sh", "-c", loop]


def newest_backup(folder: Path, to: Path) -> None:
    shutil.copyfile(max((folder / "elsewhere").glob("bot-*.db")), to)


def backups(folder: Path) -> int:
    return len(list((folder / "elsewhere").glob("bot-*.db")))


LITESTREAM = Copier(
    litestream,
    lambda folder: newest_transaction(folder / ".bot.db-litestream" / "ltx" / "0"),
    lambda folder: newest_transaction(folder / "elsewhere" / "ltx" / "0"),
    restored_by_litestream,
)
LOOP = Copier(the_loop_of_the_page, backups, backups, newest_backup)


# ---------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True, slots=True)
class Lost:
    """What is left of it. acknowledged: the numbers that the bot printed; early: those before the last step."""

    acknowledged: set[int]
    early: set[int]
    copy: Path
    path: Path
    alone: Path  # the database file without its -wal


async def lose(folder: Path, remote: SupabaseLite, copier: Copier) -> Lost:
    """Let a bot and `copier` work until a whole step of it has begun and ended after `EARLY`; then kill both.

    A reader holds every checkpoint back meanwhile: an SQLite before 3.51.3 in the bot must not meet another that
    checkpoints, and the control needs a database file that has nothing new. What is returned has a copy of that file.
    """
    path = folder / "bot.db"
    (folder / "elsewhere").mkdir()
    (folder / "bot.py").write_text(BOT, encoding="utf-8")
    async with Outbox.open(reached(path, remote)) as outbox:
        for number in range(1, BEFORE + 1):
            row = {"session_id": "lost", "symbol": "EURUSD", "timestamp": "2026-01-02", "trade_id": str(number)}
            await outbox.put("trades", row)
    names = {"SUPABASE_URL": remote.url, "SUPABASE_SECRET_KEY": remote.secret_key, "PYTHONPATH": str(ROOT)}
    witness = Witness([str(folder / "bot.py"), str(path), str(BEFORE + 1)], folder=folder, environment=names)
    witness.start()
    try:
        with reader(path), copier.running(folder) as copying:
            await asyncio.to_thread(witness.wait_for, EARLY - BEFORE, timeout_s=200)
            early, begun = numbers(witness), copier.begun(folder)
            # The next step may have begun before this moment, the one behind it has not.
            await until(lambda: copier.done(folder) >= begun + 2 or copying.poll() is not None)
            assert copying.poll() is None, (folder / "copier.log").read_text(encoding="utf-8")
            kill(copying)
            witness.kill()
            alone = shutil.copyfile(path, folder / "alone.db")
    finally:
        witness.kill()
    await asyncio.to_thread(copier.restore, folder, folder / "copy.db")
    return Lost(numbers(witness), early, folder / "copy.db", path, alone)


@contextlib.contextmanager
def reader(path: Path) -> Iterator[None]:
    """Somebody who looks at the file as it is now, and cannot write."""
    connection = sqlite3.connect(files.uri(path), uri=True, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("begin")
        connection.execute("select count(*) from outbox").fetchall()
        yield


def numbers(witness: Witness) -> set[int]:
    return set(map(int, witness.acknowledged["trades"]))


def reached(path: Path, remote: SupabaseLite) -> Settings:
    return Settings(path=path, supabase_url=remote.url, supabase_key=remote.secret_key, _env_file=None)


async def drained(path: Path, remote: SupabaseLite) -> str | None:
    """Send what the file holds; return what it says about a loss."""
    async with Outbox.open(reached(path, remote)) as outbox:
        report = await outbox.drain(timeout=200)
        assert (report.pending, report.dead) == (0, 0)
        return (await outbox.stats()).loss


def held(path: Path) -> list[int]:
    assert rows(path, "pragma integrity_check") == [("ok",)]
    return [int(str(number)) for (number,) in rows(path, "select payload ->> 'trade_id' from outbox order by seq")]


def tail_of(lost: Lost, there: set[int]) -> set[int]:
    """Return what is missing of the acknowledged numbers. It must be their end, and younger than the last step."""
    missing = lost.acknowledged - there
    assert missing == {number for number in lost.acknowledged if missing and number >= min(missing)}, "a hole"
    assert missing.isdisjoint(lost.early), "older than the last step of the copying"
    return missing


@pytest.mark.parametrize(
    ("copier", "alarm"),
    [pytest.param(LITESTREAM, True, id="Litestream"), pytest.param(LOOP, False, id="outbox backup")],
)
@run_async
async def test_a_lost_machine_costs_the_youngest_rows_alone_and_none_arrives_twice(
    copier: Copier, alarm: bool, tmp_path: Path, clean_remote: SupabaseLite, sql: psycopg.Connection[Any]
) -> None:
    lost = await lose(tmp_path, clean_remote, copier)
    copied = held(lost.copy)
    assert copied == list(range(1, len(copied) + 1))
    tail_of(lost, set(copied))

    # The control, `cp` of the same machine's file without its -wal: it has what the life before had put and closed.
    assert held(lost.alone) == list(range(1, BEFORE + 1))
    with pytest.raises(AssertionError, match="older than the last step"):
        tail_of(lost, set(held(lost.alone)))

    # A copy that was in use says from which number on entries may be missing; a backup was taken for that.
    loss = await drained(lost.copy, clean_remote)
    assert (loss is not None) is alarm, loss
    assert set(copied) <= arrived(sql)
    tail_of(lost, arrived(sql))

    # The machine is found again: it sends the rest, and once more what the copy has sent.
    await drained(lost.path, clean_remote)
    assert lost.acknowledged <= arrived(sql)


def arrived(sql: psycopg.Connection[Any]) -> set[int]:
    """Return the numbers that PostgreSQL has; each must be there once."""
    found = [int(number) for (number,) in sql.execute("select trade_id from trades where session_id = 'lost'")]
    assert len(found) == len(set(found)), "a row is there twice"
    return set(found)
