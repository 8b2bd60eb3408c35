"""The tests' own files are in memory only where that cannot fail them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests import memory


@pytest.fixture
def roomy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with room for a whole run, whatever this machine has."""
    monkeypatch.setattr(memory, "NEEDED_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("OUTBOX_RESERVE_BYTES", "1")  # put back afterwards
    return tmp_path


def test_files_go_where_there_is_room(roomy: Path) -> None:
    memory.keep_files_in_memory(roomy)
    assert (tempfile.gettempdir(), os.environ["TMPDIR"]) == (str(roomy), str(roomy))


def test_a_place_that_somebody_chose_is_kept(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(roomy.parent))
    memory.keep_files_in_memory(roomy)
    assert os.environ["TMPDIR"] == str(roomy.parent)


def test_where_there_is_no_such_folder_or_no_room_they_stay(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.has_room(roomy)
    assert not memory.has_room(roomy / "none")
    monkeypatch.setattr(memory, "NEEDED_BYTES", 1 << 60)
    assert not memory.has_room(roomy)


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="no such flag here")
def test_where_no_program_may_run_they_stay(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Docker's /dev/shm: some tests make an environment, or compile."""
    facts = os.statvfs(roomy)
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result([*facts[:8], facts.f_flag | os.ST_NOEXEC, *facts[9:]])
    )
    assert not memory.has_room(roomy)
