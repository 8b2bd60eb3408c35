"""A first opening that fails, as on a full disk, leaves nothing half-made behind; what was there before stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import forked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the system cannot refuse to let a file grow there")

OPENING = """
import asyncio, resource, signal, sys
from pathlib import Path
from outbox import Outbox
from outbox.errors import StoreError

async def main():
    async with Outbox.open(path=sys.argv[1]) as outbox:
        await outbox.put("events", {"event_type": "STARTED"})

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]) if sys.argv[2] != "-" else hard, hard))
try:
    asyncio.run(main())
except StoreError as error:
    print(type(error).__name__, error)
"""


def opened(path: Path, most_bytes: int | None) -> str:
    """Open `path` in a process whose files may grow to `most_bytes`; return the error that it met."""
    limit = "-" if most_bytes is None else str(most_bytes)
    command = [sys.executable, "-c", OPENING, str(path), limit]
    return str(forked.run(command, check=True, capture_output=True, text=True).stdout)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("most_bytes", [0, 2_000, 5_000, 20_000, 40_000, 100_000])
def test_a_first_opening_that_fails_leaves_no_file_but_its_lock(tmp_path: Path, most_bytes: int) -> None:
    assert opened(tmp_path / "bot.db", most_bytes) != ""
    assert left_in(tmp_path) <= {"bot.db.lock"}
    assert opened(tmp_path / "bot.db", None) == ""


def test_control_one_that_succeeds_leaves_its_file(tmp_path: Path) -> None:
    assert opened(tmp_path / "bot.db", None) == ""
    assert "bot.db" in left_in(tmp_path)


def test_an_empty_file_that_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "bot.db").touch()
    assert opened(tmp_path / "bot.db", 40_000) != ""
    assert "bot.db" in left_in(tmp_path)


def test_a_file_with_a_table_stays(tmp_path: Path) -> None:
    assert opened(tmp_path / "bot.db", None) == ""
    before = (tmp_path / "bot.db").read_bytes()
    opened(tmp_path / "bot.db", 2_000)
    assert (tmp_path / "bot.db").read_bytes()[:100] == before[:100]
