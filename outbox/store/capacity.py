"""Whether there is room for another entry: on the disk, and below the bounds that were set.

The disk is short of room from the moment a write finds it full until the reserve is whole again. Meanwhile puts are
refused at once, and the reserve's space is the flusher's and the housekeeper's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import aiosqlite

from outbox import logs
from outbox.entry import Entry
from outbox.errors import DiskFull, OutboxFull, StoreError
from outbox.store import files, queries
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.store")

_CHUNK = 1 << 20
# A connection needs a -shm of 32 KiB and the beginning of a -wal; migrations and notes a little more.
NEEDED_TO_OPEN = 1 << 20
# The room to look for after a failed write: a commit has taken what there was, and a -shm grows by 32 KiB at once.
LITTLE = 1 << 16
_NO_SPACE = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))


class Bounds(NamedTuple):
    """How much may be stored. None: no bound.

    reserve_bytes: held back on the disk; 0: nothing, a reserve that is there goes; None: leave it as it is.
    """

    reserve_bytes: int | None = None
    max_pending_rows: int | None = None
    max_pending_bytes: int | None = None


class Capacity:
    """The reserve of one store, and the bounds of its backlog."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        self.bounded: bool = (bounds.max_pending_rows, bounds.max_pending_bytes) != (None, None)
        self._reserve = Reserve(path, bounds.reserve_bytes) if bounds.reserve_bytes else None
        self._facts = {"path": str(path), "reserve_bytes": bounds.reserve_bytes}
        self.short: bool = False  # True: the disk was found full, and the reserve is not whole again yet
        self.changed: asyncio.Event = asyncio.Event()  # set when the housekeeper should look before its minute is over

    @property
    def open(self) -> bool:
        """Whether every put may be stored without looking further."""
        return not self.short and not self.bounded

    # ------------------------------------------------------------------------------------------ the reserve

    async def prepare(self) -> None:
        """Make the reserve, or give it up if the file could not even be opened without it."""
        if self._bounds.reserve_bytes is not None:
            await self._guarded(self._prepare)

    def _prepare(self) -> None:
        if self._reserve is None:
            Reserve(self._path, 0).release()
        elif not self._reserve.is_whole():
            self.short = not self._reserve.make()
        elif self._reserve.free() < NEEDED_TO_OPEN or self._lacks(NEEDED_TO_OPEN):
            self._reserve.release()
            self.short = True
        if self.short:
            logger.warning("disk almost full, puts are refused", extra=self._facts)

    async def release(self) -> bool:
        """Give the reserve up: a write found the disk full. Return whether that made room."""
        if self._reserve is None:
            return False
        held = not self.short
        self.short = True
        self.changed.set()
        if held:
            logger.error("disk full, the reserve is released and puts are refused", extra=self._facts)
            await self._guarded(self._reserve.release)
        return held

    async def is_lacking(self) -> bool:
        """Return whether an I/O error means a lack of room: a quota was met, or only the sync found out.

        False, too, once the reserve is given up, and where that cannot be found out.
        """
        if self._reserve is None or self.short:
            return False
        return await in_thread(self._lacks)

    def _lacks(self, size: int = LITTLE) -> bool:
        assert self._reserve is not None
        try:
            return self._reserve.lacks(size)
        except OSError:  # the disk is dying, that is all
            return False

    async def regain(self) -> bool:
        """Make the reserve again if there is room for it, and return whether puts are admitted now."""
        if self.short and self._reserve is not None:
            await self._guarded(self._regain)
        return not self.short

    def _regain(self) -> None:
        assert self._reserve is not None
        if self._reserve.make():
            self.short = False
            logger.warning("disk has room again, puts are accepted", extra=self._facts)

    async def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work` in a thread. A folder that allows no reserve must not keep anybody from putting."""
        try:
            await in_thread(work)
        except OSError as error:
            self._reserve, self.short = None, False
            logger.warning("no reserve can be kept", extra={"path": str(self._path), "error": str(error.strerror)})

    # ------------------------------------------------------------------------------------------ admission

    def check_disk(self) -> None:
        """Raise DiskFull while the disk is short of room."""
        if self.short:
            raise DiskFull(path=self._path)

    async def refusals(self, connection: aiosqlite.Connection, entries: Sequence[Entry]) -> list[StoreError | None]:
        """Return for each of `entries`, in order, why it is not admitted; None: it is. Two rows are read, no entry."""
        if self.short:
            return [DiskFull(path=self._path, ids=(entry.id,)) for entry in entries]
        if not self.bounded:
            return [None] * len(entries)
        rows, size = next(iter(await connection.execute_fetchall(queries.BACKLOG.sql)))
        found: list[StoreError | None] = []
        for entry in entries:
            length = len(entry.payload.encode())
            found.append(self._excess(rows + 1, size + length))
            if found[-1] is None:
                rows, size = rows + 1, size + length
        return found

    def _excess(self, rows: int, size: int) -> OutboxFull | None:
        for field, limit, wanted in (
            ("max_pending_rows", self._bounds.max_pending_rows, rows),
            ("max_pending_bytes", self._bounds.max_pending_bytes, size),
        ):
            if limit is not None and wanted > limit:
                return OutboxFull(path=self._path, field=field, limit=limit)
        return None


class Reserve:
    """The file `<db>-reserve` of `size` bytes. Every method does I/O: call them in a thread.

    SQLite cannot even delete on a full disk: every change is written to the WAL first. Giving this file up lets the
    flusher settle what is delivered, and the housekeeper prune it.
    """

    def __init__(self, store: Path, size: int) -> None:
        self._store = store
        self.path: Path = store.with_name(store.name + "-reserve")
        self.size = size

    def is_whole(self) -> bool:
        """Return whether the file is there, as large as it should be. Raises OSError."""
        try:
            return self.path.lstat().st_size == self.size
        except FileNotFoundError:
            return False

    def make(self) -> bool:
        """Write the file and sync it; False: there is no room. Raises OSError: it cannot be made at all.

        There is room when it fits twice: a disk that is full again with the next put would help nobody.
        """
        self.release()  # of another size, or half written by a process that died
        if self.free() < 2 * self.size:
            return False
        try:
            self._write()
        except OSError as error:
            self.release()
            if error.errno in _NO_SPACE:
                return False
            raise
        return True

    def _write(self) -> None:
        descriptor = _created(self.path, like=self._store)
        try:
            if _allocated(descriptor, 2 * self.size):  # a quota is not in what `free` says
                os.ftruncate(descriptor, self.size)
            else:
                _filled(descriptor, self.size)
        finally:
            os.close(descriptor)

    def lacks(self, size: int) -> bool:
        """Return whether there is no room for `size` more bytes, by trying it. Raises OSError: for another reason.

        No figure of the disk shows a quota, and SQLite calls what goes beyond it an I/O error.
        """
        trial = self.path.with_name(self.path.name + "-trial")
        trial.unlink(missing_ok=True)  # of a process that died
        try:
            descriptor = _created(trial, like=self._store)
            try:
                if not _allocated(descriptor, size):
                    _filled(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _NO_SPACE:
                return True
            raise
        finally:
            with contextlib.suppress(OSError):  # a virus scanner reads it: the next trial removes it
                trial.unlink(missing_ok=True)
        return False

    def release(self) -> None:
        """Remove the file, if it is there. Raises OSError."""
        self.path.unlink(missing_ok=True)

    def free(self) -> int:
        """Return the bytes that are free on this disk. Raises OSError."""
        return shutil.disk_usage(self.path.parent).free


def _created(path: Path, *, like: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.CAREFUL, 0o600)
    files.give(descriptor, like=like)
    return descriptor


def _allocated(descriptor: int, size: int) -> bool:
    """Let the file system set the space aside, in no time; False: it cannot (macOS, Windows, some network ones)."""
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        return False
    try:
        allocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _filled(descriptor: int, size: int) -> None:
    """Write random bytes: they are really stored, also where zeros would be compressed, or become a hole."""
    while size:
        size -= os.write(descriptor, os.urandom(min(size, _CHUNK)))
    os.fsync(descriptor)  # some file systems find out here that there is no room
