"""EIO and ENOSPC at every write, sync and truncation: what a caller is told is what the files say."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proof.counts import reached
from tests.proof.disk.shim import Call, Disk, Fault, File, Image, on_linux
from tests.proof.disk.sweep import PLACES, ROOT, Found, Sweep, cases, scratch

pytestmark = on_linux

LOST_SYNC = Fault(Call.SYNC, File.WAL, 1, 0, errno.EIO)


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as found:
        yield found


@pytest.fixture(scope="module")
def swept() -> list[Found]:
    """One run of the sweep for all tests here."""
    with scratch() as found, Sweep(found) as sweep:
        return [sweep.run(fault) for fault in cases(sweep, every=False)]


def test_every_kind_of_call_was_made_to_fail(swept: list[Found]) -> None:
    struck = {(found.fault.call, found.fault.file) for found in swept if found.failed}
    assert struck == set(PLACES)
    reached("io faults", len(swept))
    assert all(found.failed >= 1 for found in swept)


def test_what_was_told_is_what_the_files_say_at_every_fault(swept: list[Found]) -> None:
    """An acknowledged row is there after a kill and after a power cut; one of which nothing was written is not.

    After a failed sync nothing is acknowledged before a new connection has checkpointed. Once the fault is gone the
    same process stores what it is given again, each id once, and the file and its counters are whole.
    """
    assert [str(found) for found in swept if found.wrong] == []


def test_a_failed_commit_is_sometimes_stored_and_then_the_caller_was_told_that_nobody_knows(swept: list[Found]) -> None:
    told: Counter[str] = sum((found.told for found in swept), Counter())
    stored: Counter[str] = sum((found.stored for found in swept), Counter())
    assert told.keys() == {"acknowledged", "nothing", "unknown"}
    assert 0 < stored["unknown"] < told["unknown"]
    assert stored["acknowledged"] == told["acknowledged"]
    assert stored["nothing"] == 0


def test_a_fault_that_passes_is_not_noticed_by_the_callers(swept: list[Found]) -> None:
    """The writer tries again; only of a full disk is said so at once."""
    once = [found for found in swept if found.fault.times and found.fault.error == errno.EIO]
    assert [str(found) for found in once if found.told["unknown"] > 2] == []  # SQL of a caller's own runs once
    assert any(set(found.told) == {"acknowledged"} for found in once)


def test_a_disk_that_stays_full_is_said_to_be_full(swept: list[Found]) -> None:
    full = [
        found.told
        for found in swept
        if (found.fault.call, found.fault.file, found.fault.times) == (Call.WRITE, File.WAL, 0)
        and found.fault.error == errno.ENOSPC
    ]
    assert full
    assert all(told["nothing"] and not told["unknown"] for told in full)


@pytest.mark.parametrize(
    ("naive", "fault", "complaint"),
    [
        pytest.param(
            "never reopens",
            Fault(Call.SYNC, File.WAL, 1, 1, errno.EIO),
            "before a new connection",
            id="it goes on with the connection whose sync failed",
        ),
        pytest.param(
            "acknowledges a failed commit",
            Fault(Call.WRITE, File.WAL, 1, 0, errno.EIO),
            "is not there",
            id="it acknowledges what was not written",
        ),
        pytest.param(
            "acknowledges a failed commit",
            Fault(Call.SYNC, File.WAL, 1, 0, errno.EIO),
            "not survive a power cut",
            id="it acknowledges what was not synced",
        ),
        pytest.param(
            "calls a failed commit nothing",
            Fault(Call.SYNC, File.WAL, 1, 0, errno.EIO),
            "and it is there",
            id="it says that nothing was written",
        ),
    ],
)
def test_a_naive_writer_is_detected(naive: str, fault: Fault, complaint: str, folder: Path) -> None:
    """The control: the same case with one protection taken out."""
    with Sweep(folder, naive) as sweep:
        found = sweep.run(fault)
    assert any(complaint in each for each in found.wrong), found


@pytest.mark.parametrize("naive", [None, "trusts the WAL that it finds"])
def test_a_row_put_after_a_failed_sync_and_a_kill_survives_a_power_cut(naive: str | None, folder: Path) -> None:
    """The kernel shows the pages that it failed to write: the next process must not build on them.

    The control, a process that trusts what it finds: its own rows stand behind a hole and are lost.
    """
    path = folder / "bot.db"
    with Sweep(folder, naive) as sweep:
        told = sweep.life(path, "first", LOST_SYNC)
        assert told == {"first-first-0": "acknowledged", "first-second-0": "unknown"}
        sweep.start()
        told = sweep.life(path, "second")
        left = sweep.after_a_power_cut(path)
    assert set(told.values()) == {"acknowledged"}
    assert "first-first-0" in left
    assert (set(told) <= left) is (naive is None), left


def test_the_image_of_the_disk_is_the_disk(folder: Path) -> None:
    """The power cut is computed from the log of all writes: without faults it must give the very bytes."""
    disk = Disk.new(folder)
    path = folder / "plain.db"
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('pragma journal_mode = wal');"
        "db.execute('create table t (x)'); db.executemany('insert into t values (?)', [('y' * 500,)] * 50);"
        "db.execute('pragma wal_checkpoint(truncate)'); db.execute('insert into t values (1)'); import os; os._exit(0)"
    )
    disk.watch(folder)
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, env=disk.environment(), check=True)
    image = Image(b"")
    image.apply(disk.records())
    copy = folder / "copy.db"
    for durable in (False, True):
        image.write(copy, durable=durable)
        assert copy.read_bytes() == path.read_bytes()
        wal = path.with_name("plain.db-wal").read_bytes()
        assert copy.with_name("copy.db-wal").read_bytes() == wal
        assert len(wal) > 4096
