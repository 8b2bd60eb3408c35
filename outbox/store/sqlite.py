"""SQLite's errors, by this library's names, and plain connections: for code that needs no event loop."""

from __future__ import annotations

import sqlite3
from enum import Enum, auto
from pathlib import Path
from typing import Literal

from outbox.errors import DiskFull, NotADatabase, StoreBusy, StoreCorrupt, StoreError
from outbox.store import files

# A damaged schema may be quoted in a message that is no UTF-8: Python then raises its own error instead of SQLite's.
SqliteError: tuple[type[Exception], ...] = (sqlite3.Error, UnicodeDecodeError)


def exposed_to_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Return whether this SQLite has the WAL-reset corruption bug (sqlite.org/wal.html#walresetbug).

    Fixed in 3.51.3, and in 3.50.7 and 3.44.6 of their branches. It takes two connections that write at once.
    """
    if version >= (3, 51, 3) or version < (3, 7, 0):
        return False
    return not ((3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0))


EXPOSED_TO_WAL_RESET_BUG = exposed_to_wal_reset_bug(sqlite3.sqlite_version_info)


class ErrorClass(Enum):
    """What a SQLite error means for what was being written."""

    BUSY = auto()  # another connection holds a lock; nothing was written
    FULL = auto()
    CORRUPT = auto()
    NOT_A_DATABASE = auto()
    AMBIGUOUS = auto()  # an I/O error: stored or not, nobody knows
    OTHER = auto()


# What SQLite says of a file whose content is wrong, never of one that it could not reach.
DAMAGE = frozenset({ErrorClass.CORRUPT, ErrorClass.NOT_A_DATABASE})

_TROUBLES = {
    sqlite3.SQLITE_BUSY: ErrorClass.BUSY,
    sqlite3.SQLITE_LOCKED: ErrorClass.BUSY,
    sqlite3.SQLITE_FULL: ErrorClass.FULL,
    sqlite3.SQLITE_CORRUPT: ErrorClass.CORRUPT,
    sqlite3.SQLITE_NOTADB: ErrorClass.NOT_A_DATABASE,
    sqlite3.SQLITE_IOERR: ErrorClass.AMBIGUOUS,
    sqlite3.SQLITE_CANTOPEN: ErrorClass.AMBIGUOUS,
    sqlite3.SQLITE_PROTOCOL: ErrorClass.AMBIGUOUS,
    sqlite3.SQLITE_NOMEM: ErrorClass.AMBIGUOUS,
    sqlite3.SQLITE_INTERRUPT: ErrorClass.AMBIGUOUS,
}


def classify_error(error: Exception) -> ErrorClass:
    """Return what `error` means. The low byte of an extended result code is its class."""
    if isinstance(error, UnicodeDecodeError):
        return ErrorClass.CORRUPT
    code = getattr(error, "sqlite_errorcode", None)
    return _TROUBLES.get(code & 0xFF, ErrorClass.OTHER) if isinstance(code, int) else ErrorClass.OTHER


def readable(raw: bytes) -> str:
    """Return `raw` as text, with U+FFFD for what is no UTF-8."""
    return raw.decode("utf-8", "replace")


def plain_connection(
    path: Path, mode: Literal["ro", "rw"] = "ro", *, immutable: bool = False, timeout_s: float = 0.0
) -> sqlite3.Connection:
    """Return a connection in autocommit mode for code in a thread of its own. immutable: as `open_reader`.

    Raises the engine's own errors.
    """
    uri = files.uri(path, mode, immutable=immutable)
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=timeout_s, check_same_thread=False)


def named(error: Exception, path: Path, *, waited_s: float = 0) -> StoreError:
    """Return this library's error for one of SQLite's; raise it `from` the original."""
    match classify_error(error):
        case ErrorClass.BUSY:
            return StoreBusy(path=path, waited_s=waited_s)
        case ErrorClass.FULL:
            return DiskFull(path=path)
        case ErrorClass.CORRUPT:
            return StoreCorrupt(f"{path} is damaged: {error}", path=path)
        case ErrorClass.NOT_A_DATABASE:
            return NotADatabase(f"{path} is not a SQLite database; it was not touched", path=path)
        case ErrorClass.AMBIGUOUS | ErrorClass.OTHER:
            return StoreError(f"{path}: {error}", path=path)
