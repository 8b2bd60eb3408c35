"""What `drain` and `stats` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from outbox.flusher import FlusherState
from outbox.store.store import StoredPause


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What `drain` did. delivered: entries in this drain. pending, dead: entries now. seconds: how long it took.

    timed_out: the deadline came while something was still pending. held_by: why it ended before that with something
    pending: only an operator can let it go on, and this says of what and why.
    """

    delivered: int
    pending: int
    dead: int
    seconds: float
    timed_out: bool
    held_by: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """The outbox at a glance. Counts are entries; ages are seconds; sizes are bytes."""

    path: Path
    pending: int
    delivered: int
    dead: int
    discarded: int
    pruned: int
    removed: int
    pending_bytes: int  # of the pending payloads
    oldest_pending_age_s: float | None
    postponed: int  # of the pending ones, those that wait for a row of their own or are stuck; counted up to 1,000
    paused: str | None
    pauses: tuple[StoredPause, ...]
    destinations: Mapping[str, Mapping[str, int]]
    flusher: FlusherState
    wal_bytes: int
    db_bytes: int
    sqlite_version: str
    exposed_to_wal_reset_bug: bool
    reserve_released_ms: int | None  # since when the disk is full and puts are refused, in Unix milliseconds
    checkpoint_held_ms: int | None  # since when a reader keeps the WAL from being emptied
    warnings: tuple[str, ...] = field(default=())
    quarantined: tuple[Path, ...] = ()  # damaged files that were set aside and not dealt with yet
    damage: str | None = None  # SQLite met a damaged page in this run: the next opening sets the file aside
    loss: str | None = None  # entries that were acknowledged and are missing, until `outbox acknowledge`


def total(counts: Mapping[str, Mapping[str, int]], state: str) -> int:
    """Return how many entries of all destinations are in `state`."""
    return sum(states.get(state, 0) for states in counts.values())
