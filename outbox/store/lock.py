"""Floor 3 · store. One process opens the file for writing, always: an OS lock on a sidecar file.

The operating system drops the lock when the process ends, however it ends, and a forked child does not
inherit it (POSIX record locks belong to a process), so that nothing but the holder's own life keeps it held.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from outbox.errors import StoreInUse

if sys.platform == "win32":
    import msvcrt

    # Windows refuses to read a locked byte; one beyond the text leaves the holder's pid readable.
    _LOCKED_BYTE = 1 << 20

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


# A POSIX record lock does not exclude its own process, and closing any descriptor of the file drops it:
# this process's own locks are known here, and their files are never opened again.
_held: dict[Path, WriterLock] = {}


class WriterLock:
    """The right to write to one outbox file. Acquire with `WriterLock(path)`, give back with `release()`."""

    def __init__(self, store: Path) -> None:
        """Take the lock. Raises StoreInUse: this or another process has it. Returns at once either way."""
        self._store = store.resolve()
        self._pid = os.getpid()
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._descriptor: int | None = None
        mine = _held.get(self._store)
        if mine is not None and mine._pid == self._pid:
            raise StoreInUse(path=store, pid=self._pid, since=mine._since)
        sidecar = lock_path(self._store)
        descriptor = os.open(sidecar, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_lock(descriptor):
            pid, since = _holder(sidecar)
            os.close(descriptor)
            raise StoreInUse(path=store, pid=pid, since=since)
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps({"pid": self._pid, "since": self._since}).encode())
        _held[self._store] = self

    def release(self) -> None:
        """Give the lock back; the sidecar stays, since removing it would let two processes lock two files."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        os.close(descriptor)
        if os.getpid() == self._pid:
            _held.pop(self._store, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_path(store: Path) -> Path:
    """Return where the lock of `store` stands."""
    return store.with_name(store.name + ".lock")


def holder(store: Path) -> tuple[int | None, str | None]:
    """Return (pid, since) as the last holder of the lock wrote them; (None, None): nobody did.

    Opens the sidecar only where this process does not hold it: closing it again would drop the lock.
    """
    mine = _held.get(store.resolve())
    if mine is not None and mine._pid == os.getpid():
        return mine._pid, mine._since
    return _holder(lock_path(store.resolve()))


def _holder(sidecar: Path) -> tuple[int | None, str | None]:
    try:
        facts = json.loads(sidecar.read_bytes())
        return int(facts["pid"]), str(facts["since"])
    except (OSError, ValueError, KeyError, TypeError):
        # A holder between locking and writing, or one that died there: held, but by nobody known.
        return None, None
