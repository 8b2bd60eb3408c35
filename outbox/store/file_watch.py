"""Whether the files that this process holds open are still those at their paths.

SQLite keeps writing to a file that no longer has a name, and reports every commit as done. So device and inode of the
database, its -wal, its -shm and the lock are remembered, and checked after each commit, before any caller is answered.
A file that is held open keeps its inode to itself: another one at its path always has another number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from outbox.store.files import CAREFUL, WAL_MAGIC

# Magic number, version, page size, checkpoint number, two salts (sqlite.org/fileformat2.html#walformat).
_HEAD_BYTES = 24


class Part(Enum):
    """The database and the files beside it, by the end of their names."""

    DATABASE = ""
    WAL = "-wal"
    INDEX = "-shm"
    LOCK = ".lock"


class FileWatch:
    """gone: what is not at its place, as of the last look. replaced: of these, where there is another file now.

    wal_cut: the -wal is in its place, and somebody has cut it, emptied it or written over its head: SQLite continues
    behind the hole, and no opening will read beyond it. names: how many names the database file has; more than one:
    another process may open it beside another lock.
    """

    def __init__(self, path: Path, holds_lock: Callable[[], bool]) -> None:
        self._places = {part: f"{path}{part.value}" for part in Part}
        self._holds_lock = holds_lock
        self._known: tuple[tuple[Part, str, int, int], ...] = ()
        self._wal_file: int | None = None  # held open: opening it anew for each commit takes longer than looking
        self.gone: frozenset[Part] = frozenset()
        self.replaced: frozenset[Part] = frozenset()
        self.wal_cut: bool = False
        self._wal = (0, b"")  # its size and head as of the last look
        self.names: int = 1

    def remember(self) -> None:
        """Remember the files at the paths as ours. Raises OSError: one is missing; each look says so from here on."""
        self.forget()
        problem: OSError | None = None
        for part, place in self._places.items():
            try:
                if part is Part.WAL:  # SQLite has no lock on a -wal that closing it would drop
                    self._wal_file = os.open(place, os.O_RDONLY | CAREFUL)
                    facts = os.fstat(self._wal_file)
                else:
                    facts = os.lstat(place)
            except OSError as error:
                problem = error
                self._known += ((part, place, 0, 0),)
            else:
                self._known += ((part, place, facts.st_dev, facts.st_ino),)
        if problem is not None:
            raise problem

    def forget(self) -> None:
        """Look at nothing: the files are about to be closed, or opened anew. Not while another thread looks."""
        if self._wal_file is not None:
            os.close(self._wal_file)
            self._wal_file = None
        self._known, self.gone, self.replaced, self.wal_cut = (), frozenset(), frozenset(), False
        self._wal = (0, b"")

    def look_for_cut(self) -> None:
        """Note that the -wal has become shorter, before SQLite writes behind the hole; one `fstat`.

        SQLite itself begins another one, with another head, before it makes it shorter.
        """
        size, head = self._wal
        if self._wal_file is None or not size:
            return
        try:
            self.wal_cut |= os.fstat(self._wal_file).st_size < size and self._head() == head
        except OSError:  # the next look says what is wrong
            return

    def look(self) -> None:
        """Note what is gone. Four `lstat`, 24 bytes and one lock that is taken already: some 50 µs after a sync.

        Called in SQLite's thread.
        """
        gone, replaced = [], []
        for part, place, device, inode in self._known:
            try:
                facts = os.lstat(place)
            except (FileNotFoundError, NotADirectoryError):
                gone.append(part)
                continue
            except OSError:  # a failing disk, a folder that may not be entered: nothing is known
                continue
            emptied = part is Part.DATABASE and not facts.st_size  # a WAL database has its first page from the start
            if facts.st_ino != inode or facts.st_dev != device or emptied:
                gone.append(part)
                replaced.append(part)
            elif part is Part.DATABASE:
                self.names = facts.st_nlink
            elif part is Part.WAL:
                head = self._head()
                self._wal = facts.st_size, head
                if self.wal_cut or (head and not head.startswith(WAL_MAGIC)):
                    gone.append(part)
                    self.wal_cut = True
        if self._known and Part.LOCK not in gone and not self._holds_lock():
            gone.append(Part.LOCK)
        if gone or self.gone:
            self.gone, self.replaced = frozenset(gone), frozenset(replaced)

    def _head(self) -> bytes:
        """Return what the -wal begins with, down to the numbers that each new one has; empty: nothing is known."""
        assert self._wal_file is not None
        try:
            os.lseek(self._wal_file, 0, os.SEEK_SET)
            return os.read(self._wal_file, _HEAD_BYTES)
        except OSError:
            return b""

    def own(self, part: Part) -> Path | None:
        """Return the path of `part` if the file there is ours."""
        return None if part in self.gone else Path(self._places[part])
