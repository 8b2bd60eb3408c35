"""What lies beside the file and does not belong there: another's journal, a link, a number beyond all others; root."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox import DiskFull, Outbox, Settings, StoreError
from outbox.errors import NotADatabase, UnsafePath
from outbox.forensics.backup import back_up
from outbox.store import files, maintenance
from outbox.store.capacity import Reserve
from outbox.store.lock import WriterLock
from outbox.store.read_only import ReadOnlyStore, look
from outbox.testing import ManualClock
from tests.store.tools import ROOT, count, raised, rows, shell, until
from tests.support import run_async

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other links and owners")


def settings(path: Path) -> Settings:
    return Settings(path=path, _env_file=None)


@run_async
async def made(path: Path) -> None:
    async with Outbox.open(settings(path)) as outbox:
        await outbox.put("fills", {"n": 1})


# ------------------------------------------------------------------------------------------ a stray journal


def journal_of_another(place: Path, folder: Path) -> None:
    """Leave the hot journal of a database that has nothing to do with the outbox at `place`."""
    with shell(folder / "other.db") as other:
        other.execute("create table t (x)")
        other.executemany("insert into t values (?)", [("a" * 3000,)] * 100)
        other.execute("pragma cache_size = 1")
        other.execute("begin")
        other.execute("update t set x = 'b' || x")
        shutil.copyfile(folder / "other.db-journal", place)
        other.execute("rollback")


def test_the_journal_of_another_database_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    made(path)
    journal_of_another(files.journal_path(path), tmp_path)
    before = path.read_bytes()

    error = opening(path)

    assert type(error) is StoreError
    assert "another database's" in str(error) and "mv " in str(error)
    assert path.read_bytes() == before
    files.journal_path(path).rename(tmp_path / "stray")
    assert opening(path) is None
    assert count(path) == 1


def test_the_journal_is_refused_beside_the_wal_of_a_killed_bot_too(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    made(path)
    with shell(path) as db:
        db.execute("insert into outbox (destination, payload) values ('fills', '{}')")
        parts = {each: each.read_bytes() for each in (path, files.wal_path(path))}
    for place, content in parts.items():
        place.write_bytes(content)
    journal_of_another(files.journal_path(path), tmp_path)

    assert "another database's" in str(opening(path))

    files.journal_path(path).unlink()
    assert opening(path) is None
    assert count(path) == 2


def test_plain_sqlite_writes_the_other_databases_pages_into_the_file(tmp_path: Path) -> None:
    """The control: what an opening without that look comes to."""
    path = tmp_path / "bot.db"
    made(path)
    journal_of_another(files.journal_path(path), tmp_path)
    with shell(path) as db, pytest.raises(sqlite3.DatabaseError):
        db.execute("select count(*) from outbox").fetchall()


@pytest.mark.parametrize("end", ["-journal", "-wal"])
def test_what_is_neither_a_journal_nor_a_wal_is_set_aside_before_sqlite_removes_it(end: str, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    made(path)
    path.with_name(path.name + end).write_bytes(b"notes of somebody's")
    assert opening(path) is None
    (kept,) = tmp_path.glob(f"bot.db{end}.stray-*")
    assert kept.read_bytes() == b"notes of somebody's"
    assert count(path) == 1
    # Control: SQLite by itself.
    path.with_name(path.name + end).write_bytes(b"notes of somebody's")
    with shell(path) as db:
        db.execute("insert into outbox (destination, payload) values ('fills', '{}')")
    assert not path.with_name(path.name + end).exists()


KINDS: list[Any] = [
    pytest.param(os.mkfifo, "a named pipe", id="pipe"),
    pytest.param(os.mkdir, "a folder", id="folder"),
    pytest.param(lambda place: place.symlink_to(place.parent / "precious"), "a symbolic link", id="link"),
]


@on_posix
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize(("make", "words"), KINDS)
def test_what_is_no_plain_file_is_named_and_nothing_is_opened(
    make: Callable[[Path], object], words: str, end: str, tmp_path: Path
) -> None:
    path, precious = tmp_path / "bot.db", tmp_path / "precious"
    precious.write_bytes(b"precious")
    if end:
        made(path)
    make(path.with_name(path.name + end))
    before = {each.name for each in tmp_path.iterdir()}

    if not end and "link" in words:  # a link in the database's own place is followed: to something that is none
        assert isinstance(opening(path), NotADatabase)
        return
    error, seen = opening(path), looking(path)
    assert isinstance(error, UnsafePath)
    assert isinstance(seen, StoreError)
    assert f"{path}{end} is {words}" in str(error)
    assert f"{path}{end} is" in str(seen)
    assert {each.name for each in tmp_path.iterdir()} == before
    assert precious.read_bytes() == b"precious"


@run_async
async def looking(path: Path) -> BaseException | None:
    async def work(_: ReadOnlyStore) -> None:
        pass

    return await raised(look(path, work))


def test_the_journal_of_its_own_change_of_mode_is_taken_back(tmp_path: Path) -> None:
    """A backup that is put in the file's place becomes a WAL database; a kill in that moment leaves its journal."""
    path = tmp_path / "bot.db"
    made(path)
    with shell(path) as db:
        db.execute("pragma journal_mode = delete")
    before = path.read_bytes()
    with shell(path) as db:
        db.execute("pragma journal_mode = wal")
    page = 4096
    header = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"".join(
        number.to_bytes(4, "big") for number in (1, 7, len(before) // page, 512, page)
    )
    checksum = (7 + sum(before[place] for place in range(page - 200, 0, -200))) & 0xFFFFFFFF
    record = (1).to_bytes(4, "big") + before[:page] + checksum.to_bytes(4, "big")
    files.journal_path(path).write_bytes(header.ljust(512, b"\0") + record)

    assert opening(path) is None

    assert count(path) == 1
    assert not files.journal_path(path).exists()


@run_async
async def opening(path: Path) -> BaseException | None:
    async def work() -> None:
        async with Outbox.open(settings(path)):
            pass

    return await raised(work())


# ------------------------------------------------------------------------------------------ the last number


@pytest.mark.parametrize("seq", [2**63 - 1, 2**63 - 2])
@run_async
async def test_a_shells_row_with_the_last_number_is_an_error_that_says_what_to_type(seq: int, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with Outbox.open(settings(path)) as outbox:
        await outbox.put("fills", {"n": 1}, id="one")
        with shell(path) as db:
            db.execute("insert into outbox (seq, id, destination, payload) values (?, 'odd', 'fills', '{}')", (seq,))
        while (error := await raised(outbox.put("fills", {"n": 2}))) is None:
            pass
        for work in (outbox.put("fills", {"n": 2}), outbox.put_many("fills", [{"n": 2}, {"n": 3}]), in_a_block(outbox)):
            error = await raised(work)
            assert type(error) is StoreError, repr(error)
        assert (await outbox.stats()).reserve_released_ms is None, "the disk is not full"

        statement = str(error).rpartition('db" "')[2].removesuffix('"')
        with shell(path) as db:
            db.executescript(statement)
        assert (await outbox.put("fills", {"n": 4})).seq < 10
        assert (await outbox.put("fills", {"n": 5}, id="one", if_exists="keep")).seq == 1
    async with Outbox.open(settings(path)) as outbox:
        assert (await outbox.stats()).loss is None
        assert (await outbox.put("fills", {"n": 6})).seq < 10
    assert rows(path, "select count(*) from outbox where id = 'odd' and seq < 10") == [(1,)]


async def in_a_block(outbox: Outbox) -> None:
    async with outbox.transaction() as tx:
        await tx.put("fills", {"n": 2})
        await tx.execute("select 1")


def test_sqlite_calls_that_a_full_disk(tmp_path: Path) -> None:
    """The control."""
    path = tmp_path / "bot.db"
    made(path)
    with shell(path) as db:
        db.execute("insert into outbox (seq, destination, payload) values (?, 'fills', '{}')", (2**63 - 1,))
        with pytest.raises(sqlite3.OperationalError, match="full") as caught:
            db.execute("insert into outbox (destination, payload) values ('fills', '{}')")
    assert caught.value.sqlite_errorcode == sqlite3.SQLITE_FULL
    assert issubclass(DiskFull, StoreError)


# ------------------------------------------------------------------------------------------ a second name


@on_posix
@run_async
async def test_a_hard_link_that_is_made_under_the_bot_is_an_alarm_until_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_EVERY_S", 0.02)
    monkeypatch.setattr(maintenance, "_EVERY_S_IF_HINDERED", 0.02)
    path = tmp_path / "bot.db"
    async with Outbox.open(settings(path)) as outbox:
        os.link(path, tmp_path / "copy.db")
        found = outbox._maintenance
        assert found is not None
        await until(lambda: found.notices.second_name_ms is not None)
        await outbox.put("fills", {"n": 1})  # nothing is in danger yet
        await until(lambda: any(each.msg == "database file has a second name" for each in caplog.records))
        assert [each.levelname for each in caplog.records if "second name" in each.msg] == ["ERROR"]
        (tmp_path / "copy.db").unlink()
        await until(lambda: found.notices.second_name_ms is None)
        assert (await outbox.stats()).second_name_ms is None


def test_a_file_on_another_device_than_its_folder_is_logged(tmp_path: Path) -> None:
    own = tmp_path.stat().st_dev
    assert files.is_elsewhere(own + 1, tmp_path / "bot.db")
    assert not files.is_elsewhere(own, tmp_path / "bot.db")


@run_async
async def test_a_file_on_the_device_of_its_folder_logs_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The control for both."""
    caplog.set_level(logging.WARNING)
    async with Outbox.open(settings(tmp_path / "bot.db"), clock=ManualClock()):
        pass
    assert [each.msg for each in caplog.records if "device" in each.msg or "name" in each.msg] == []


# ------------------------------------------------------------------------------------------ links, and root


def lock(path: Path) -> None:
    WriterLock(path).release()


def reserve(path: Path) -> None:
    Reserve(path, 4096).make()


WRITERS = [
    pytest.param(".lock", lock, id="lock"),
    pytest.param("-reserve", reserve, id="reserve"),
    pytest.param("-reserve-trial", lambda path: Reserve(path, 4096).lacks(4096), id="trial"),
]


@on_posix
@pytest.mark.parametrize(("end", "write"), WRITERS)
def test_a_link_in_the_place_of_a_file_beside_is_not_followed(
    end: str, write: Callable[[Path], object], tmp_path: Path
) -> None:
    path, target = tmp_path / "bot.db", tmp_path / "precious"
    target.write_bytes(b"precious")
    path.with_name(path.name + end).symlink_to(target)
    try:
        write(path)
    except StoreError as error:
        assert end in str(error)
    assert target.read_bytes() == b"precious"
    assert target.stat().st_mode & 0o777 == 0o644 & ~_umask()


@on_posix
def test_a_backup_follows_no_link_in_the_place_of_its_target(tmp_path: Path) -> None:
    path, precious = tmp_path / "bot.db", tmp_path / "precious"
    made(path)
    precious.write_bytes(b"precious")
    (tmp_path / "full").symlink_to(precious)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for target in (tmp_path / "full", tmp_path / "dangling"):
        with pytest.raises(StoreError, match="exists; nothing was overwritten"):
            back_up(path, target)
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()
    # Controls: a plain name; and what SQLite's own backup does with such a link.
    assert back_up(path, tmp_path / "plain").entries == 1
    with shell(path) as source, sqlite3.connect(tmp_path / "dangling") as target_db:
        source.backup(target_db)
    assert (tmp_path / "nowhere").exists()
    target_db.close()


@on_posix
def test_an_open_that_follows_links_writes_there(tmp_path: Path) -> None:
    """The control."""
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "bot.db.lock").symlink_to(target)
    descriptor = os.open(tmp_path / "bot.db.lock", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"{")
    os.close(descriptor)
    assert target.read_bytes() != b"precious"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


USER = 12_345
AS_USER = f"""
import os, sys, tempfile
sys.path.insert(0, {str(ROOT)!r})
from outbox import BlockingOutbox, Settings
def put(path):
    with BlockingOutbox(Settings(path=path, _env_file=None)) as outbox:
        outbox.put("fills", {{"n": 2}})
with tempfile.TemporaryDirectory() as folder:
    put(folder + "/first.db")  # what is imported late may be in a folder of root's
os.setgid({USER})
os.setuid({USER})
put(sys.argv[1])
"""


def as_user(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", AS_USER, path], capture_output=True, text=True, timeout=200)


@pytest.fixture
def folder_of_the_user() -> Iterator[Path]:
    """Not below pytest's own, which only root may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, USER, USER)
        yield Path(folder)


if sys.platform != "win32" and os.geteuid() == 0:

    @pytest.mark.slow
    def test_what_root_makes_belongs_to_the_folders_owner_so_that_the_bot_can_start(folder_of_the_user: Path) -> None:
        path = folder_of_the_user / "bot.db"
        made(path)  # `sudo outbox put`, before the bot ever ran
        backup = subprocess.run(
            [sys.executable, "-m", "outbox", "backup", path.with_name("copy.db"), "--path", path],
            capture_output=True, text=True, cwd=ROOT, timeout=200,
        )  # fmt: skip
        assert backup.returncode == 0, backup.stderr
        assert {each.name: each.lstat().st_uid for each in path.parent.rglob("*")} == {
            each.name: USER for each in path.parent.rglob("*")
        }
        done = as_user(path)
        assert done.returncode == 0, done.stderr
        assert count(path) == 2

    def test_what_root_would_keep_for_itself_stops_the_bot(
        folder_of_the_user: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The control."""
        path = folder_of_the_user / "bot.db"
        monkeypatch.setattr(files, "give", lambda *_, **__: None)
        made(path)
        done = as_user(path)
        assert done.returncode != 0
        assert "StoreError" in done.stderr
