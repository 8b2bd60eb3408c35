"""A file that is written under a name of its own and gets its real name once it is whole.

A lock that ends with its process tells what a killed run left from what a live one writes; the next run to the same
folder removes what was left.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from outbox.errors import StoreError, StoreInUse
from outbox.store import files
from outbox.store.lock import WriterLock, lock_path

# What belongs to one run: the part, what SQLite keeps beside it, and its lock.
_OURS = re.compile(r"(.+\.[0-9a-f]{16}\.part)(?:-wal|-shm|-journal|\.lock)?")


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is being written. path: its name until `publish`; nobody else's."""

    path: Path
    target: Path
    facts: os.stat_result

    def publish(self) -> None:
        """Sync it and give it its name. Raises StoreError: the name is taken, or the file is not the one that was made.

        Raises OSError. Nothing may have it open.
        """
        wal = files.wal_path(self.path)
        if files.file_bytes(wal):
            raise StoreError(f"{wal} could not be written back; {self.target} was not made", path=self.target)
        if not os.path.samestat(os.lstat(self.path), self.facts):
            raise StoreError(f"{self.path} was replaced meanwhile; {self.target} was not made", path=self.target)
        files.sync_file(self.path)
        try:
            files.publish(self.path, self.target)
        except FileExistsError:
            raise _taken(self.target) from None


@contextlib.contextmanager
def written(target: Path) -> Iterator[Part]:
    """Yield a new, empty file, 0600, in the folder of `target`; it is removed at the end, unless it was published.

    Leftovers of killed runs in that folder go first, whatever their target was. Raises StoreError: `target` exists;
    OSError.
    """
    if os.path.lexists(target):
        raise _taken(target)
    remove_leftovers(target.parent)
    path, lock = _locked(target)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | files.CAREFUL, 0o600)
        try:
            facts = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        yield Part(path, target, facts)
    finally:
        _remove(path, lock)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left in `folder`. Raises OSError: it cannot be read."""
    names = {found[1] for path in folder.iterdir() if (found := _OURS.fullmatch(path.name))}
    for name in sorted(names):
        path = folder / name
        # StoreInUse: a live run's. Where nothing can be locked, nobody knows, and it stays.
        with contextlib.suppress(StoreError, OSError):
            _remove(path, WriterLock(path))


def _locked(target: Path) -> tuple[Path, WriterLock | None]:
    """Return a name that nobody has, and its lock; None: the file system has no locks."""
    while True:
        path = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
        try:
            lock = WriterLock(path)
        except StoreInUse:  # another run has taken it for a leftover, between its making and its locking
            continue
        except StoreError as error:
            if lock_path(path).exists():
                return path, None
            raise error.__cause__ or error from None
        if lock_path(path).exists():
            return path, lock
        lock.release()  # the same, a moment later


def _remove(path: Path, lock: WriterLock | None) -> None:
    try:
        for each in files.with_its_own(path):
            each.unlink(missing_ok=True)
        if os.name != "nt":  # before the release: whoever waits for it must not find a lock without a name
            lock_path(path).unlink(missing_ok=True)
    finally:
        if lock is not None:
            lock.release()
    with contextlib.suppress(OSError):
        lock_path(path).unlink(missing_ok=True)


def _taken(target: Path) -> StoreError:
    return StoreError(f"{target} exists; nothing was overwritten", path=target)
