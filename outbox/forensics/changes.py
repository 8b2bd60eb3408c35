"""What happened to entries, one thing at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from outbox.forensics.queries import NEWEST_LINES


class Change(NamedTuple):
    """One thing that happened to one entry. event: put, delivered, or a word of its history.

    destination, id: None if the entry is gone.
    """

    at_ms: int
    event: str
    seq: int | None
    destination: str | None
    id: str | None
    status: int | None = None
    code: str | None = None
    message: str | None = None
    columns: Mapping[str, Any] | None = None  # what identifies its row, if asked for


def last_refusal(connection: sqlite3.Connection) -> Change | None:
    """Return a server's newest complaint about an entry; None: there was none, or all are pruned."""
    # Only among the newest hundred lines: after so many requeues and discards it is out of date.
    newest = [Change(*row) for row in connection.execute(NEWEST_LINES.sql).fetchall()]
    return next((change for change in newest if change.event in ("refused", "postponed", "stuck")), None)
