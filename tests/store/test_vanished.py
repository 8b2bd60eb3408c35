"""Files that are removed, moved or replaced under a running bot: a real one, killed with SIGKILL afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox.errors import StoreVanished, UnsafePath
from outbox.store.file_watch import FileWatch, Part
from outbox.store.files import WAL_MAGIC
from tests import forked
from tests.store.tools import ROOT, count, entry, opened, raised, rows
from tests.support import run_async

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")

LOOKS = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from outbox').fetchall(); c.close()"
WRITES = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('create table theirs (x)'); input()"


class Victim:
    """A bot's process. lines: what it has logged, once it is dead."""

    def __init__(self, path: Path, *words: str) -> None:
        self.path = path
        self.acknowledged: set[str] = set()
        self.lines: list[str] = []
        self._process = forked.Popen(
            [sys.executable, "-m", "tests.store.victim", str(path), *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else pytest.fail(self.kill())

    def tell(self, words: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        return self._answer()

    def put(self, count: int) -> list[list[Any]]:
        """Put so many rows, one after the other; return [class, message, kept, stored] of each that raised."""
        answer = self.tell(f"put {count}")
        self.acknowledged.update(answer["ids"])
        return list(answer["errors"])

    def kill(self) -> str:
        self._process.kill()
        _, said = self._process.communicate()
        self.lines = self.lines or said.splitlines()
        return said


@contextlib.contextmanager
def victim(path: Path, *words: str) -> Iterator[Victim]:
    bot = Victim(path, *words)
    try:
        yield bot
    finally:
        bot.kill()


def shell(path: Path) -> None:
    """Somebody opens the file, looks and goes: in a process of its own, as its locks would be this one's."""
    subprocess.run([sys.executable, "-c", LOOKS, str(path)], check=True)


def started(path: Path) -> subprocess.CompletedProcess[str]:
    """A second bot on the same file, which must not come in."""
    words = [sys.executable, "-m", "tests.store.victim", str(path)]
    return forked.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def ids(path: Path) -> set[str]:
    return {str(each) for (each,) in rows(path, "select id from outbox")} if path.exists() else set()


# ---------------------------------------------------------------------------------------------- what happens to it

Damage = Callable[[Victim], object]


def removed(*ends: str) -> Damage:
    def damage(bot: Victim) -> None:
        for end in ends:
            Path(f"{bot.path}{end}").unlink()

    return damage


def moved(*ends: str) -> Damage:
    return lambda bot: [Path(f"{bot.path}{end}").rename(bot.path.with_name(f"old.db{end}")) for end in ends]


def folder_moved(bot: Victim) -> None:
    bot.path.parent.rename(bot.path.parent.with_name("elsewhere"))


def folder_removed(bot: Victim) -> None:
    shutil.rmtree(bot.path.parent)


def reads_itself(bot: Victim) -> None:
    """Reading the file drops SQLite's locks: the next shell takes itself for the last one and removes the -wal."""
    bot.tell("read")
    shell(bot.path)
    assert not bot.path.with_name("bot.db-wal").exists()


def copies_itself(bot: Victim) -> None:
    bot.tell("copy")
    shell(bot.path)
    assert not bot.path.with_name("bot.db-wal").exists()


BROUGHT_BACK = [
    pytest.param(removed("", "-wal", "-shm", ".lock"), id="rm bot.db*"),
    pytest.param(removed(""), id="the database is removed"),
    pytest.param(removed("", "-wal"), id="database and WAL are removed"),
    pytest.param(moved(""), id="the database is moved"),
    pytest.param(moved("", "-wal", "-shm"), id="all is moved but the lock"),
    pytest.param(folder_moved, id="its folder is moved"),
    pytest.param(folder_removed, id="its folder is removed"),
]
PUT_RIGHT = [
    pytest.param(removed("-wal"), id="a cleaner takes the WAL"),
    pytest.param(removed("-shm"), id="a cleaner takes the -shm"),
    pytest.param(removed("-wal", "-shm"), id="a cleaner takes both"),
    pytest.param(removed("-wal", ".lock"), id="a cleaner takes WAL and lock"),
    pytest.param(reads_itself, id="the bot reads its file, a shell looks"),
    pytest.param(copies_itself, id="the bot copies its folder, a shell looks"),
]


@pytest.mark.parametrize("damage", BROUGHT_BACK)
def test_the_next_put_says_that_the_file_vanished_and_where_everything_is(damage: Damage, tmp_path: Path) -> None:
    path = tmp_path / "data" / "bot.db"
    path.parent.mkdir()
    with victim(path) as bot:
        assert bot.put(20) == []
        damage(bot)
        ((kind, message, kept, stored),) = bot.put(1)
        assert (kind, kept, stored) == ("StoreVanished", str(path), True)
        assert str(path) in message
        assert f"-{21}: stored there as well" in message
        assert bot.put(19) == []
        stats = bot.tell("stats")
        bot.kill()

    assert stats["files_lost"]
    assert stats["pending"] == stats["now"] == 40
    assert any("was removed or replaced" in warning for warning in stats["warnings"])
    assert [line for line in bot.lines if line.startswith("ERROR")] == ["ERROR database file vanished"]
    assert bot.acknowledged < ids(path)  # and the one whose put raised
    assert count(path) == 40
    with victim(path) as again:
        assert again.put(1) == []
        assert again.tell("stats") | {"warnings": []} == {"pending": 41, "now": 41, "warnings": [], "files_lost": False}


@pytest.mark.parametrize("damage", PUT_RIGHT)
def test_what_is_only_in_a_lost_wal_goes_into_the_database_before_anything_is_acknowledged(
    damage: Damage, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "bot.db"
    path.parent.mkdir()
    with victim(path) as bot:
        assert bot.put(20) == []
        damage(bot)
        assert bot.put(1) == []
        shell(path)  # the locks are taken again: it leaves everything where it is
        assert path.with_name("bot.db-wal").exists()
        assert bot.put(18) == []
        assert bot.tell("transaction")["errors"] == []
        stats = bot.tell("stats")
        bot.kill()

    assert stats["files_lost"]
    assert [line for line in bot.lines if line.startswith("ERROR")] == [
        "ERROR files beside the database were removed, now restored"
    ]
    assert bot.acknowledged <= ids(path)
    assert count(path) == 40


@pytest.mark.parametrize("damage", [BROUGHT_BACK[0], BROUGHT_BACK[3], PUT_RIGHT[0], PUT_RIGHT[4]])
def test_control_a_bot_that_does_not_look_loses_acknowledged_rows(damage: Damage, tmp_path: Path) -> None:
    path = tmp_path / "data" / "bot.db"
    path.parent.mkdir()
    with victim(path, "blind") as bot:
        assert bot.put(20) == []
        damage(bot)
        assert bot.put(20) == []
        bot.kill()

    assert bot.acknowledged - ids(path)


def test_a_database_that_is_emptied_raises_before_another_row_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        assert bot.put(20) == []
        os.truncate(path, 0)
        errors = bot.put(3)
        assert [error[0] for error in errors] == ["StoreVanished"] * 3
        assert "emptied" in errors[0][1]
        kept = Path(errors[0][2])  # its first pages stood in the -wal still
        bot.kill()
    assert "ERROR database file vanished" in bot.lines
    assert bot.acknowledged <= ids(kept)


def with_a_shorter_wal(
    path: Path, words: tuple[str, ...], *, part: float
) -> tuple[Victim, set[str], list[list[Any]], list[str]]:
    """Put 20 rows, leave `part` of the -wal, put three more and kill the bot.

    Returns it, what it acknowledged of the three, their errors, and what the next one says.
    """
    with victim(path, *words) as bot:
        assert bot.put(20) == []
        before = set(bot.acknowledged)
        os.truncate(f"{path}-wal", int(Path(f"{path}-wal").stat().st_size * part))
        errors = bot.put(3)
        bot.kill()
    with victim(path) as again:
        said = again.tell("stats")["warnings"] + again.kill().splitlines()
    return bot, bot.acknowledged - before, errors, said


@pytest.mark.parametrize("words", [(), ("blind",)], ids=["", "control: without the look puts go on behind the hole"])
def test_a_wal_that_is_emptied_raises_before_another_row_is_acknowledged(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    bot, fresh, errors, said = with_a_shorter_wal(path, words, part=0)
    if words:
        assert errors == []
        assert fresh
        assert not ids(path) & bot.acknowledged
        return
    assert [(kind, stored) for kind, _, _, stored in errors] == [
        ("StoreVanished", True), ("StoreVanished", False), ("StoreVanished", False),
    ]  # fmt: skip
    assert "its -wal, which was emptied, cut or" in errors[0][1]
    assert ": lost. Put the same id again" in errors[0][1]
    assert "ERROR database file vanished" in bot.lines
    assert "ERROR acknowledged entries are missing" in said
    assert rows(path, "pragma integrity_check") == [("ok",)]


@pytest.mark.parametrize("words", [(), ("blind",)], ids=["", "control: without the look puts go on behind the hole"])
def test_a_wal_that_is_cut_in_the_middle_raises_before_another_row_is_acknowledged(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    bot, fresh, errors, said = with_a_shorter_wal(path, words, part=0.5)
    assert rows(path, "pragma integrity_check") == [("ok",)]
    if words:
        assert errors == []
        assert fresh - ids(path)
        return
    assert [(kind, stored) for kind, _, _, stored in errors] == [
        ("StoreVanished", True), ("StoreVanished", False), ("StoreVanished", False),
    ]  # fmt: skip
    assert "its -wal, which was emptied, cut or" in errors[0][1]
    assert "ERROR database file vanished" in bot.lines
    assert "ERROR acknowledged entries are missing" in said


@pytest.mark.parametrize("limit", [None, 0, 20_000])
def test_a_shell_that_makes_the_wal_shorter_is_no_cut(limit: int | None, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        assert bot.put(20) == []
        long = Path(f"{path}-wal").stat().st_size
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
            if limit is None:
                shell.execute("pragma wal_checkpoint(truncate)")
            else:
                shell.execute(f"pragma journal_size_limit = {limit}")
                shell.execute("pragma wal_checkpoint(restart)")
            shell.execute("create table of_mine (n int)")
        assert Path(f"{path}-wal").stat().st_size < long
        assert bot.put(20) == []
        bot.kill()
    assert bot.acknowledged == ids(path)


def test_a_link_to_the_moved_file_at_its_place_is_another_file(tmp_path: Path) -> None:
    path, moved = tmp_path / "bot.db", tmp_path / "moved.db"
    with victim(path) as bot:
        assert bot.put(20) == []
        path.rename(moved)
        path.symlink_to(moved)
        first, second = bot.put(2)
        bot.kill()
    kept = Path(first[2])
    assert kept.name.startswith("bot.db.rescued-")
    assert (second[0], second[3]) == ("StoreVanished", False)
    assert bot.acknowledged < ids(kept)


def test_a_link_that_leads_to_itself_is_left_alone_and_refused_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        assert bot.put(20) == []
        path.unlink()
        path.symlink_to(path)
        (error,) = bot.put(1)
        bot.kill()
    assert error[0] == "StoreVanished"
    assert bot.acknowledged < ids(Path(error[2]))
    assert "StoreError" in started(path).stderr


def test_another_file_at_the_path_is_left_alone_and_everything_is_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        bot.put(20)
        other = sqlite3.connect(tmp_path / "other.db")
        other.execute("create table theirs (x)")
        other.close()
        (tmp_path / "other.db").replace(path)
        first, second = bot.put(2)
        stats = bot.tell("stats")
        bot.kill()

    kept = Path(first[2])
    assert kept.name.startswith("bot.db.rescued-")
    assert "stored there as well" in first[1]
    assert (second[0], second[3]) == ("StoreVanished", False)
    assert "nothing was written" in second[1]
    assert any("nothing more is written before the outbox is opened again" in each for each in stats["warnings"])
    assert bot.acknowledged < ids(kept)
    assert rows(path, "select name from sqlite_schema") == [("theirs",)]
    assert [line for line in bot.lines if line.startswith("ERROR database")] == ["ERROR database file vanished"]


def test_a_wal_of_another_process_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        bot.put(20)
        bot.tell("read")
        shell(path)
        other = subprocess.Popen([sys.executable, "-c", WRITES, str(path)], stdin=subprocess.PIPE, text=True)
        while not path.with_name("bot.db-wal").exists() or not path.with_name("bot.db-wal").stat().st_size:
            assert other.poll() is None
        (error,) = bot.put(1)
        assert "another process" in error[1]
        other.communicate("")
        assert bot.tell("close") == {}  # it does not bring its own WAL over theirs

    assert bot.acknowledged < ids(Path(error[2]))
    assert ("theirs",) in rows(path, "select name from sqlite_schema")
    assert rows(path, "pragma integrity_check") == [("ok",)]


def test_a_lock_that_was_removed_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        bot.put(1)
        path.with_name("bot.db.lock").unlink()
        assert bot.put(1) == []
        second = started(path)
        assert "StoreInUse" in second.stderr
        assert bot.tell("stats")["files_lost"]


def test_a_lock_that_was_dropped_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "data" / "bot.db"
    path.parent.mkdir()
    with victim(path) as bot:
        bot.put(1)
        bot.tell("copy")  # reads the lock's file, too
        assert bot.put(1) == []
        second = started(path)
        assert "StoreInUse" in second.stderr


@pytest.mark.parametrize("words", [(), ("blind",)], ids=["", "control: without the look both write"])
def test_of_two_writers_the_one_whose_lock_was_removed_ends(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path, *words) as bot:
        bot.put(10)
        path.with_name("bot.db.lock").unlink()
        with victim(path) as other:
            other.put(10)
            errors = bot.put(2)
            assert other.put(5) == []
            if words:
                assert errors == []
                return
            assert [error[0] for error in errors] == ["StoreVanished", "StoreVanished"]
            assert "is open for writing by process" in errors[0][1]
        bot.tell("close")

    assert bot.acknowledged | other.acknowledged <= ids(path)


def test_what_only_this_process_still_has_is_brought_back_at_the_close(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with victim(path) as bot:
        bot.put(20)
        removed("", "-wal", "-shm")(bot)
        bot.tell("close")
    assert bot.acknowledged == ids(path)


@pytest.mark.parametrize("first", [True, False], ids=["the first row of its lane", "one more"])
@run_async
async def test_the_error_says_whether_the_row_itself_is_stored(first: bool, tmp_path: Path) -> None:
    """Of a lane's first row the lane is stored before it; that commit, too, finds the file gone."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        if not first:
            await store.put(*entry())
        path.unlink()
        error = await raised(store.put(*entry()))
        assert isinstance(error, StoreVanished)
        assert error.goes_on
        assert error.stored is not first
    assert count(path) == (0 if first else 2)


@run_async
async def test_what_cannot_be_brought_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data" / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
        shutil.rmtree(path.parent)
        path.parent.write_text("not a folder any more")
        error = await raised(store.put(*entry()))
        assert isinstance(error, StoreVanished)
        assert error.kept is None
        assert "could not be brought back" in str(error)
        assert str(os.getpid()) in str(error)


@run_async
async def test_a_connection_of_the_bots_own_keeps_the_outbox_from_going_on(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
        own = sqlite3.connect(path)
        own.execute("select count(*) from outbox").fetchall()
        path.with_name("bot.db-shm").unlink()
        error = await raised(store.put(*entry()))
        assert isinstance(error, StoreVanished)
        assert "have the file open elsewhere" in str(error)
        assert error.kept == path
        own.close()
    assert count(path) == 2


@run_async
async def test_a_file_with_a_second_name_is_not_opened(tmp_path: Path) -> None:
    path, second = tmp_path / "bot.db", tmp_path / "second.db"
    async with opened(path) as store:
        await store.put(*entry())
    second.hardlink_to(path)
    for name in (path, second):
        assert isinstance(await raised(_once(name)), UnsafePath)
    second.unlink()
    async with opened(path) as store:  # the control: with one name it opens
        await store.put(*entry())


async def _once(path: Path) -> None:
    async with opened(path):
        pass


OPENS = """
import asyncio, sys
from outbox import Outbox
async def main():
    async with Outbox.open(path=sys.argv[1]):
        pass
asyncio.run(main())
"""


@pytest.mark.parametrize(("what", "refused"), [("bot.db", True), (".", False)], ids=["the file", "control: its folder"])
def test_a_file_that_is_mounted_by_itself_is_not_opened(what: str, refused: bool, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in side", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "bot.db").touch()
    mounts = f'mount --bind "{outside / what}" "{inside / what}" && "{sys.executable}" -c "$0" "{inside}/bot.db"'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mounts, OPENS], cwd=ROOT, capture_output=True, text=True)
    assert ("UnsafePath" in done.stderr) is refused, done.stderr
    assert (done.returncode != 0) is refused, done.stderr


def test_a_file_on_another_disk_than_its_folder_says_so(tmp_path: Path) -> None:
    """A real one: a tmpfs whose file is mounted over one in another folder."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (inside / "bot.db").touch()
    mounts = (
        f'mount -t tmpfs tmpfs "{outside}" && touch "{outside}/bot.db" && mount --bind "{outside}/bot.db"'
        f' "{inside}/bot.db" && "{sys.executable}" -c "$0" "{inside}/bot.db";'
        f' "{sys.executable}" -c "$0" "{outside}/bot.db"'
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mounts, OPENS], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.count("database file lies on another device than its folder") == 1, done.stderr
    assert "UnsafePath" in done.stderr
    assert done.returncode == 0, done.stderr  # the control: on that disk, in its own folder


def test_a_look_costs_microseconds_and_finds_each_part(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    for part in Part:
        Path(f"{path}{part.value}").write_bytes(WAL_MAGIC[0])
    held = True
    watch = FileWatch(path, lambda: held)
    watch.look()
    assert watch.gone == frozenset()  # nothing is known yet
    watch.remember()
    watch.look()
    assert watch.gone == frozenset()
    for part in Part:
        place = Path(f"{path}{part.value}")
        place.rename(f"{place}.old")
        watch.look()
        assert (set(watch.gone), set(watch.replaced)) == ({part}, set())
        place.write_bytes(b"x")
        watch.look()
        assert (set(watch.gone), set(watch.replaced)) == ({part}, {part})
        Path(f"{place}.old").replace(place)
    watch.look()
    assert watch.gone == frozenset()
    held = False
    watch.look()
    assert watch.gone == {Part.LOCK}
    watch.forget()
