"""One process opens the file for writing, always: an OS lock on a sidecar file.

The operating system drops the lock when the process ends, however it ends, and a forked child does not
inherit it (POSIX record locks belong to a process), so that nothing but the holder's own life keeps it held.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from outbox.errors import StoreError, StoreInUse
from outbox.store import files
from outbox.store.sidecar import Sidecar, Written, holder_line, parse

if TYPE_CHECKING:
    import asyncio

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

    def _locked_by(descriptor: int) -> int | None:
        """Return 0 if somebody has the lock, None if nobody has; Windows does not say who."""
        # Windows cannot be asked, only tried: a bot that starts within these microseconds is told StoreInUse
        # unless it waits. Trying nothing would leave the pid in the file, which may be a dead one's or reused.
        if not _try_lock(descriptor):
            return 0
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        with contextlib.suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return None

    def byte_holder(descriptor: int, start: int) -> int | None:
        """Return None: Windows does not say who has a byte."""
        return None

    _TO_ASK = os.O_RDWR

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN, EACCES: held. Any other error is no holder's doing.
            return False
        return True

    # struct flock with a 64-bit off_t: Linux puts type and whence first, macOS and the BSDs last.
    _LINUX = sys.platform.startswith("linux")
    _FLOCK = struct.Struct("hhqqi0q" if _LINUX else "qqihhi")

    def _locked_by(descriptor: int) -> int | None:
        """Return the pid of the process that has the lock, 0 for one that this system does not name, None: nobody.

        F_GETLK asks without taking, so that a bot that starts meanwhile gets its lock.
        """
        return _asked(descriptor, 0, 0)

    def byte_holder(descriptor: int, start: int) -> int | None:
        """Return the pid of another process that has a lock on the byte `start`; the rest as `_locked_by`."""
        return _asked(descriptor, start, 1)

    def _asked(descriptor: int, start: int, length: int) -> int | None:
        """length: in bytes; 0: to the end of the file, however long it grows."""
        whole = (fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        question = whole if _LINUX else (start, length, 0, fcntl.F_WRLCK, os.SEEK_SET, 0)
        answer = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(*question)))
        kind, pid = (answer[0], answer[4]) if _LINUX else (answer[3], answer[2])
        return None if kind == fcntl.F_UNLCK else max(int(pid), 0)

    _TO_ASK = os.O_RDONLY


# The bytes of a sidecar; a longer file is not ours.
_LONGEST = 4096
# A POSIX record lock does not exclude its own process, and closing any descriptor of the file drops it:
# this process's own locks are known here, and their files are never opened again.
_held: dict[Path, WriterLock] = {}
# Two threads that open the same file at once must not both find it free.
_taking = threading.Lock()


def _after_fork() -> None:
    """A fork may have copied the mutex while another thread held it; the child owns none of the locks anyway."""
    global _taking
    _taking = threading.Lock()
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


class WriterLock:
    """The right to write to one outbox file. Acquire with `WriterLock(path)`, give back with `release()`."""

    def __init__(self, store: Path) -> None:
        """Take the lock. Raises StoreInUse: this or another process has it; StoreError: it cannot be locked.

        Returns at once either way.
        """
        self._store = store.resolve()
        self._pid = os.getpid()
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._descriptor: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # of the outbox that has the lock
        with _taking:
            mine = _held.get(self._store)
            if mine is not None:
                ended = mine.loop is not None and mine.loop.is_closed()
                raise StoreInUse(path=store, pid=self._pid, since=mine._since, here=True, ended=ended)
            self._descriptor = self._taken(store)
            self.sidecar: Sidecar = Sidecar(self._descriptor, self._found)
            _held[self._store] = self

    def _taken(self, store: Path) -> int:
        """Return the descriptor of the locked sidecar."""
        sidecar = lock_path(self._store)
        try:
            descriptor = _opened(sidecar, like=self._store)
        except OSError as error:
            raise StoreError(f"{sidecar} cannot be opened: {error.strerror}; nothing was opened", path=store) from error
        try:
            mine = _try_lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"{sidecar} cannot be locked: {error.strerror}; nothing was opened", path=store) from error
        if not mine:
            pid, since = _holder(sidecar)
            os.close(descriptor)
            raise StoreInUse(path=store, pid=pid, since=since)
        self._found = Written()
        # The holder's line is for people; a full disk must not keep the bot from opening what it has.
        with contextlib.suppress(OSError):
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._found = parse(os.read(descriptor, _LONGEST))
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, holder_line(self._pid, self._since))
        return descriptor

    def holds(self) -> bool:
        """Return whether the lock is this process's still, taking it again if it was dropped: a microsecond.

        The bot may have read the sidecar, which drops the lock when the other descriptor is closed.
        """
        if sys.platform == "win32":  # a lock there belongs to the descriptor
            return True
        descriptor = self._descriptor
        return descriptor is None or _try_lock(descriptor)

    def take_again(self) -> None:
        """Lock what is at the lock's path now: the file that was held is not there any more.

        Raises StoreInUse: another process was faster; StoreError.
        """
        with _taking:
            before = self._descriptor
            assert before is not None
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if os.path.samestat(os.lstat(lock_path(self._store)), os.fstat(before)):
                    # Not opened again: closing a second descriptor would drop the lock.
                    if not _try_lock(before):
                        raise StoreInUse(path=self._store, pid=_locked_by(before), since=None)
                    return
            self._descriptor = self._taken(self._store)
            self.sidecar.move(self._descriptor)
            os.close(before)

    def release(self) -> None:
        """Give the lock back; the sidecar stays, since removing it would let two processes lock two files."""
        with _taking:
            if self._descriptor is None:
                return
            descriptor, self._descriptor = self._descriptor, None
            self.sidecar.end()
            os.close(descriptor)
            if os.getpid() == self._pid:
                _held.pop(self._store, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _opened(sidecar: Path, *, like: Path) -> int:
    """Return a descriptor of the sidecar, made for the owner of `like` if need be. Raises OSError: it is not ours."""
    try:
        descriptor = os.open(sidecar, os.O_RDWR | os.O_CREAT | os.O_EXCL | files.CAREFUL, 0o600)
    except FileExistsError:
        descriptor = os.open(sidecar, os.O_RDWR | files.CAREFUL)
    else:
        files.give(descriptor, like=like)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(descriptor)
        raise OSError(0, "it is not a plain file, or has a second name; remove it while no bot runs")
    return descriptor


def lock_path(store: Path) -> Path:
    """Return the path of the lock of `store`."""
    return store.with_name(store.name + ".lock")


class Holder(NamedTuple):
    """Whose the outbox file is. running: whether that process has the lock now; else it is the last one that had it.

    running: None: this user may not ask. pid: None: nobody ever had it, or nobody can say. since: UTC, ISO 8601.
    """

    pid: int | None
    since: str | None
    running: bool | None


def look(store: Path) -> Holder:
    """Return who has `store` open for writing, or had it last; takes nothing, creates nothing. Raises OSError."""
    pid, since = written(store).holder or (None, None)
    if is_mine(store):
        return Holder(pid, since, running=True)
    try:
        descriptor = os.open(lock_path(store.resolve()), _TO_ASK | files.CAREFUL)
    except FileNotFoundError:
        return Holder(None, None, running=False)
    try:
        found = _locked_by(descriptor)
    finally:
        os.close(descriptor)
    # The sidecar may still name the one before: it is written after the lock is taken.
    holder = pid if not found or found == pid else found
    return Holder(holder, since if holder == pid else None, running=found is not None)


def is_mine(store: Path) -> bool:
    """Return whether this process has `store` open for writing. Its files must then not be opened beside SQLite."""
    mine = _held.get(store.resolve())
    return mine is not None and mine._pid == os.getpid()


def written(store: Path) -> Written:
    """Return what the last holder of the lock of `store` has written in the sidecar. Raises OSError.

    Opens it only where this process does not hold it: closing it again would drop the lock.
    """
    mine = _held.get(store.resolve())
    if mine is not None:
        return mine.sidecar.written._replace(holder=(mine._pid, mine._since))
    try:
        return _read(lock_path(store.resolve()))
    except FileNotFoundError:
        return Written()


def _read(sidecar: Path) -> Written:
    return parse(files.read_plain(sidecar, _LONGEST) or b"")


def _holder(sidecar: Path) -> tuple[int | None, str | None]:
    try:
        found = _read(sidecar).holder
    except OSError:
        found = None
    # A holder between locking and writing, or one that died there: held, but by nobody known.
    return found or (None, None)
