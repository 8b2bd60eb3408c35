"""What became of the old module's files: what was taken, and what was left at which place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from outbox.legacy.fragments import Place


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

    taken: int = 0
    known: int = 0
    left: list[Left] = field(default_factory=list)

    def leave(self, start: Place, end: Place, why: str) -> None:
        """Note that what stands between two places is not taken."""
        self.left.append(Left(start.byte, start.line, end.byte - start.byte, why))
