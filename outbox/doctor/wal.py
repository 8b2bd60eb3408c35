"""What stands beside the file, read as bytes: its header, and how far its WAL was copied back.

SQLite's own formats: sqlite.org/fileformat2.html and sqlite.org/walformat.html. Reading them takes no lock and makes no
file. Never in the process that has the file open: closing any descriptor of a file drops that process's locks on it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from outbox.doctor.findings import WalFacts
from outbox.store import lock
from outbox.store.files import file_bytes, shm_path, wal_path

_MAGIC = b"SQLite format 3\0"
# Bytes 18 and 19 of the file say how it is written and read: 1 is a rollback journal, 2 is WAL.
_WAL_FORMAT = b"\x02\x02"
# In the WAL-index: mxFrame stands at 16; nBackfill at 96, then five read marks, then the bytes that are locked.
_INDEX = struct.Struct("=16xI76xI5I")
_READ_LOCKS = 120 + 3


def is_wal(path: Path) -> bool | None:
    """Return whether the file is in WAL mode; None: it is empty, no database, or cannot be read."""
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError:
        return None
    return header[18:20] == _WAL_FORMAT if len(header) == 20 and header.startswith(_MAGIC) else None


def read_wal(path: Path) -> WalFacts:
    """Return how the WAL of `path` stands. Raises OSError: another user's file."""
    size = file_bytes(wal_path(path))
    if size == 0 or lock.is_mine(path):
        return WalFacts(size)
    try:
        descriptor = os.open(shm_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return WalFacts(size)
    try:
        index = os.read(descriptor, _INDEX.size)
        if len(index) < _INDEX.size:
            return WalFacts(size)
        frames, copied, *marks = _INDEX.unpack(index)
        old = [number for number, mark in enumerate(marks) if number and mark < frames]
        holders = (lock.byte_holder(descriptor, _READ_LOCKS + number) for number in old)
        return WalFacts(size, frames, copied, tuple(sorted({pid for pid in holders if pid})))
    finally:
        os.close(descriptor)
