"""The disk that fails on command: how `faults.c` is built and steered, and what its log says.

Linux alone: it is loaded with LD_PRELOAD, and finds a file's name in /proc.
"""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")
CONTROL, LOG = "OUTBOX_FAULTS_CONTROL", "OUTBOX_FAULTS_LOG"
# As `struct control` and `struct record` of faults.c.
_CONTROL = struct.Struct("=9I256sIQ")
_COUNTERS = struct.Struct("=2I")
_SEEN_AT = 28
_RECORD = struct.Struct("=IIiIq")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux's")


class Call(IntFlag):
    """What a program asks of a file. MARK is none: the program says where it is."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    OPEN = 8
    CLOSE = 16
    UNLINK = 32
    MARK = 64


class File(IntFlag):
    """The files of a SQLite database in WAL mode."""

    NONE = 0
    DATABASE = 1
    WAL = 2
    SHM = 4


class Limit(IntEnum):
    """How a folder's limit shows. LATE: a write to a database is let through, and its sync fails."""

    SMALL = 0
    QUOTA = 1
    LATE = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One call. error: 0 if it was carried out. offset: of a write; the new length; or whether an open may write."""

    call: Call
    file: File
    error: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Which calls fail: of this kind, on this file, from the `first` on, `times` of them (0: all), with `error`.

    torn: a failing write leaves its first half on the disk.
    """

    call: Call
    file: File
    first: int
    times: int
    error: int
    torn: bool = False


class Disk:
    """Steers the calls of the processes that were started with `environment()`, from inside or from outside."""

    def __init__(self, control: Path, log: Path) -> None:
        self.log = log
        self._control = control
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @classmethod
    def new(cls, folder: Path) -> Disk:
        """Return a disk that works, with its files in `folder`."""
        control, log = folder / "control", folder / "log"
        control.write_bytes(bytes(mmap.PAGESIZE))
        log.touch()
        return cls(control, log)

    @classmethod
    def around(cls) -> Disk:
        """Return the disk that this process was started on."""
        return cls(Path(os.environ[CONTROL]), Path(os.environ[LOG]))

    def environment(self) -> dict[str, str]:
        """Return what a process needs in its environment."""
        return {"LD_PRELOAD": str(library()), CONTROL: str(self._control), LOG: str(self.log)}

    def watch(self, folder: Path, *, again: bool = False, limit: int = 0, kind: Limit = Limit.SMALL) -> None:
        """Let nothing fail, and watch the databases in `folder`; again: the log goes on, else it begins anew.

        limit: how many bytes fit into the folder; 0: as many as may be.
        """
        self._memory[: _CONTROL.size] = _CONTROL.pack(*[0] * 9, os.fsencode(folder) + b"/", kind, limit)
        if not again:
            os.truncate(self.log, 0)

    def fail(self, fault: Fault) -> None:
        """Count from here on, and let the calls fail that `fault` says."""
        words = (0, fault.call, fault.file, fault.first, fault.times, fault.error, fault.torn, 0, 0)
        self._memory[: 4 * len(words)] = struct.pack(f"={len(words)}I", *words)
        self._memory[:4] = struct.pack("=I", 1)

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._memory[:4] = bytes(4)

    @property
    def seen(self) -> int:
        """How many calls might have failed since `fail`."""
        return int(_COUNTERS.unpack_from(self._memory, _SEEN_AT)[0])

    @property
    def failed(self) -> int:
        """How many did."""
        return int(_COUNTERS.unpack_from(self._memory, _SEEN_AT)[1])

    def mark(self, text: str) -> None:
        """Write into the log where the program is."""
        data = text.encode()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, _RECORD.pack(Call.MARK, File.NONE, 0, len(data), 0) + data)
        finally:
            os.close(descriptor)

    def records(self) -> list[Record]:
        """Return the log."""
        return list(_parsed(self.log.read_bytes()))


def _parsed(content: bytes) -> Iterator[Record]:
    at = 0
    while at < len(content):
        call, file, error, length, offset = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        carried = length if call in (Call.MARK, Call.WRITE) and not error else 0
        yield Record(Call(call), File(file), error, offset, content[at : at + carried])
        at += carried


class Image:
    """A database and its WAL, as the kernel shows them, and as they would be found after a power cut.

    After a failed sync Linux marks the pages as written and shows them still, but they never reach the disk.
    """

    def __init__(self, database: bytes) -> None:
        self.shown = {File.DATABASE: bytearray(database), File.WAL: bytearray()}
        self.durable = {File.DATABASE: bytearray(database), File.WAL: bytearray()}
        self._dirty: dict[File, list[Record]] = {File.DATABASE: [], File.WAL: []}

    def apply(self, records: Sequence[Record]) -> None:
        """Let `records` happen."""
        for record in records:
            if record.file not in self.shown:
                continue
            if record.call is Call.SYNC:
                self._synced(record)
            elif not record.error and record.call in (Call.WRITE, Call.TRUNCATE):
                _happen(self.shown[record.file], record)
                self._dirty[record.file].append(record)

    def _synced(self, record: Record) -> None:
        dirty = self._dirty[record.file]
        if record.error:  # a length is kept in the file system's journal, the pages are lost
            self._dirty[record.file] = [each for each in dirty if each.call is Call.TRUNCATE]
            return
        for each in dirty:
            _happen(self.durable[record.file], each)
        dirty.clear()

    def write(self, path: Path, *, durable: bool) -> None:
        """Write the files to `path`, as a machine that starts would find them."""
        state = self.durable if durable else self.shown
        path.write_bytes(state[File.DATABASE])
        path.with_name(path.name + "-wal").write_bytes(state[File.WAL])


def _happen(content: bytearray, record: Record) -> None:
    if record.call is Call.TRUNCATE:
        content[:] = content[: record.offset].ljust(record.offset, b"\0")
        return
    end = record.offset + len(record.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[record.offset : end] = record.data


@functools.cache
def library() -> Path:
    """Compile `faults.c`, once a run, and return the library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler; CI has one")
    built = Path(tempfile.mkdtemp(prefix="outbox-faults-")) / "faults.so"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
    subprocess.run([*command, "-ldl"], check=True)
    return built
