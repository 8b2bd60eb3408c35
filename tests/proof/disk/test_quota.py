"""No room that SQLite does not call so: a quota (EDQUOT), and a file system that finds out at the sync.

The stories of `full.py` again, on a folder with such a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from outbox.store.capacity import LITTLE, Bounds, Capacity, Reserve
from tests.proof.disk.shim import Disk, Limit, on_linux
from tests.proof.disk.sweep import quiet_environment, scratch
from tests.proof.disk.test_full_disk import DISK_BYTES, Small, check_counts


@contextlib.contextmanager
def limited(kind: Limit) -> Iterator[Small]:
    """A folder whose limit is none of the disk's own."""
    with scratch() as found:
        disk, folder = Disk.new(found), found / "small"
        folder.mkdir()
        disk.watch(folder, limit=DISK_BYTES, kind=kind)
        yield Small(folder, {**quiet_environment(), **disk.environment()})


KINDS = [pytest.param(Limit.QUOTA, id="a quota"), pytest.param(Limit.LATE, id="found out at the sync")]


@on_linux
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("story", ["by_others", "with_a_restart"])
def test_what_sqlite_calls_an_io_error_for_want_of_room_gives_the_reserve_up_as_well(kind: Limit, story: str) -> None:
    """SQLite calls EDQUOT, and whatever a sync says, an I/O error: the rows of that commit may be there or not."""
    with limited(kind) as small:
        seen = small.tell(story)
    assert seen["error"] in ("DiskFull", "OutcomeUnknown")
    assert seen.get("again", "DiskFull") == seen.get("meanwhile", "DiskFull") == "DiskFull"
    check_counts(seen)


@on_linux
@pytest.mark.parametrize("kind", KINDS)
def test_control_an_io_error_that_is_not_asked_for_its_reason_keeps_the_reserve_and_the_backlog(kind: Limit) -> None:
    with limited(kind) as small:
        seen = small.tell("by_others", "naive")
    assert (seen["error"], seen["again"], seen["reserve_kept"]) == ("OutcomeUnknown", "OutcomeUnknown", True)
    assert "OutcomeUnknown" in seen["failed"], "the verdicts found room"


def test_what_a_trial_writes_is_gone_also_what_a_killed_process_has_left(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "bot.db", 1 << 20)
    (tmp_path / "bot.db-reserve-trial").write_bytes(b"half of it")
    assert not reserve.lacks(LITTLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "lacking"), [(errno.EDQUOT, True), (errno.ENOSPC, True), (errno.EIO, False), (errno.EACCES, False)]
)
def test_only_a_lack_of_space_counts_as_a_full_disk(
    number: int, lacking: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise OSError(number, "no")

    monkeypatch.setattr("outbox.store.capacity._created", fails)
    room = Capacity(tmp_path / "bot.db", Bounds(reserve_bytes=1 << 20))
    assert asyncio.run(room.is_lacking()) is lacking
    assert not asyncio.run(Capacity(tmp_path / "bot.db", Bounds()).is_lacking()), "there is no reserve to give up"
