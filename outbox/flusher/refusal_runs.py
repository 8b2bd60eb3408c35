"""Whether the rows that a lane is refused are at fault, or their table is; no I/O, no clock, no randomness.

One bad row dies alone. Row after row refused for one cause, with none accepted in between, means a missing policy, a
column that a migration has added, a key of another type: at most `MOST` rows die of it, and the first accepted row
brings them back. A row counts once: one that was revived and is refused again is bad itself.

Runs are counted twice: for each lane, which another set of columns that is accepted does not end; and for all lanes of
a table and operation together, so that rows whose columns keep changing do not die one per set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from outbox.postgrest.verdicts import Refusal

MOST = 10

# 22P02 and its like quote the value: two bad values are one cause. The others quote names of columns and rules.
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(slots=True)
class RefusalRun:
    """Rows that died one after another; `outbox_refused_runs` keeps those of each lane."""

    cause: str | None = None
    seqs: list[int] = field(default_factory=list)

    def is_full(self, cause: str) -> bool:
        """Return whether one more row refused for `cause` means that the table is at fault."""
        return self.cause == cause and len(self.seqs) >= MOST

    def add(self, cause: str, seq: int) -> None:
        """Count a row that dies; one that dies of something else begins a new run."""
        if self.cause != cause:
            self.cause, self.seqs = cause, []
        self.seqs.append(seq)

    def clear(self) -> None:
        """A row was accepted."""
        self.cause, self.seqs = None, []


def cause_of(refusal: Refusal) -> str:
    """Return what the refusals of one cause have in common."""
    code, message = refusal.code or "", refusal.message
    if code.startswith("22"):
        message = _QUOTED.sub("…", message)
    elif code.startswith("P0"):  # RAISE: the text is the trigger's own, and mostly holds the row's values
        message = ""
    return f"{refusal.status} {refusal.code} {message}"[:500]
