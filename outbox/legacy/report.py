"""The result for the old module's files: what was imported, and what was left, with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from outbox.legacy.fragments import Place


@dataclass(frozen=True, slots=True)
class Left:
    """What was not imported: `bytes` bytes from `byte` (from 0), on `line` (from 1), and why."""

    byte: int
    line: int
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class OldFile:
    """The result for one file. taken, known: entries, bars or sessions that are new, or already stored.

    renamed: its name now; None: unchanged. rest: the file that holds what was not imported; None: there is none.
    """

    path: Path
    taken: int = 0
    known: int = 0
    left: tuple[Left, ...] = ()
    renamed: Path | None = None
    rest: Path | None = None


@dataclass(frozen=True, slots=True)
class LegacyReport:
    """The result for each old file; empty: there was none."""

    files: tuple[OldFile, ...] = ()

    @property
    def taken(self) -> int:
        """Entries, bars and sessions that are new here."""
        return sum(file.taken for file in self.files)

    @property
    def left(self) -> int:
        """Places in the old files that could not be read."""
        return sum(len(file.left) for file in self.files)


@dataclass(slots=True)
class Found:
    """The result of reading one file, so far."""

    taken: int = 0
    known: int = 0
    left: list[Left] = field(default_factory=list)

    def leave(self, start: Place, end: Place, why: str) -> None:
        """Note that the text between two places is not imported."""
        self.left.append(Left(start.byte, start.line, end.byte - start.byte, why))
