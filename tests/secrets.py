"""Looks for keys in what a test leaves behind: the outbox's files and everything beside them."""

from __future__ import annotations

from pathlib import Path

# Every secret key of a project begins like that, the local server's and the tests' made-up ones too.
MARK = b"sb_secret_"
# Only what the library writes: a test's own .env holds a key on purpose.
_OURS = ".db"
_MOST_BYTES = 20_000_000


def leaks(folder: Path) -> list[Path]:
    """Return the files below `folder` that the library has written and that hold a key."""
    ours = (file for file in sorted(folder.rglob("*")) if _OURS in str(file.relative_to(folder)) and file.is_file())
    return [file for file in ours if file.stat().st_size <= _MOST_BYTES and MARK in file.read_bytes()]
