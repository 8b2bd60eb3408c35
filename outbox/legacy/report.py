"""What became of the old module's files: what was taken, and what was left at which place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from outbox.legacy.fragments import Text

_NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Left:
    """What was not taken: `bytes` bytes from `byte` (from 0), on `line` (from 1), and why."""

    byte: int
    line: int
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class OldFile:
    """What became of one file. taken, known: entries, bars or sessions, new and stored already.

    renamed: its name now; None: it is as it was. rest: the file that holds what was not taken; None: there is none.
    """

    path: Path
    taken: int = 0
    known: int = 0
    left: tuple[Left, ...] = ()
    renamed: Path | None = None
    rest: Path | None = None


@dataclass(frozen=True, slots=True)
class LegacyReport:
    """What became of each old file; empty: there was none."""

    files: tuple[OldFile, ...] = ()

    @property
    def taken(self) -> int:
        """Entries, bars and sessions that are new here."""
        return sum(file.taken for file in self.files)

    @property
    def left(self) -> int:
        """Places of the old files that could not be read."""
        return sum(len(file.left) for file in self.files)


@dataclass(slots=True)
class Found:
    """What one reading of a file has come to so far."""

    text: Text
    taken: int = 0
    known: int = 0
    left: list[tuple[int, int, str]] = field(default_factory=list)  # from, to, why

    def leave(self, start: int, end: int, why: str) -> None:
        self.left.append((start, end, why))

    def is_text(self, start: int, end: int) -> bool:
        """Whether this part is UTF-8; if not, it is left."""
        if _NOT_UTF8.search(self.text, start, end) is None:
            return True
        self.leave(start, end, "it is no UTF-8")
        return False


def places(found: Found) -> tuple[Left, ...]:
    """Return what was left by its place in the file's bytes."""
    told: list[Left] = []
    seen = byte = 0
    line = 1
    for start, end, why in sorted(found.left):
        if start > seen:
            between = found.text[seen:start].encode("utf-8", "surrogateescape")
            seen, byte, line = start, byte + len(between), line + between.count(b"\n")
        told.append(Left(byte, line, len(found.text[start:end].encode("utf-8", "surrogateescape")), why))
    return tuple(told)
