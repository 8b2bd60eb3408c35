"""What one request carries, and what is left of one that was refused; no I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from outbox.store.rows import Lane, Outgoing


class Source(Enum):
    """Where the rows of a lane's next request come from. A lane serves those that have something in rotation."""

    NEW = auto()  # never refused, in the order of the puts
    PART = auto()  # of a batch that was refused
    AGAIN = auto()  # refused before, such as for a parent that was not there
    SUSPECT = auto()  # failed alone: it travels alone


@dataclass(frozen=True, slots=True)
class Batch:
    """What a lane sends in one request of `bytes` bytes. probe: it tests whether a pause is over.

    others: what other lanes send in the same request.
    """

    source: Source
    entries: Sequence[Outgoing]
    bytes: int
    probe: bool = False
    others: Sequence[tuple[Lane, Batch]] = ()

    @property
    def seqs(self) -> list[int]:
        """Which entries of the lane these are."""
        return [entry.seq for entry in self.entries]

    @property
    def all_entries(self) -> list[Outgoing]:
        """All entries of the request."""
        return [*self.entries, *(entry for _, other in self.others for entry in other.entries)]


@dataclass(slots=True)
class Part:
    """Entries of a batch that was refused. before, behind: the hope that its first and its last rows are good.

    spent: all of them were refused before.
    """

    seqs: list[int]
    before: int = 0
    behind: int = 0
    spent: bool = False

    @property
    def rank(self) -> tuple[bool, int, int]:
        """How late it comes, beside others of its kind."""
        return self.spent, -max(self.before, self.behind), -len(self.seqs)

    def inner(self) -> int:
        """Return the hope where it is halved."""
        return max(self.before, self.behind, 1) - 1
