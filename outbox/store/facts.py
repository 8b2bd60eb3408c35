"""Floor 3 · store. What stands in the lock's sidecar, so that it can be known when the file itself cannot be read.

Three lines of text at fixed places, each rewritten in place: who has the lock; what kind of file this is; the highest
number of an entry that was acknowledged. The last one is written at every commit and never synced: after a crash of the
process it is exact, after a crash of the machine it may be too low, never too high.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

_HOLDER, _FACTS, _MARK, _END = 0, 256, 512, 533
# A mark has 19 digits at the most.
_MARK_WIDTH = _END - _MARK
_LONGEST_DAMAGE = 80


@dataclass(frozen=True, slots=True)
class Facts:
    """file: the outbox's own name for itself. own_tables: the bot keeps tables of its own in it.

    damage: what SQLite said when it met a damaged page in the last run; the next opening looks at the whole file.
    """

    file: str
    own_tables: bool
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """All that the sidecar says. Each is None where it says nothing."""

    holder: tuple[int, str] | None
    facts: Facts | None
    mark: int | None


def holder_line(pid: int, since: str) -> bytes:
    """Return the line that names the lock's holder."""
    return _line({"pid": pid, "since": since}, _FACTS - _HOLDER)


def parse(content: bytes) -> Written:
    """Return what a sidecar's content says; a line that was cut short says nothing."""
    return Written(_holder(content[_HOLDER:_FACTS]), _facts(content[_FACTS:_MARK]), _mark(content[_MARK:_END]))


class Sidecar:
    """Writes the lines. descriptor: of the locked sidecar; it is the lock's, and is closed with it."""

    def __init__(self, descriptor: int, before: Written) -> None:
        self._descriptor = descriptor
        self.before = before  # what the last run left
        self._facts: Facts | None = None
        self._mark = 0

    @property
    def damage(self) -> str | None:
        """What SQLite said in this run when it met a damaged page."""
        return None if self._facts is None else self._facts.damage

    def begin(self, facts: Facts, mark: int) -> None:
        """Say what this file is, durably. Raises OSError."""
        self._facts = facts
        self._write(_FACTS, _line(asdict(facts), _MARK - _FACTS))
        self._mark = -1
        self.mark(mark)
        os.fsync(self._descriptor)

    def update(self, *, own_tables: bool | None = None, damage: str | None = None) -> None:
        """Change what is known. Into the kernel's cache, like the mark: it is called from the event loop."""
        if self._facts is None:
            return
        own = self._facts.own_tables if own_tables is None else own_tables
        words = self._facts.damage if damage is None else ascii(damage)[1:-1][:_LONGEST_DAMAGE].replace("\\", "/")
        fresh = Facts(self._facts.file, own, words)
        if fresh != self._facts:
            self._facts = fresh
            with contextlib.suppress(OSError):
                self._write(_FACTS, _line(asdict(fresh), _MARK - _FACTS))

    def mark(self, seq: int) -> None:
        """Note that the entry `seq` is acknowledged: a microsecond or two, into the kernel's cache."""
        if seq > self._mark:
            self._mark = seq
            with contextlib.suppress(OSError):  # a full disk: a loss would go unnoticed, the entry is safe
                self._write(_MARK, b"%*d\n" % (_MARK_WIDTH - 1, seq))

    def _write(self, place: int, line: bytes) -> None:
        if os.name == "nt":
            os.lseek(self._descriptor, place, os.SEEK_SET)
            os.write(self._descriptor, line)
        else:
            os.pwrite(self._descriptor, line, place)


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


def _mark(line: bytes) -> int | None:
    text = line.strip()
    return int(text) if line.endswith(b"\n") and text.isdigit() else None
