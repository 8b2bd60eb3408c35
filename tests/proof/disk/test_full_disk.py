"""The disk is full: puts say so at once, the backlog still drains, and with room everything works again.

On a disk that is small by pretence (`faults.c`), and in a stage of `scripts/test` of its own on a real one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outbox.settings import Settings
from outbox.store.capacity import Reserve
from tests.proof.disk.shim import Disk
from tests.proof.disk.sweep import ROOT, quiet_environment, scratch

# As scripts/test mounts it.
DISK_BYTES = 20 << 20
RESERVE = 6 << 20


@dataclass(frozen=True, slots=True)
class Small:
    """A folder on a small disk, and the environment of the processes that use it."""

    folder: Path
    environment: dict[str, str]

    def tell(self, story: str, *options: str, reserve_bytes: int = RESERVE) -> dict[str, Any]:
        """Run a story of `full.py` and return what it saw."""
        command = [sys.executable, "-m", "tests.proof.disk.full", str(self.folder), str(reserve_bytes), story, *options]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


@pytest.fixture
def small() -> Iterator[Small]:
    given = os.environ.get("OUTBOX_SMALL_DISK")
    if given is not None:
        folder = Path(given) / "bot"
        folder.mkdir()
        assert shutil.disk_usage(folder).total == DISK_BYTES
        yield Small(folder, quiet_environment())
        shutil.rmtree(folder)
    elif sys.platform == "linux":
        with scratch() as found:
            disk, folder = Disk.new(found), found / "small"
            folder.mkdir()
            disk.watch(folder, limit=DISK_BYTES)
            yield Small(folder, {**quiet_environment(), **disk.environment()})
    else:
        pytest.skip("a small disk takes LD_PRELOAD or root on Linux")


def check_counts(seen: dict[str, Any]) -> None:
    """Nothing is lost, nothing arrives twice, and put = pending + delivered + … still holds."""
    assert "failed" not in seen, seen
    assert (seen["missing"], seen["unasked"], seen["twice"]) == (0, 0, 0), seen
    assert seen["left"] == 0
    assert 0 <= seen["put"] - seen["acknowledged"] <= seen["unknown"], seen


def test_an_outbox_that_has_filled_its_disk_drains_and_works_again(small: Small) -> None:
    seen = small.tell("by_itself")

    assert (seen["error"], seen["again"], seen["at_once"], seen["unknown"]) == ("DiskFull", "DiskFull", True, 0)
    assert seen["transaction"] == "DiskFull"
    assert not seen["reserve_kept"]
    assert "the reserve is released, puts are refused" in seen["warnings"][0]
    assert seen["pending_when_full"] > 1000
    check_counts(seen)
    assert not seen["hindered"]
    assert 0 < seen["pruned"] <= seen["acknowledged"]  # before their time: they were delivered


def test_a_disk_that_others_have_filled_refuses_puts_until_they_leave(small: Small) -> None:
    seen = small.tell("by_others")

    assert (seen["error"], seen["again"], seen["meanwhile"]) == ("DiskFull", "DiskFull", "DiskFull")
    check_counts(seen)


def test_a_bot_that_starts_on_a_full_disk_delivers_what_it_has(small: Small) -> None:
    seen = small.tell("with_a_restart")

    assert seen["error"] == "DiskFull"
    check_counts(seen)


@pytest.mark.parametrize("story", ["by_itself", "by_others"])
def test_without_the_reserve_the_backlog_stays(story: str, small: Small) -> None:
    """The control: on a full disk SQLite cannot write the verdicts, and each put tries the disk again."""
    seen = small.tell(story, reserve_bytes=0)
    assert seen["error"] == "DiskFull"
    assert not seen["at_once"]
    assert seen["left"] == seen["acknowledged"] > 0


def test_without_the_reserve_a_full_disk_cannot_even_be_opened(small: Small) -> None:
    seen = small.tell("with_a_restart", reserve_bytes=0)
    assert "StoreError" in seen["failed"]
    assert seen["missing"] == seen["acknowledged"] > 0


@pytest.mark.parametrize("allocates", [True, False])
def test_the_reserve_is_really_allocated(allocates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole, or zeros on a file system that compresses, would hold nothing back."""
    if not allocates:  # as on macOS and Windows
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    reserve = Reserve(tmp_path / "bot.db", 1 << 20)
    assert reserve.make()
    assert reserve.is_whole()
    if not hasattr(os, "posix_fallocate"):
        assert len(set(reserve.path.read_bytes())) == 256
    if sys.platform != "win32":
        assert reserve.path.stat().st_blocks * 512 >= 1 << 20
        assert reserve.path.stat().st_mode & 0o777 == 0o600


def test_the_default_covers_a_long_wal_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 pages of the WAL may need a place in the database, and the verdicts a WAL of their own."""
    monkeypatch.delenv("OUTBOX_RESERVE_BYTES", raising=False)
    assert Settings(_env_file=None).reserve_bytes >= 2 * 1000 * 4096
