"""What a bot reports of itself, and what the answer means for the next; no I/O, no clock, no dice.

The table is `outbox_health` of supabase_sql/: one row for each bot, decided by its source.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from outbox.entry import LaneSpec, Operation
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reject, Reply, Scope, judge, read_refusal

TABLE = "outbox_health"


@dataclass(frozen=True, slots=True)
class Report:
    """How a bot stands. Counts are entries, times Unix milliseconds; the fields are columns of nearly the same names.

    paused: why something is not sent; None: nothing is paused. stopped: it ends in good order.
    """

    source: str
    health: str  # in the words of `outbox status`
    pending: int
    dead: int
    oldest_pending_s: float | None
    last_success_ms: int | None
    paused: str | None
    version: str
    every_s: float
    stopped: bool = False

    def row(self, *, with_health: bool) -> str:
        """Return the row as a JSON object. with_health: the table has that column."""
        success = None
        if self.last_success_ms is not None:
            success = datetime.fromtimestamp(self.last_success_ms / 1000, UTC).isoformat(timespec="milliseconds")
        values: dict[str, object] = {
            "source": self.source,
            "pending": self.pending,
            "dead": self.dead,
            "oldest_pending_s": self.oldest_pending_s,
            "last_success_at": success,
            "paused": self.paused,
            "version": self.version,
            "every_s": self.every_s,
            "stopped": self.stopped,
        }
        if with_health:
            values["health"] = self.health
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)


_COLUMNS = ("last_success_at", "oldest_pending_s", "paused", "pending", "source", "stopped", "version")


def shape(*, with_health: bool) -> LaneSpec:
    """Return what a report's request is."""
    columns = ["dead", "every_s", *(["health"] if with_health else []), *_COLUMNS]
    return LaneSpec(TABLE, Operation.UPSERT, "source", ",".join(columns), True)


_NO_COLUMN = ("PGRST204", "42703")


class After(Enum):
    """What follows upon an answer."""

    GO_ON = auto()
    TRY_LATER = auto()  # the failure is not the table's: the next report may pass
    WITHOUT_HEALTH = auto()  # a column is missing: the table is of an older version
    GIVE_UP = auto()  # no such table, or not for us: asking every minute would change nothing


def after(outcome: Reply | Failure) -> After:
    """Return what `outcome` means for the reports to come."""
    match judge(Operation.UPSERT, 1, outcome):
        case Delivered():
            return After.GO_ON
        case Pause() if isinstance(outcome, Reply) and read_refusal(outcome).code in _NO_COLUMN:
            return After.WITHOUT_HEALTH
        case Reject() | Pause(scope=Scope.DESTINATION | Scope.LANE, slow=True):
            return After.GIVE_UP
        case _:
            return After.TRY_LATER


def blocked(scopes: Sequence[str]) -> bool:
    """Whether nothing at all is sent now: the flusher probes by itself, and a report would only be one more request."""
    return Scope.EVERYTHING in scopes
