"""`outbox backup`: whole whatever happens meanwhile; nothing is left of runs that were killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from outbox.errors import StoreError
from outbox.forensics.backup import back_up, name_in, remove_old
from outbox.store import parts
from tests import forked
from tests.admin.test_inbox import bot, states
from tests.cli.test_changes import as_json, call
from tests.cli.test_tools import ROOT, execute, one, posix
from tests.store.tools import shell

pytestmark = pytest.mark.usefixtures("alone")


def test_a_backup_beside_a_bot_holds_what_is_only_in_the_wal(tmp_path: Path) -> None:
    path, copy, naive = tmp_path / "bot.db", tmp_path / "copy.db", tmp_path / "naive.db"
    with bot(path):
        code, found = as_json("backup", copy, "--path", path)
        naive.write_bytes(path.read_bytes())  # the control: `cp`

    assert (code, found["entries"], found["destinations"]) == (0, 3, {"fills": {"dead": 3}})
    assert found["bytes"] == copy.stat().st_size
    if os.name != "nt":
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert states(naive) != {"dead": 3}
    assert states(copy) == {"dead": 3}
    assert one(copy, "pragma integrity_check") == ("ok",)
    with bot(copy):  # restored elsewhere, it is whole: nothing is said to be missing
        assert as_json("status", "--path", copy)[1]["loss"] is None


def test_a_backup_is_one_moment_however_much_the_bot_writes_meanwhile(
    dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.forensics.backup._PAGES", 1)
    with shell(dead) as busy:

        def write(done: int, pages: int) -> None:
            busy.execute("insert into outbox (destination, payload) values ('events', '{}')")

        made = back_up(dead, dead.with_name("copy.db"), progress=write)
        assert busy.execute("select count(*) > 20 from outbox").fetchone() == (1,)  # it did write, page after page
    assert (made.entries, made.counts) == (3, {"fills": {"dead": 3}})
    assert states(made.path) == {"dead": 3}


def test_control_without_one_snapshot_a_copy_beside_a_busy_bot_restarts_again_and_again(dead: Path) -> None:
    """The control of the test above."""
    with shell(dead) as busy, shell(dead) as original, shell(dead.with_name("copy.db")) as copy:
        portions = iter(range(3 * int(busy.execute("pragma page_count").fetchone()[0])))

        def write(*_: int) -> None:
            next(portions)
            busy.execute("insert into outbox (destination, payload) values ('events', '{}')")

        with pytest.raises(StopIteration):
            original.backup(copy, pages=1, progress=write)


def test_a_backup_overwrites_nothing_and_leaves_nothing_half_done(dead: Path) -> None:
    folder = dead.parent / "elsewhere"
    folder.mkdir()
    taken = folder / "taken.db"
    taken.write_text("mine", encoding="utf-8")

    code, found = as_json("backup", taken, "--path", dead)
    assert (code, "exists; nothing was overwritten" in found["error"]) == (3, True)
    assert taken.read_text(encoding="utf-8") == "mine"
    assert as_json("backup", folder / "none" / "x.db", "--path", dead)[0] == 3
    execute(dead, "update outbox_counts set entries = 7 where state = 'dead'")  # the file contradicts itself
    code, found = as_json("backup", folder / "wrong.db", "--path", dead)
    assert (code, "no backup was made" in found["error"]) == (3, True)
    assert [file.name for file in folder.iterdir()] == ["taken.db"]


def test_a_backup_of_a_quiet_file_leaves_its_folder_as_it_was(dead: Path) -> None:
    with closing(sqlite3.connect(dead)) as connection:  # its last connection empties the WAL
        connection.execute("pragma wal_checkpoint").fetchall()
    before = {file.name for file in dead.parent.iterdir()}
    result = call("backup", "copy.db", "--path", dead)
    assert result.exit_code == 0
    assert "3 entries" in result.stdout
    assert {file.name for file in dead.parent.iterdir()} - before == {"copy.db"}


def large(path: Path) -> Path:
    """Make a backup of it take a while: 20 MB, no page of it twice the same."""
    put = "insert into outbox (destination, payload) values ('events', json_object('x', hex(randomblob(1000000))))"
    execute(path, *[put] * 10)
    return path


def ten_more(path: Path) -> None:
    assert states(path) == {"dead": 3, "pending": 10}
    assert one(path, "pragma integrity_check") == ("ok",)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_of_two_backups_at_once_to_one_name_one_is_published_as_it_was_checked(dead: Path) -> None:
    large(dead)
    copy = dead.parent / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    within: list[str] = []

    def second(*_: int) -> None:
        if not within:
            within.append(names(copy.parent)[0])
            back_up(dead, copy)

    with pytest.raises(StoreError, match=r"copy\.db exists; nothing was overwritten"):
        back_up(dead, copy, progress=second)
    assert within[0].endswith(".part")
    assert names(copy.parent) == ["copy.db"]
    ten_more(copy)


def test_a_name_that_two_backups_share_is_published_half_done(dead: Path) -> None:
    """The control of the test above: one `.part` for all, which each run begins anew."""
    copy, part = dead.with_name("copy.db"), dead.with_name("copy.db.part")
    large(dead)

    def old_way(progress: Callable[..., None]) -> None:
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(dead)) as original, closing(sqlite3.connect(part)) as target:
            original.backup(target, pages=1000, progress=progress)

    def first_ends(*_: int) -> None:
        if not copy.exists():
            shutil.copyfile(part, copy)  # published by the run that had made it

    old_way(lambda *_: None)
    old_way(first_ends)
    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        ten_more(copy)


def test_processes_that_back_up_to_one_name_at_once_leave_one_whole_copy(dead: Path) -> None:
    copy = large(dead).parent / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    command = [sys.executable, "-m", "outbox", "backup", str(copy), "--path", str(dead)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [forked.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    ends = [(process.communicate(timeout=200), process.returncode) for process in running]
    assert sorted(code for _, code in ends) == [0, 3, 3], ends
    assert names(copy.parent) == ["copy.db"]
    ten_more(copy)


def the_loop_of_the_page(bot_folder: Path, copies: Path) -> str:
    page = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    loop = str(re.findall(r"```sh\n(bot=.*?)```", page, re.DOTALL)[0])
    changes = {
        "/srv/bot": bot_folder, "/mnt/elsewhere": copies, "sleep 300": "true", "--keep 576": "--keep 2",
        "outbox backup": f"{sys.executable} -m outbox backup",
    }  # fmt: skip
    for there, here in changes.items():
        assert there in loop
        loop = loop.replace(there, str(here))
    return loop


@posix
def test_the_loop_of_the_page_killed_again_and_again_leaves_whole_copies_and_nothing_else(dead: Path) -> None:
    copies = large(dead).parent / "elsewhere"
    copies.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed_within = 0
    while killed_within < 2:
        loop = subprocess.Popen(
            ["sh", "-c", the_loop_of_the_page(dead.parent, copies)], env=env, start_new_session=True
        )
        try:
            while not any(name.endswith(".part") for name in names(copies)):
                assert loop.poll() is None
                time.sleep(0.001)
        finally:  # also where somebody interrupts the tests: it would go on for ever
            os.killpg(loop.pid, signal.SIGKILL)
            loop.wait()
        left = [name for name in names(copies) if name.endswith(".part")]
        killed_within += bool(left)  # else it was published at this moment
        assert len(left) <= 1, "what the run before left was not removed"

    for _ in range(2):
        assert as_json("backup", copies, "--keep", "2", "--path", dead)[0] == 0
    code, found = as_json("backup", copies, "--keep", "2", "--path", dead)
    assert (code, len(found["removed"])) == (0, 1)
    assert len(names(copies)) == 2
    assert found["backup"] == str(copies / names(copies)[-1])
    for name in names(copies):
        ten_more(copies / name)


def test_what_a_live_run_writes_is_no_leftover(tmp_path: Path) -> None:
    """And the control: once its lock is gone, it is one."""
    with parts.written(tmp_path / "a") as part:
        parts.remove_leftovers(tmp_path)
        assert part.path.exists()
    orphan = tmp_path / f"b.db.{'0' * 16}.part"
    for end in ("", "-wal", ".lock"):
        orphan.with_name(orphan.name + end).touch()
    mine = [tmp_path / name for name in ("b.db.part", "c.part", f"{'0' * 16}.part")]
    for each in mine:
        each.touch()
    parts.remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(each.name for each in mine)


def test_a_part_that_was_replaced_is_not_published(tmp_path: Path) -> None:
    with parts.written(tmp_path / "a") as part:
        part.path.rename(tmp_path / "away")
        part.path.touch()
        with pytest.raises(StoreError, match="was replaced meanwhile"):
            part.publish()
    assert names(tmp_path) == ["away"]


def test_a_clock_that_went_back_makes_no_new_copy_the_oldest(tmp_path: Path) -> None:
    source = tmp_path / "bot.db"
    names = []
    for now_ms in (4_000_000_000_999, 0, 1_700_000_000_000):  # ahead; without a battery; set right
        names.append(name_in(tmp_path, source, now_ms))
        names[-1].touch()
    assert sorted(names) == names
    assert remove_old(tmp_path, source, 1) == names[:-1]
    (tmp_path / "bot-99999999T999999.999Z.db").touch()  # somebody's own
    assert name_in(tmp_path, source, 1_700_000_000_000) > names[-1]


def test_keep_removes_only_copies_of_this_file_that_nobody_uses(dead: Path) -> None:
    folder = dead.parent / "elsewhere"
    folder.mkdir()
    others = ["bot-1.db", "bot-20260102T030405.678Z.db.gz", "other-20260102T030405.678Z.db"]
    for name in others:
        (folder / name).touch()
    old = folder / "bot-20250102T030405.678Z.db"
    back_up(dead, old)
    with bot(old):  # somebody goes on with it where it lies
        kept = as_json("backup", folder, "--keep", "1", "--path", dead)[1]
    assert kept["removed"] == []
    code, found = as_json("backup", folder, "--keep", "1", "--path", dead)
    assert (code, found["removed"]) == (0, [str(old), kept["backup"]])
    assert set(others) | {Path(found["backup"]).name} == {
        name for name in names(folder) if not name.startswith("bot-2025")
    }

    code, found = as_json("backup", folder / "x.db", "--keep", "1", "--path", dead)
    assert (code, "needs a folder" in found["error"]) == (3, True)
    assert call("backup", folder, "--keep", "0", "--path", dead).exit_code != 0
