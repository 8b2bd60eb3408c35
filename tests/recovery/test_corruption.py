"""Damage: what is set aside, what is refused, and how a lost or foreign -wal is found."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from outbox.clock import SystemClock
from outbox.errors import NotADatabase, StoreCorrupt, StoreError
from outbox.forensics.backup import back_up
from outbox.recovery import clean_close, probe, quarantine
from outbox.recovery.judge import Wal
from outbox.recovery.open import open_store
from outbox.recovery.probe import found_beside
from outbox.snapshot import take
from outbox.store import database, files
from outbox.store.read_only import ReadOnlyStore, look
from tests.store.tools import count, entry, opened, python, raised, rows, shell
from tests.support import run_async

# Puts rows until it is told to die: its file is left as a kill leaves it.
BOT = """
import asyncio, os, sys
from pathlib import Path
from outbox.clock import SystemClock
from outbox.recovery.probe import found_beside
from outbox.recovery.open import open_store
from outbox.store.store import Store
from tests.store.tools import entry

async def main():
    store = await open_store(Path(sys.argv[1]), clock=SystemClock())
    for _ in range(int(sys.argv[2])):
        await store.put(*entry())
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def killed(path: Path, puts: int = 5) -> None:
    """Leave `path` as a killed bot leaves it, with `puts` more entries."""
    with python(BOT, str(path), str(puts)) as process:
        _, err = process.communicate()
    assert err == ""


async def filled(path: Path, puts: int = 300) -> None:
    async with opened(path) as store:
        for _ in range(puts // 100):
            for waiting in [store.put(*entry()) for _ in range(100)]:
                await waiting


def own_tables(path: Path) -> None:
    with shell(path) as connection:
        connection.execute("create table positions (symbol text primary key, qty real)")


def set_aside(path: Path) -> list[Path]:
    return list(probe.found_beside(path))


def flip(path: Path, start: int, size: int = 64) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(byte ^ 0xFF for byte in content[start : start + size])
    path.write_bytes(content)


def flipped_header(path: Path) -> None:
    flip(path, 0, 16)


def flipped_schema(path: Path) -> None:
    flip(path, 100, 3000)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def every_page_after_the_first(path: Path) -> None:
    flip(path, 4096, path.stat().st_size - 4096)


DAMAGES = [flipped_header, flipped_schema, truncated, emptied, garbage, every_page_after_the_first]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@run_async
async def test_a_damaged_outbox_is_set_aside_and_the_bot_goes_on(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bot.db"
    await filled(path)
    damage(path)
    content = path.read_bytes()

    async with opened(path) as store:
        receipt = await store.put(*entry())
        (aside,) = found_beside(store.path)

    assert aside.name.startswith("bot.db.corrupt-")
    assert aside.read_bytes() == content
    assert receipt.seq > 300, "a number would have been used twice"
    assert count(path) == 1
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert vars(line)["quarantined"] == str(aside)
    async with opened(path) as store:  # red until somebody deals with it, and nothing is set aside twice
        assert found_beside(store.path) == (aside,)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@run_async
async def test_a_damaged_file_with_the_bots_own_tables_is_refused_and_not_touched(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    own_tables(path)
    await filled(path, 200)  # from here on it is written down that there are some
    damage(path)
    content = path.read_bytes()

    for _ in range(2):
        assert type(await raised(open_store(path, clock=SystemClock()))) is StoreCorrupt

    assert path.read_bytes() == content
    assert set_aside(path) == []


@run_async
async def test_the_tables_of_litestream_do_not_make_a_file_the_bots_own(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with shell(path) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table _litestream_seq (id integer primary key, seq integer)")
    await filled(path, 200)
    flip(path, 0, 4096)

    async with opened(path) as store:
        assert len(found_beside(store.path)) == 1


@run_async
async def test_own_tables_are_known_from_the_moment_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        block = store.block(2.0)
        await block.begin()
        store.sidecar.update(own_tables=True)
        await block.end(commit=True)
        assert store._lock.sidecar._facts is not None
        assert store._lock.sidecar._facts.own_tables


@run_async
async def test_a_damaged_file_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    """Without its schema and without what was written down beforehand nobody can tell what else was in it."""
    path = tmp_path / "bot.db"
    await filled(path, 100)
    flipped_schema(path)
    (tmp_path / "bot.db.lock").unlink()
    content = path.read_bytes()

    assert isinstance(await raised(open_store(path, clock=SystemClock())), StoreCorrupt)

    assert path.read_bytes() == content
    assert set_aside(path) == []


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(sqlite3.SQLITE_IOERR, id="an I/O error"),
        pytest.param(sqlite3.SQLITE_BUSY, id="busy"),
        pytest.param(sqlite3.SQLITE_CANTOPEN, id="it cannot be opened"),
        pytest.param(sqlite3.SQLITE_FULL, id="full"),
        pytest.param(sqlite3.SQLITE_NOMEM, id="no memory"),
    ],
)
@run_async
async def test_a_file_that_cannot_be_reached_is_never_set_aside(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    error = sqlite3.OperationalError("simulated")
    error.sqlite_errorcode = code

    async def failing(*_: object, **__: object) -> None:
        raise database.named(error, path) from error

    monkeypatch.setattr(database, "open_writer", failing)

    caught = await raised(open_store(path, clock=SystemClock()))
    assert type(caught).__name__ in ("StoreError", "StoreBusy", "DiskFull")
    assert set_aside(path) == []


@run_async
async def test_damage_met_while_the_bot_runs_is_reported_and_set_aside_at_the_next_opening(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bot.db"
    await filled(path)
    ((page,),) = rows(path, "select rootpage from sqlite_schema where name = 'outbox_sessions'")
    assert isinstance(page, int)
    flip(path, (page - 1) * 4096, 4096)  # a page that opening does not read

    async with opened(path) as store:
        caught = await raised(store.read("select * from outbox_sessions"))
        assert isinstance(caught, StoreCorrupt)
        assert store.damage is not None
        await store.put(*entry())  # what is sound still works
        assert set_aside(path) == []
    told = [vars(each).get("path") for each in caplog.records if each.levelno == logging.ERROR]
    assert told == [str(path)]

    async with opened(path) as store:
        assert store.damage is None
        assert len(found_beside(store.path)) == 1


@run_async
async def test_damage_that_is_gone_at_the_next_opening_sets_nothing_aside(tmp_path: Path) -> None:
    """A flipped bit in memory is no damage of the file."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
        store.on_corrupt(sqlite3.DatabaseError("database disk image is malformed"))

    async with opened(path) as store:
        assert found_beside(store.path) == ()
    assert count(path) == 1


# ---------------------------------------------------------------------------------------------- the -wal


@run_async
async def test_a_plain_kill_raises_no_alarm(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    for _ in range(3):
        killed(path)
        async with opened(path) as store:
            assert (await take(store)).loss is None
            assert found_beside(store.path) == ()
    assert count(path) == 15


@pytest.mark.parametrize("rest", [("-wal",), ("-wal", "-shm")], ids=["the -wal", "the -wal and the -shm"])
@run_async
async def test_a_lost_wal_is_found_and_says_which_entries_are_missing(
    rest: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    killed(path, 7)
    for end in rest:
        path.with_name(path.name + end).unlink()

    async with opened(path) as store:
        assert "entries 101 to 107" in str((await take(store)).loss)
        receipt = await store.put(*entry())

    assert receipt.seq == 108, "a number would have been used twice"
    assert [each for each in caplog.records if each.levelno == logging.ERROR]
    async with opened(path) as store:
        assert (await take(store)).loss is not None


@run_async
async def test_a_lost_wal_goes_unnoticed_without_what_is_kept_beside_and_in_the_file(tmp_path: Path) -> None:
    """The control: SQLite itself opens such a file without a word."""
    path = tmp_path / "bot.db"
    await filled(path, 100)
    killed(path, 7)
    path.with_name("bot.db-wal").unlink()
    path.with_name("bot.db.lock").unlink()
    with shell(path) as connection:
        connection.execute("delete from outbox_meta where name = 'open'")

    async with opened(path) as store:
        assert (await take(store)).loss is None
    assert count(path) == 100


@run_async
async def test_a_copy_without_its_wal_may_have_lost_something(tmp_path: Path) -> None:
    path, copy = tmp_path / "bot.db", tmp_path / "copy.db"
    await filled(path, 100)
    killed(path, 7)
    shutil.copyfile(path, copy)

    async with opened(copy) as store:
        assert "may be missing" in str((await take(store)).loss)


@run_async
async def test_a_copy_made_while_the_bot_runs_says_that_later_entries_may_be_missing(tmp_path: Path) -> None:
    path, copy = tmp_path / "bot.db", tmp_path / "copy.db"
    async with opened(path) as store:
        await store.put(*entry())
        with shell(path) as connection:
            connection.execute("vacuum into ?", (str(copy),))

    async with opened(copy) as store:
        assert "from 2 on may be missing" in str((await take(store)).loss)
        await store.put(*entry())
    assert count(copy) == 2


@run_async
async def test_a_shell_that_tidies_up_after_a_kill_raises_no_alarm(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    killed(path)
    # A process of its own, the last to close the file: it brings the -wal home and removes it.
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select count(*) from outbox'); c.close()"
    with python(code, str(path)) as process:
        _, err = process.communicate()
    assert err == ""
    assert not path.with_name("bot.db-wal").exists()

    async with opened(path) as store:
        assert (await take(store)).loss is None
    assert count(path) == 5


@run_async
async def test_an_older_copy_in_the_files_place_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    shutil.copyfile(path, tmp_path / "backup.db")
    await filled(path, 100)
    shutil.copyfile(tmp_path / "backup.db", path)

    async with opened(path) as store:
        assert "entries 101 to 200" in str((await take(store)).loss)


@run_async
async def test_another_databases_wal_is_set_aside_and_not_used(tmp_path: Path) -> None:
    path, other = tmp_path / "bot.db", tmp_path / "other.db"
    await filled(path, 300)
    killed(path, 0)
    killed(other, 9)
    shutil.copyfile(tmp_path / "other.db-wal", tmp_path / "bot.db-wal")
    path.with_name("bot.db-shm").unlink(missing_ok=True)

    async with opened(path) as store:
        assert [each.name[-4:] for each in found_beside(store.path)] == ["-wal"]
        await store.put(*entry())

    assert rows(path, "pragma integrity_check") == [("ok",)]
    assert count(path) == 301


@run_async
async def test_another_databases_wal_ruins_the_file_if_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: SQLite itself takes any -wal for this database's."""
    monkeypatch.setattr(probe, "wal_belongs", lambda *_: True)
    path, other = tmp_path / "bot.db", tmp_path / "other.db"
    await filled(path, 300)
    killed(path, 0)
    killed(other, 9)
    shutil.copyfile(tmp_path / "other.db-wal", tmp_path / "bot.db-wal")
    path.with_name("bot.db-shm").unlink(missing_ok=True)

    caught = await raised(_counted(path))

    assert caught is not None or count(path) != 300 or rows(path, "pragma integrity_check") != [("ok",)]


async def _counted(path: Path) -> None:
    async with opened(path):
        pass


@run_async
async def test_a_wal_that_looks_strange_but_fits_is_used(tmp_path: Path) -> None:
    """A shell's `wal_checkpoint(truncate)` draws a new salt: what was acknowledged since must not be set aside."""
    path = tmp_path / "bot.db"
    killed(path)
    strange = probe.wal_salt(path)
    assert strange is not None
    with shell(path) as connection:
        connection.execute("update outbox_meta set value = json_object('salt', ?) where name = 'open'", (7,))
        connection.execute("pragma wal_checkpoint(passive)")
        wal = path.with_name("bot.db-wal").read_bytes()
        shutil.copyfile(path, tmp_path / "copy.db")
    (tmp_path / "copy.db-wal").write_bytes(wal)

    assert probe.main_file(tmp_path / "copy.db").open_salt == 7
    async with opened(tmp_path / "copy.db") as store:
        assert found_beside(store.path) == ()
    assert count(tmp_path / "copy.db") == 5


@pytest.mark.parametrize("how", [emptied, Path.unlink], ids=["an empty file", "a missing file"])
@run_async
async def test_a_wal_without_its_database_is_kept(how: Callable[[Path], None], tmp_path: Path) -> None:
    """SQLite would remove it, with every row that is in it."""
    path = tmp_path / "bot.db"
    killed(path)
    wal = path.with_name("bot.db-wal").read_bytes()
    how(path)

    async with opened(path) as store:
        await store.put(*entry())

    (aside,) = set_aside(path)
    kept = aside if aside.name.endswith("-wal") else files.wal_path(aside)
    assert kept.read_bytes() == wal


@run_async
async def test_a_renaming_that_was_cut_off_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bot.db"
    killed(path)
    flipped_header(path)
    original = quarantine._move

    def cut_off(names: list[tuple[Path, Path]]) -> None:
        original(names[:1])
        raise OSError("simulated")

    monkeypatch.setattr(quarantine, "_move", cut_off)
    assert isinstance(await raised(open_store(path, clock=SystemClock())), StoreCorrupt)
    monkeypatch.setattr(quarantine, "_move", original)

    async with opened(path):
        (aside,) = set_aside(path)
    assert files.wal_path(aside).exists()


# ------------------------------------------------------------------------------------------ cut off in the making


def rollback_journal(pages: int, before: bytes = b"") -> bytes:
    """Return a journal of a database that had `pages` pages, the first of them `before`: sqlite.org/fileformat.html."""
    nonce = 7
    header = struct.pack(">8sIIIII", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", bool(before), nonce, pages, 512, 4096)
    if not before:
        return header.ljust(512, b"\0")
    checksum = (nonce + sum(before[at] for at in range(4096 - 200, 0, -200))) % (1 << 32)
    return header.ljust(512, b"\0") + struct.pack(">I4096sI", 1, before, checksum)


@run_async
async def test_a_file_that_lost_its_power_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    """Its size has reached the disk, its first page has not; the journal says that there was none."""
    path = tmp_path / "bot.db"
    path.write_bytes(bytes(4096))
    files.journal_path(path).write_bytes(rollback_journal(0))

    with pytest.raises(StoreError, match="cut off in a change"):
        await look(path, ReadOnlyStore.counts)
    async with opened(path) as store:
        await store.put(*entry())

    assert count(path) == 1
    assert set_aside(path) == []


@run_async
async def test_without_its_journal_a_file_of_zeros_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.write_bytes(bytes(4096))

    with pytest.raises(NotADatabase):
        await open_store(path, clock=SystemClock())
    assert path.read_bytes() == bytes(4096)


@run_async
async def test_a_copy_cut_off_while_it_became_an_outbox_again_keeps_its_rows(tmp_path: Path) -> None:
    """A copy made with VACUUM INTO is no WAL database until it is opened; its first page was torn meanwhile."""
    path, copy = tmp_path / "bot.db", tmp_path / "copy.db"
    await filled(path, 100)
    with shell(path) as connection:
        connection.execute(f"vacuum into '{copy}'")
    whole = copy.read_bytes()
    copy.write_bytes(bytes(512) + whole[512:])
    files.journal_path(copy).write_bytes(rollback_journal(len(whole) // 4096, whole[:4096]))

    async with opened(copy) as store:
        await store.put(*entry())

    assert count(copy) == 101
    assert set_aside(copy) == []


@run_async
async def test_a_finished_journal_does_not_prevent_reading(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    files.journal_path(path).write_bytes(bytes(512))

    assert (await look(path, ReadOnlyStore.counts))["trades"]["pending"] == 100


@pytest.mark.parametrize("own", [False, True], ids=["nothing but the outbox", "the bot's own tables too"])
@run_async
async def test_an_empty_file_that_was_just_made_anew_is_no_outbox_that_lost_all(own: bool, tmp_path: Path) -> None:
    """Its owner removed the old one; the next start was killed, or found the disk full, before the first commit."""
    path = tmp_path / "bot.db"
    await filled(path, 100)
    if own:
        own_tables(path)
        await filled(path, 0)
    path.unlink()
    with python(MADE_AND_KILLED, str(path)) as process:
        process.communicate()
    assert path.stat().st_size == 0

    async with opened(path) as store:
        await store.put(*entry())
        assert found_beside(store.path) == ()


MADE_AND_KILLED = """
import asyncio, os, sys
from pathlib import Path
from outbox.clock import SystemClock
from outbox.snapshot import take
from outbox.store import database, files
from outbox.recovery.probe import found_beside
from outbox.recovery.open import open_store
from outbox.store.store import Store

def killed(path):
    create_file(path)
    os.kill(os.getpid(), 9)

create_file, files.create_file = files.create_file, killed
asyncio.run(open_store(Path(sys.argv[1]), clock=SystemClock()))
"""


# ------------------------------------------------------------------------------------------ a WAL that is not its own


@pytest.mark.parametrize("known", [True, False], ids=["as it is", "control: the WAL is trusted"])
@run_async
async def test_a_backup_put_beside_a_dead_bots_wal_is_not_overlaid_with_it(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup was closed cleanly, so that it names no WAL of its own."""
    path, copy = tmp_path / "bot.db", tmp_path / "copy.db"
    await filled(path, 1200)
    await asyncio.to_thread(back_up, path, copy)
    killed(path, 1200)
    shutil.copyfile(copy, path)
    if not known:
        monkeypatch.setattr(probe, "judge_wal", lambda **_: Wal.FITS)

    if not known:
        caught = await raised(_counted(path))
        with contextlib.suppress(sqlite3.DatabaseError):  # "malformed" is what it is about
            assert caught is not None or rows(path, "pragma integrity_check") != [("ok",)]
        return
    await _counted(path)
    assert (rows(path, "pragma integrity_check"), count(path)) == ([("ok",)], 1200)
    assert [each.name[-4:] for each in set_aside(path)] == ["-wal"]
    async with opened(path) as store:
        assert "entries 1201 to 2400 were acknowledged" in str((await take(store)).loss)


@run_async
async def test_a_wal_of_which_only_the_beginning_is_read_is_kept(tmp_path: Path) -> None:
    """SQLite reads no further than the first frame that is damaged, and would write over the others."""
    path = tmp_path / "bot.db"
    killed(path, 50)
    wal = bytearray(files.wal_path(path).read_bytes())
    wal[len(wal) // 2] ^= 1
    files.wal_path(path).write_bytes(wal)

    async with opened(path) as store:
        await store.put(*entry())
        assert "were acknowledged and are not in the file" in str((await take(store)).loss)

    (kept,) = set_aside(path)
    assert kept.read_bytes() == wal


# ------------------------------------------------------------------------------------------ bytes that are no text


@run_async
async def test_a_shells_row_that_is_not_utf8_does_not_prevent_an_opening(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    with shell(path) as connection:
        sql = "insert into outbox (destination, payload) values ('events', cast(x'7b2261223a22fc227d' as text))"
        connection.execute(sql)

    async with opened(path) as store:
        assert len(await store.unread(10)) == 1


def test_a_damaged_schema_that_sqlite_quotes_in_no_utf8_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    run_async(filled)(path, 100)
    content = bytearray(path.read_bytes())
    content[content.index(b"CREATE TABLE outbox (") + 3] ^= 0x80
    path.write_bytes(content)

    with pytest.raises(StoreCorrupt):
        run_async(look)(path, ReadOnlyStore.counts)
    run_async(_counted)(path)
    assert len(set_aside(path)) == 1


@run_async
async def test_a_new_files_numbers_begin_behind_those_set_aside_also_if_its_first_start_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an older entry, salvaged later, would be sent after a newer one of its key."""
    path = tmp_path / "bot.db"
    await filled(path, 100)
    flipped_header(path)

    async def cut_off(*_: object, **__: object) -> None:
        raise OSError("simulated")

    with monkeypatch.context() as patch:
        patch.setattr(clean_close, "begin", cut_off)
        assert isinstance(await raised(open_store(path, clock=SystemClock())), OSError)
    async with opened(path) as store:
        assert (await store.put(*entry())).seq > 100 + clean_close.GAP - 1


@run_async
async def test_a_wal_is_not_paired_with_an_older_file_that_was_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    await filled(path, 100)
    whole = path.read_bytes()
    flipped_header(path)
    async with opened(path):
        (older,) = set_aside(path)
    older.write_bytes(whole)  # it can be read after all, and was closed
    killed(path)
    path.unlink()

    async with opened(path):
        pass
    assert not files.wal_path(older).exists()
    assert len(set_aside(path)) == 2
