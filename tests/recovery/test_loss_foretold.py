"""`outbox status` of a file that nobody has opened yet says what its next opening will say is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from outbox.cli.status import read_status
from outbox.snapshot import Health, take
from outbox.store.read_only import look
from tests.recovery.test_corruption import filled, killed
from tests.store.tools import opened, shell
from tests.support import run_async


def as_it_is(home: Path) -> Path:
    return home / "bot.db"


def without_its_wal(home: Path) -> Path:
    (home / "bot.db-wal").unlink()
    return home / "bot.db"


def copied_with_cp(home: Path) -> Path:
    return Path(shutil.copyfile(home / "bot.db", home / "copy.db"))


def copied_whole(home: Path) -> Path:
    for end in ("", "-wal"):
        shutil.copyfile(home / f"bot.db{end}", home / f"copy.db{end}")
    return home / "copy.db"


def restored_as_litestream_does(home: Path) -> Path:
    """One file, as the bot had it at some moment, and nothing beside it."""
    with shell(home / "bot.db") as connection:
        connection.execute("vacuum into ?", (str(home / "copy.db"),))
    return home / "copy.db"


def an_old_one_put_back(home: Path) -> Path:
    (home / "bot.db-wal").unlink()
    return Path(shutil.copyfile(home / "old.db", home / "bot.db"))


def backed_up(home: Path) -> Path:
    return home / "old.db"


def names(home: Path) -> list[str]:
    return sorted(each.name for each in home.glob("*-wal"))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        pytest.param(as_it_is, None, id="a killed bot's file"),
        pytest.param(copied_whole, None, id="copied with its -wal"),
        pytest.param(backed_up, None, id="closed cleanly before it was copied"),
        pytest.param(without_its_wal, "entries 101 to 107", id="the -wal is lost"),
        pytest.param(an_old_one_put_back, "entries 101 to 107", id="an older copy in its place"),
        pytest.param(copied_with_cp, "entries from 101 on may be missing", id="cp without the -wal"),
        pytest.param(restored_as_litestream_does, "entries from 108 on may be missing", id="as Litestream restores"),
    ],
)
@run_async
async def test_status_says_what_the_next_opening_will_say(
    what: Callable[[Path], Path], said: str | None, tmp_path: Path
) -> None:
    await filled(tmp_path / "bot.db", 100)
    shutil.copyfile(tmp_path / "bot.db", tmp_path / "old.db")
    killed(tmp_path / "bot.db", 7)
    path = what(tmp_path)
    wals = names(tmp_path)

    status = read_status(path, warnings=(), stalled_after_s=1e9)
    assert names(tmp_path) == wals  # an empty one would say that nothing is missing
    assert (await look(path, take)).loss is None  # the control: the file itself says nothing yet
    async with opened(path) as store:
        told = (await take(store)).loss

    assert status.file.loss == told
    assert (told is None) if said is None else (said in str(told))
    assert (status.health is Health.DAMAGED) is (said is not None)
