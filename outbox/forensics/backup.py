"""Copies the file as it is at one moment, beside a running bot, and checks the copy before it counts.

Copying with `cp` loses what is only in the WAL; SQLite's own backup reads through it. In WAL mode a reader blocks
nobody: the WAL merely cannot start over until the copy is finished.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from outbox.errors import StoreError
from outbox.store import database, files, lock, parts, queries
from outbox.store.rows import by_state

# The caller is told the progress after each portion of 4 MB.
_PAGES = 1000
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """A finished backup. entries: in the copy, counted one by one; counts: by destination and state."""

    path: Path
    bytes: int
    entries: int
    counts: dict[str, dict[str, int]]


def back_up(source: Path, target: Path, *, progress: Progress = lambda done, pages: None) -> Copied:
    """Copy the outbox file `source` to `target` (0600) and check the copy. Blocks; call it in a thread.

    progress: called with pages copied and pages in all. Raises StoreError: `target` exists, cannot be written, or the
    copy fails its checks; no copy is left then. What a killed run left in its folder is removed.
    """
    try:
        with parts.written(target) as part:
            counts = _copied(source, part.path, progress)
            files.give(part.path, like=source)
            part.publish()
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}; no backup was made", path=target) from error
    except database.SqliteError as error:
        raise StoreError(f"the copy of {source} failed: {error}; no backup was made", path=source) from error
    entries = sum(sum(states.values()) for states in counts.values())
    return Copied(target, files.file_bytes(target), entries, counts)


def name_in(folder: Path, source: Path, now_ms: int) -> Path:
    """Return the name in `folder` for a copy of `source` made now: sorted by name, the newest is last.

    If the clock was ahead before, or is at 1970 now, the name still sorts behind the last one. Raises StoreError.
    """
    try:
        copies = copies_in(folder, source)
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}; nothing was copied", path=folder) from error
    last_ms = max((_moment_ms(each.name.removeprefix(f"{source.stem}-")) for each in copies), default=0)
    now_ms = max(now_ms, last_ms + 1)
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return folder / f"{source.stem}-{moment:%Y%m%dT%H%M%S}.{now_ms % 1000:03}Z{source.suffix}"


def copies_in(folder: Path, source: Path) -> list[Path]:
    """Return all copies named by `name_in`, oldest first. Raises OSError."""
    name = re.compile(rf"{re.escape(source.stem)}-\d{{8}}T\d{{6}}\.\d{{3}}Z{re.escape(source.suffix)}")
    return sorted(path for path in folder.iterdir() if name.fullmatch(path.name) and path.is_file())


def _moment_ms(stamp: str) -> int:
    try:
        second = datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # a person named it
        return 0
    return int(second.timestamp()) * 1000 + int(stamp[16:19])


def remove_old(folder: Path, source: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` of the copies named by `name_in`; return them. Raises StoreError.

    A copy that a bot has open stays.
    """
    try:
        old = [path for path in copies_in(folder, source)[:-keep] if not lock.look(path).running]
        for path in old:
            for each in (path, files.wal_path(path), files.shm_path(path), lock.lock_path(path)):
                each.unlink(missing_ok=True)
    except OSError as error:
        says = f"an older copy in {folder} cannot be removed: {error.strerror}; the new one is there"
        raise StoreError(says, path=folder) from error
    return old


def _copied(source: Path, part: Path, progress: Progress) -> dict[str, dict[str, int]]:
    # As `ReadOnlyStore`: without a -wal nobody has the file open, and an ordinary read would leave a -wal and a -shm.
    before = _marks(source)
    if before[0] is None:
        counts = _copied_once(source, part, progress, immutable=True)
        if _marks(source) == before:
            return counts
    return _copied_once(source, part, progress, immutable=False)


def _marks(source: Path) -> tuple[int | None, int, int]:
    """Return what changes when somebody opens the file: the WAL's size (None: no WAL), the file's time and size."""
    try:
        wal = files.wal_path(source).stat().st_size
    except FileNotFoundError:
        wal = None
    facts = source.stat()
    return wal, facts.st_mtime_ns, facts.st_size


def _copied_once(source: Path, part: Path, progress: Progress, *, immutable: bool) -> dict[str, dict[str, int]]:
    os.truncate(part, 0)  # discards what a read without the WAL may have copied
    with (
        contextlib.closing(database.plain_connection(source, immutable=immutable, timeout_s=5.0)) as original,
        contextlib.closing(database.plain_connection(part, "rw")) as copy,
    ):
        # One snapshot for the counters and all portions: otherwise a bot's commits would restart the copy.
        original.execute("begin")
        told = by_state(original.execute(queries.COUNTS.sql).fetchall())
        copy.execute("pragma synchronous = off")  # synced once, at the end
        original.backup(copy, pages=_PAGES, progress=lambda _, left, pages: progress(pages - left, pages))
        original.execute("rollback")
        # The copy was never in use: with the flag, opening it would report the original's -wal as missing.
        copy.execute(queries.FORGET_FACT.sql, ("open",))
        return _checked(copy, told, part)


def _checked(copy: sqlite3.Connection, told: dict[str, dict[str, int]], part: Path) -> dict[str, dict[str, int]]:
    """Return the entries by destination and state. Raises StoreError: damaged, or not as many as the source says."""
    complaints = [str(row[0]) for row in copy.execute("pragma integrity_check(3)")]
    if complaints != ["ok"]:
        raise StoreError(f"the copy is damaged ({'; '.join(complaints)}); no backup was made", path=part)
    found = by_state(copy.execute("select destination, state, count(*) from outbox group by 1, 2").fetchall())
    here = {name: {state: n for state, n in states.items() if state in _HERE} for name, states in told.items()}
    if _without_nothing(found) != _without_nothing(here):
        raise StoreError(f"the copy holds {found}, the file says {here}; no backup was made", path=part)
    return found


_HERE = ("pending", "delivered", "dead", "discarded")


def _without_nothing(counts: dict[str, dict[str, int]]) -> dict[tuple[str, str], int]:
    return {(name, state): n for name, states in counts.items() for state, n in states.items() if n}
