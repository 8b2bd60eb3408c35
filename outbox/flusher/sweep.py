"""Rows that are refused again and again hold up nothing: in an ordered lane, too, each row has its turn.

Always oldest first, a lane would repeat the same rows for ever if refusing them took longer than they then wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outbox.store.rows import Outgoing


@dataclass(slots=True)
class Sweep:
    """after: the entry behind which the lane continues; 0: at the oldest. until: the last entry that was there then."""

    after: int = 0
    until: int = 0

    def postponed(self, seq: int, last_seq: int) -> None:
        """Continue behind an entry that waits for its next try; `last_seq` is the youngest of all."""
        if not self.after:
            self.until = last_seq
        self.after = max(self.after, seq)

    def restart(self) -> None:
        """Begin at the oldest: what was refused waits for its next try, not for a whole backlog."""
        self.after = 0

    def is_over(self, found: Sequence[Outgoing]) -> bool:
        """Return whether nothing of it is among `found`: what comes behind waits, and the oldest have their turn."""
        return self.after > 0 and not (found and found[0].seq <= self.until)
