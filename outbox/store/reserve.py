"""A file that holds space back, for the moment when the disk is full.

SQLite cannot even delete on a full disk: every change is written to the WAL first. Giving this file up lets the
flusher settle what is delivered, and the housekeeper prune it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from outbox.store import files

_CHUNK = 1 << 20
# A connection needs a -shm of 32 KiB and the beginning of a -wal; migrations and notes a little more.
NEEDED_TO_OPEN = 1 << 20
# Of room after a failed write: a commit has taken what there was, and a -shm grows by 32 KiB at once.
LITTLE = 1 << 16
_NO_SPACE = frozenset(
    code for name in ("ENOSPC", "EDQUOT", "EFBIG") if (code := getattr(errno, name, None)) is not None
)


class Reserve:
    """The file `<db>-reserve` of `size` bytes. Every method does I/O: call them in a thread."""

    def __init__(self, store: Path, size: int) -> None:
        self._store = store
        self.path = store.with_name(store.name + "-reserve")
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
        """Return whether `size` bytes more cannot be stored, by trying it. Raises OSError: for another reason.

        A quota stands in no figure of the disk, and SQLite calls what goes beyond it an I/O error.
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
