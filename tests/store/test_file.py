"""Opening the file: durable or not at all, private, and what is not ours stays as it was."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import sys
import tempfile
from pathlib import Path

import aiosqlite
import pytest

from outbox.clock import SystemClock
from outbox.errors import NotADatabase, NotDurable, OutboxError, StoreCorrupt, StoreError, WrongJournalMode
from outbox.recovery.open import open_store
from outbox.store import database, files
from tests.store.tools import count, entry, opened, python, raised, rows, shell
from tests.support import run_async

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


def beside(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


def modes(folder: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


@posix
@run_async
async def test_the_file_and_what_stands_beside_it_are_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    before = os.umask(0)  # the most open that a machine can be
    try:
        async with opened(path) as store:
            await store.put(*entry())
            found = modes(tmp_path)
    finally:
        os.umask(before)

    assert found == dict.fromkeys(("bot.db", "bot.db-wal", "bot.db-shm", "bot.db.lock"), 0o600)


@posix
def test_a_file_that_sqlite_makes_itself_is_open_to_others(tmp_path: Path) -> None:
    """The control of the test above: it is our doing that the file is private."""
    before = os.umask(0o022)
    try:
        with shell(tmp_path / "plain.db") as connection:
            connection.execute("create table t (x)")
    finally:
        os.umask(before)

    assert modes(tmp_path) == {"plain.db": 0o644}


@run_async
async def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
    assert count(path) == 1


@run_async
async def test_an_empty_file_becomes_an_outbox(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.touch()
    async with opened(path) as store:
        await store.put(*entry())
    assert count(path) == 1


@run_async
async def test_a_file_name_may_be_no_utf8_and_hold_characters_of_a_uri(tmp_path: Path) -> None:
    odd = "a?b=c#d%20 é" if sys.platform == "win32" else os.fsdecode(b"a?b=c#d%20 \xe9")
    path = tmp_path / (odd.replace("?", "") if sys.platform == "win32" else odd)
    async with opened(path) as store:
        await store.put(*entry())
    assert path.stat().st_size > 0


def folder_that_is_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("not a folder")
    return tmp_path / "file" / "bot.db"


def below_a_file_below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("not a folder")
    return tmp_path / "file" / "more" / "bot.db"


def directory(tmp_path: Path) -> Path:
    (tmp_path / "bot.db").mkdir()
    return tmp_path / "bot.db"


def too_long_a_name(tmp_path: Path) -> Path:
    return tmp_path / ("x" * 300)


def lock_is_a_directory(tmp_path: Path) -> Path:
    (tmp_path / "bot.db.lock").mkdir()
    return tmp_path / "bot.db"


def circle_of_links(tmp_path: Path) -> Path:
    (tmp_path / "bot.db").symlink_to(tmp_path / "other.db")
    (tmp_path / "other.db").symlink_to(tmp_path / "bot.db")
    return tmp_path / "bot.db"


@posix
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(folder_that_is_a_file, id="in a folder that is a file"),
        pytest.param(below_a_file_below_a_file, id="far below a file"),
        pytest.param(directory, id="a directory"),
        pytest.param(too_long_a_name, id="a name too long for the system"),
        pytest.param(lock_is_a_directory, id="the lock's place is taken by a directory"),
        pytest.param(circle_of_links, id="links in a circle"),
        pytest.param(lambda _: Path("/proc/nothing/bot.db"), id="a folder that even root cannot make"),
    ],
)
@run_async
async def test_a_place_where_no_file_can_be_is_a_typed_error(place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = place(tmp_path)
    for _ in range(2):  # the second time shows that the first left no lock behind
        error = await raised(open_store(path, clock=SystemClock()))
        assert isinstance(error, StoreError), repr(error)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"xx", id="two bytes"),  # one byte is an empty file for SQLite
        pytest.param(b"timestamp,symbol,price\n" * 40, id="a CSV"),
        pytest.param(bytes(4096), id="a page of zeros"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 5000, id="SQLite's first words and garbage"),
        pytest.param(b"** This file contains an SQLite 2.1 database **\0" + bytes(2000), id="SQLite 2"),
    ],
)
@run_async
async def test_a_file_that_is_no_database_is_refused_and_not_touched(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.write_bytes(content)

    with pytest.raises(NotADatabase):
        await open_store(path, clock=SystemClock())

    assert path.read_bytes() == content
    # The lock's sidecar stays: removing it would let two processes lock two files.
    assert beside(path) == {"bot.db", "bot.db.lock"}


def bots_database(path: Path, *, mode: str) -> None:
    with shell(path) as connection:
        connection.execute(f"pragma journal_mode = {mode}")
        connection.execute("create table positions (symbol text primary key, qty real)")
        connection.execute("insert into positions values ('EURUSD', 1.5)")


@run_async
async def test_the_outbox_moves_into_a_bots_own_wal_database(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    bots_database(path, mode="wal")

    async with opened(path) as store:
        await store.put(*entry())

    assert rows(path, "select * from positions") == [("EURUSD", 1.5)]
    assert count(path) == 1


@pytest.mark.parametrize("in_use", [pytest.param(False, id="idle"), pytest.param(True, id="open elsewhere")])
@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
@run_async
async def test_a_bots_database_in_another_journal_mode_is_not_converted(
    mode: str, in_use: bool, tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    bots_database(path, mode=mode)
    before = path.read_bytes()
    other = sqlite3.connect(path)
    if in_use:
        other.execute("select * from positions").fetchone()

    with pytest.raises(WrongJournalMode, match="not changed"):
        await open_store(path, clock=SystemClock())

    other.close()
    assert path.read_bytes() == before
    assert not {name for name in beside(path) if name.endswith(("-wal", "-shm"))}


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param("create table outbox (mine integer)", id="a table"),
        pytest.param("create view outbox as select 1 as mine", id="a view"),
        pytest.param("create table outbox_counts (mine integer)", id="a table that comes late in the migration"),
        pytest.param("create table mine (x); create index outbox_ready on mine (x)", id="an index"),
        pytest.param("create view v_health as select 1 as mine", id="a view that is called like a view"),
        pytest.param("create table v_trades (mine integer); create view v_dead as select 1", id="another like a view"),
    ],
)
@run_async
async def test_somebody_elses_table_with_our_name_is_a_clear_error_and_nothing_is_made(
    taken: str, tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    with shell(path) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.executescript(taken)
    before = rows(path, "select type, name, sql from sqlite_schema")

    with pytest.raises(StoreError, match=r"one of the outbox.s own \(.*exists\).*not changed. Rename that one"):
        await open_store(path, clock=SystemClock())

    assert rows(path, "select type, name, sql from sqlite_schema") == before


@posix
@run_async
async def test_a_link_and_the_file_it_points_to_are_one_store(tmp_path: Path) -> None:
    path = tmp_path / "real" / "bot.db"
    path.parent.mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(path)  # it dangles: the file is made behind it

    async with opened(link) as store:
        await store.put(*entry())
        assert store.path == path
        for name in (path, link):
            error = await raised(open_store(name, clock=SystemClock()))
            assert type(error).__name__ == "StoreInUse"

    assert beside(link) == {"real", "link.db"}
    assert count(path) == 1


async def pragmas(connection: aiosqlite.Connection) -> dict[str, object]:
    names = ("journal_mode", "synchronous", "fullfsync", "checkpoint_fullfsync", "auto_vacuum")
    return {name: await database.pragma(connection, name) for name in names}


@run_async
async def test_the_writing_connection_is_durable(tmp_path: Path) -> None:
    async with opened(tmp_path / "bot.db") as store:
        granted = await pragmas(store.writer.commits.connection)

    assert granted == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "auto_vacuum": 2,  # INCREMENTAL
    }


@run_async
async def test_a_connection_that_nobody_made_durable_is_not(tmp_path: Path) -> None:
    """The control of the test above: SQLite's defaults would not do."""
    path = tmp_path / "plain.db"
    files.create_file(path)
    connection = await database.connect(path, readonly=False, busy_timeout_s=1)
    await database.pragma(connection, "journal_mode = wal")
    await database.pragma(connection, "synchronous = normal")  # what most peers run
    granted = await pragmas(connection)
    await connection.close()

    assert (granted["synchronous"], granted["fullfsync"], granted["auto_vacuum"]) == (1, 0, 0)


@run_async
async def test_a_reopened_connection_is_as_durable_as_the_first(tmp_path: Path) -> None:
    async with opened(tmp_path / "bot.db") as store:
        first = await pragmas(store.writer.commits.connection)
        store.writer.commits.suspect = True  # as after a failed sync
        await store.put(*entry())
        assert not store.writer.commits.suspect
        assert await pragmas(store.writer.commits.connection) == first


@run_async
async def test_a_database_that_cannot_have_a_wal_is_refused(tmp_path: Path) -> None:
    connection = await aiosqlite.connect(":memory:", isolation_level=None)
    try:
        with pytest.raises(NotDurable, match="journal_mode=memory"):
            await database.make_durable(connection, tmp_path / "bot.db")
    finally:
        await connection.close()


@run_async
async def test_the_reading_connection_cannot_write(tmp_path: Path) -> None:
    async with opened(tmp_path / "bot.db") as store:
        with pytest.raises(StoreError, match="readonly"):
            await store.read("delete from outbox")


@run_async
async def test_a_damaged_file_with_tables_of_the_bots_own_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    bots_database(path, mode="wal")
    async with opened(path) as store:
        for _ in range(200):
            await store.put(*entry())
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 12] = b"\xa5" * (4096 * 11)
    path.write_bytes(content)

    error = await raised(_use(path))

    assert type(error) is StoreCorrupt, repr(error)
    assert path.read_bytes() == content


async def _use(path: Path) -> None:
    async with opened(path) as store:
        await store.put(*entry())


@pytest.mark.slow
@run_async
async def test_an_opening_that_is_cancelled_at_any_moment_leaves_nothing_behind(tmp_path: Path) -> None:
    """The loop is let on by n steps, then the opening is cancelled; the next opening must find the file free."""
    finished = 0
    for steps in range(120):
        path = tmp_path / f"{steps % 3}.db"
        task = asyncio.create_task(open_store(path, clock=SystemClock()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            store = await task
        except asyncio.CancelledError:
            pass
        else:
            finished += 1
            await store.close()
        async with opened(path, wait_s=200) as after:
            await after.put(*entry())
    assert finished < 120


@pytest.mark.parametrize(
    ("version", "exposed"),
    [
        pytest.param((3, 40, 1), True, id="Debian 12"),
        pytest.param((3, 51, 2), True, id="the last with the bug"),
        pytest.param((3, 51, 3), False, id="the fix"),
        pytest.param((3, 53, 4), False, id="the extra's"),
        pytest.param((3, 50, 6), True, id="3.50 before its fix"),
        pytest.param((3, 50, 7), False, id="3.50 with its fix"),
        pytest.param((3, 44, 5), True, id="3.44 before its fix"),
        pytest.param((3, 44, 6), False, id="3.44 with its fix"),
        pytest.param((3, 45, 0), True, id="a later branch without a fix"),
        pytest.param((3, 51, 0), True, id="the branch after the fixed 3.50"),
        pytest.param((3, 6, 23), False, id="before there was a WAL"),
    ],
)
def test_versions_with_the_wal_reset_bug_are_known(version: tuple[int, int, int], exposed: bool) -> None:
    assert database.exposed_to_wal_reset_bug(version) is exposed


def error_with(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("simulated")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param(sqlite3.SQLITE_BUSY, database.ErrorClass.BUSY, id="busy"),
        pytest.param(517, database.ErrorClass.BUSY, id="busy snapshot, an extended code"),
        pytest.param(sqlite3.SQLITE_FULL, database.ErrorClass.FULL, id="full"),
        pytest.param(1034, database.ErrorClass.AMBIGUOUS, id="failed fsync, an extended code"),
        pytest.param(sqlite3.SQLITE_NOTADB, database.ErrorClass.NOT_A_DATABASE, id="no database"),
        pytest.param(sqlite3.SQLITE_ERROR, database.ErrorClass.OTHER, id="a mistake in the statement"),
    ],
)
def test_an_error_code_tells_what_became_of_the_data(code: int, kind: database.ErrorClass) -> None:
    assert database.classify_error(error_with(code)) is kind
    assert isinstance(database.named(error_with(code), Path("bot.db")), OutboxError)


READ_ONLY = """
import asyncio, os, sys
from pathlib import Path
from outbox.clock import SystemClock
from outbox.recovery.open import open_store
from outbox.store.store import Store

async def use(path):
    store = await open_store(path, clock=SystemClock())
    await store.close()

folder = Path(sys.argv[2])
path = folder / "bot.db"
asyncio.run(use(path))
for each in folder.iterdir():
    os.chmod(each, 0o666)
folder.chmod(0o777)
if sys.argv[1] == "file":
    path.chmod(0o444)
elif sys.argv[1] == "folder":
    folder.chmod(0o555)
    (folder / "bot.db.lock").unlink(missing_ok=True)
elif sys.argv[1] == "lock":
    (folder / "bot.db.lock").chmod(0o444)
if os.getuid() == 0:  # root ignores permissions, and its groups are asked before everybody else
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    asyncio.run(use(path))
    print("opened")
except Exception as error:
    print(type(error).__name__)
"""


@posix
@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        pytest.param("nothing", "opened", id="the control: nothing is read-only"),
        pytest.param("file", "StoreError", id="the file"),
        pytest.param("folder", "StoreError", id="the folder"),
        pytest.param("lock", "StoreError", id="the lock"),
    ],
)
def test_what_may_not_be_written_to_is_refused_at_once(what: str, outcome: str) -> None:
    # Not tmp_path: nobody but its owner may look into what is above it.
    with tempfile.TemporaryDirectory() as folder, python(READ_ONLY, what, folder) as process:
        out, err = process.communicate()
    assert out == f"{outcome}\n", err
