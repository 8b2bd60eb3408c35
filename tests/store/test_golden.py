"""A file of every schema version is opened, migrated and drained; a migration that is cut off at any point resumes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from outbox import Outbox, Settings
from outbox.errors import StoreError
from outbox.store import database, migrate as migrations
from outbox.store.migrate import migrate
from outbox.store.migrations import shipped
from outbox.testing import ScriptedTransport
from tests.store.make_golden import PENDING, golden
from tests.store.planted import NUMBER, with_planted
from tests.store.tools import python, rows, shell, statements
from tests.support import run_async

VERSIONS = [step.version for step in shipped()]
STEPS = with_planted()


@pytest.fixture(autouse=True)
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a version of the library that brings one more step."""
    monkeypatch.setattr(migrations, "shipped", lambda: STEPS)


def put_there(version: int, path: Path) -> None:
    path.write_bytes(gzip.decompress(golden(version).read_bytes()))


@pytest.mark.parametrize("version", VERSIONS)
@run_async
async def test_a_file_of_every_version_is_opened_migrated_and_drained(version: int, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    put_there(version, path)
    assert rows(path, "select max(version) from outbox_migrations") == [(version,)]

    remote = ScriptedTransport()
    async with Outbox.open(Settings(path=path), transport=remote) as outbox:
        report = await outbox.drain(timeout=200)
        stats = await outbox.stats()

    assert (report.delivered, report.pending, report.dead) == (PENDING, 0, 1)
    assert stats.delivered == PENDING + 1
    assert rows(path, "select max(version) from outbox_migrations") == [(NUMBER,)]
    copies = list_copies(tmp_path)
    assert [each.name for each in copies] == [f"bot.db.before-{version + 1:04}"]
    for copy in copies:
        assert rows(copy, "select max(version) from outbox_migrations") == [(version,)]
        assert rows(copy, "select count(*) from outbox where state = 'pending'") == [(PENDING,)]
    assert rows(path, "pragma integrity_check") == [("ok",)]


def list_copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("bot.db.before-*"))


def schema(path: Path) -> list[tuple[object, ...]]:
    return rows(path, "select type, name, sql from sqlite_schema where name not like 'sqlite_%' order by 1, 2")


class CutOff(aiosqlite.Connection):
    """A connection that fails at its statement number `left`."""

    left = 0

    async def counted(self, *arguments: Any) -> Any:
        CutOff.left -= 1
        if CutOff.left < 0:
            raise RuntimeError("cut off")
        return await aiosqlite.Connection.execute(self, *arguments)

    async def one_by_one(self, script: str) -> None:
        for statement in statements(script):
            await CutOff.counted(self, statement)


@run_async
async def test_a_migration_that_fails_at_any_statement_leaves_a_version_that_was_and_resumes(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    put_there(1, whole)
    await migrated(whole)
    cuts = 0
    while True:
        path = tmp_path / "bot.db"
        put_there(1, path)
        if await migrated(path, cut=cuts):
            break
        ((version,),) = rows(path, "select max(version) from outbox_migrations")
        assert version in (*VERSIONS, NUMBER)
        assert rows(path, "select count(*) from outbox") == [(9,)]
        await migrated(path)
        assert schema(path) == schema(whole)
        cuts += 1
    assert cuts > sum(len(list(statements(step.text))) for step in STEPS[1:])


async def migrated(path: Path, *, cut: int | None = None) -> bool:
    """Bring `path` to the newest version; False: it was cut off at statement `cut`."""
    connection = await database.open_writer(path, busy_timeout_s=1)
    try:
        if cut is not None:
            CutOff.left = cut
            connection.execute = CutOff.counted.__get__(connection)  # type: ignore[method-assign]
            connection.executescript = CutOff.one_by_one.__get__(connection)  # type: ignore[method-assign]
        await migrate(connection, path, now_ms=7)
    except RuntimeError:
        return False
    finally:
        await connection.close()
    return True


KILLED = """
import asyncio, os, sys
from pathlib import Path
from outbox.store import database
from outbox.store.migrate import migrate
from tests.store.planted import with_planted

number, seen = int(sys.argv[2]), []

def before_each(statement):
    if seen or statement.startswith("begin immediate"):
        seen.append(statement)
    if len(seen) > number:
        os.kill(os.getpid(), 9)

async def main():
    connection = await database.open_writer(Path(sys.argv[1]), busy_timeout_s=1)
    await connection.set_trace_callback(before_each)
    await migrate(connection, Path(sys.argv[1]), now_ms=7, migrations=with_planted())

asyncio.run(main())
"""


@pytest.mark.parametrize("statement", [2, 5, 7, 9])
@run_async
async def test_a_process_killed_in_a_migration_leaves_a_file_that_opens(statement: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "bot.db", tmp_path / "whole.db"
    put_there(1, path)
    put_there(1, whole)
    with python(KILLED, str(path), str(statement)) as process:
        process.communicate()
    assert process.returncode != 0, "it was not killed"

    await migrated(whole)
    async with Outbox.open(Settings(path=path)) as outbox:
        assert (await outbox.stats()).pending == PENDING
    assert schema(path) == schema(whole)


@run_async
async def test_a_bots_own_view_with_the_name_of_a_new_one_is_a_clear_error_until_it_is_renamed(tmp_path: Path) -> None:
    """A bot may have made a view that a later version brings."""
    path = tmp_path / "bot.db"
    put_there(VERSIONS[-1], path)
    with shell(path) as connection:
        connection.execute("create view v_planted as select 1 as mine")
    before = rows(path, "select type, name, sql from sqlite_schema order by name")

    with pytest.raises(StoreError, match=r"v_planted already exists\).*not changed. Rename that one, or give"):
        await Outbox.open(Settings(path=path, _env_file=None))
    assert rows(path, "select type, name, sql from sqlite_schema order by name") == before
    assert rows(path, "select mine from v_planted") == [(1,)]

    with shell(path) as connection:
        connection.executescript("drop view v_planted; create view my_health as select 1 as mine")
    async with Outbox.open(Settings(path=path, _env_file=None)):
        pass
    assert rows(path, "select mine from my_health") == [(1,)]
    assert len(rows(path, "select * from v_planted")) == 1
