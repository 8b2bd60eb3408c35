"""What the lock's sidecar holds, so that it is known when the file itself cannot be read.

Five lines of text at fixed places, each rewritten in place: who has the lock; what kind of file this is; the highest
number of an entry that was acknowledged; how the holder's flusher does, and its other background tasks. The third is
written at every commit and never synced: after a crash of the process it is exact, after a crash of the machine it may
be too low, never too high. The last two are for people to read, and cost no commit.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from outbox.task_state import TaskState

_HOLDER, _FACTS, _MARK, _END = 0, 256, 512, 533
# A mark has at most 19 digits.
_MARK_WIDTH = _END - _MARK
_FLUSHER, _FLUSHER_END = 576, 1024
_TASKS, _TASKS_END = 1024, 2048
_LONGEST_DAMAGE = 80
# A shell's row with such a number is given another: no mark may claim that its neighbours are missing.
_NO_MARK = 1 << 62
_LONGEST_ERROR = 200
# Per task, of several.
_LONGEST_TASK_ERROR = 120


class Facts(NamedTuple):
    """file: the outbox's own name for itself. own_tables: the bot keeps tables of its own in it.

    damage: what SQLite said when it met a damaged page in the last run; the next opening looks at the whole file.
    """

    file: str
    own_tables: bool
    damage: str | None = None


class Flushing(NamedTuple):
    """How the flusher of the lock's holder does. Times: Unix milliseconds.

    since_ms: when it was started, or else when it ended; None: it was never started. looked_ms: when it last looked for
    something to send, at most a minute ago unless it rests after errors. error: our own last one; the pauses
    hold what the remote end says.
    """

    running: bool = False
    since_ms: int | None = None
    looked_ms: int | None = None
    delivered_ms: int | None = None
    error: str | None = None
    error_ms: int | None = None


class Written(NamedTuple):
    """All that the sidecar says. Each is None where it says nothing."""

    holder: tuple[int, str] | None = None
    facts: Facts | None = None
    mark: int | None = None
    flushing: Flushing | None = None
    tasks: Mapping[str, Any] | None = None

    @property
    def damage(self) -> str | None:
        """What SQLite said when the last run met a damaged page; None: it met none."""
        return None if self.facts is None else self.facts.damage

    def mark_of(self, file: str | None) -> int | None:
        """Return the mark if it is that of the outbox that calls itself `file`."""
        return self.mark if self.facts is not None and self.facts.file == file else None


def holder_line(pid: int, since: str) -> bytes:
    """Return the line that names the lock's holder."""
    return _line({"pid": pid, "since": since}, _FACTS - _HOLDER)


def parse(content: bytes) -> Written:
    """Return what a sidecar's content says; a line that was cut short says nothing."""
    return Written(
        _holder(content[_HOLDER:_FACTS]),
        _facts(content[_FACTS:_MARK]),
        _mark(content[_MARK:_END]),
        _flushing(content[_FLUSHER:_FLUSHER_END]),
        _parsed(content[_TASKS:_TASKS_END]) or None,
    )


class Sidecar:
    """Writes the lines. descriptor: of the locked sidecar; it is the lock's, and is closed with it."""

    def __init__(self, descriptor: int, before: Written) -> None:
        self._descriptor = descriptor
        self.before = before  # what the last run left
        self._facts: Facts | None = None
        self._mark = 0
        self.flushing: Flushing = Flushing()
        self.tell(self.flushing)  # what is there now is the last holder's
        self.tasks: dict[str, Any] = {}
        self._write_tasks()

    @property
    def written(self) -> Written:
        """What it holds now, except the holder, whom the lock writes."""
        return Written(None, self._facts, self._mark, self.flushing, self.tasks)

    def begin(self, facts: Facts, mark: int) -> None:
        """Say what this file is, durably. Raises OSError."""
        self._facts = facts
        self._write(_FACTS, _line(facts._asdict(), _MARK - _FACTS))
        self._mark = -1
        self.mark(mark)
        os.fsync(self._descriptor)

    def forget(self) -> None:
        """Say nothing more of the file, durably: a new one is about to be made. The mark stays. Raises OSError."""
        self._write(_FACTS, b" " * (_MARK - _FACTS - 1) + b"\n")
        os.fsync(self._descriptor)

    def update(self, *, own_tables: bool | None = None, damage: str | None = None) -> None:
        """Change what is known. Into the kernel's cache, like the mark: it is called from the event loop."""
        if self._facts is None:
            return
        own = self._facts.own_tables if own_tables is None else own_tables
        words = self._facts.damage if damage is None else _plain(damage, _LONGEST_DAMAGE)
        fresh = Facts(self._facts.file, own, words)
        if fresh != self._facts:
            self._facts = fresh
            with contextlib.suppress(OSError):
                self._write(_FACTS, _line(fresh._asdict(), _MARK - _FACTS))

    def mark(self, seq: int) -> None:
        """Note that the entry `seq` is acknowledged: a microsecond or two, into the kernel's cache."""
        if self._mark < seq < _NO_MARK:
            self._mark = seq
            with contextlib.suppress(OSError):  # a full disk: a loss would go unnoticed, the entry is safe
                self._write(_MARK, b"%*d\n" % (_MARK_WIDTH - 1, seq))

    def tell(self, flushing: Flushing) -> None:
        """Say how the flusher does. Into the kernel's cache, as the mark."""
        self.flushing = flushing
        error = None if flushing.error is None else _plain(flushing.error, _LONGEST_ERROR)
        line = _line(flushing._replace(error=error)._asdict(), _FLUSHER_END - _FLUSHER)
        with contextlib.suppress(OSError):
            self._write(_FLUSHER, line)

    def tell_task(self, task: TaskState) -> None:
        """Say how a background task does, in the same way."""
        error = task.last_error and _plain(task.last_error, _LONGEST_TASK_ERROR)
        self.tasks[task.name] = {"running": task.running, "failures": task.failures, "last_error": error}
        self._write_tasks()

    def _write_tasks(self) -> None:
        with contextlib.suppress(OSError):
            self._write(_TASKS, _line(self.tasks, _TASKS_END - _TASKS))

    def move(self, descriptor: int) -> None:
        """Continue in another file, with all that this one held: the lock was taken again. Raises OSError."""
        self._descriptor = descriptor
        self.tell(self.flushing)
        self._write_tasks()
        if self._facts is not None:
            self.begin(self._facts, self._mark)

    def end(self) -> None:
        """Write nothing more: the descriptor is about to be closed, and its number may soon mean another file."""
        self._descriptor = -1

    def _write(self, place: int, line: bytes) -> None:
        if os.name == "nt":
            os.lseek(self._descriptor, place, os.SEEK_SET)
            os.write(self._descriptor, line)
        else:
            os.pwrite(self._descriptor, line, place)


def _plain(words: str, longest: int) -> str:
    """Return `words` cut to a number of bytes in JSON."""
    return ascii(words)[1:-1][:longest].replace("\\", "/").replace('"', "'")


def _line(facts: dict[str, Any], width: int) -> bytes:
    """Return one line of exactly `width` bytes."""
    text = json.dumps({name: value for name, value in facts.items() if value is not None}).encode()
    assert len(text) < width
    return text.ljust(width - 1) + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _holder(line: bytes) -> tuple[int, str] | None:
    match _parsed(line):
        case {"pid": int(pid), "since": str(since)}:
            return pid, since
    return None


def _facts(line: bytes) -> Facts | None:
    match _parsed(line):
        case {"file": str(file), "own_tables": bool(own_tables), **more}:
            damage = more.get("damage")
            return Facts(file, own_tables, damage if isinstance(damage, str) else None)
    return None


def _flushing(line: bytes) -> Flushing | None:
    facts = _parsed(line)
    times = [value for name, value in facts.items() if name.endswith("_ms")]
    sound = isinstance(facts.get("running"), bool) and isinstance(facts.get("error"), str | None)
    try:
        return Flushing(**facts) if sound and all(isinstance(each, int) for each in times) else None
    except TypeError:  # another version's
        return None


def _mark(line: bytes) -> int | None:
    text = line.strip()
    return int(text) if line.endswith(b"\n") and text.isdigit() else None
