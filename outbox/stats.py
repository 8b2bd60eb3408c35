"""What `drain` and `stats` return."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from outbox.background import TaskState
from outbox.entry import State
from outbox.flusher import FlusherState
from outbox.snapshot import Snapshot
from outbox.store import database
from outbox.store.reader import StoredPause


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
    files_lost_ms: int | None  # since when files are known to be removed or replaced in this run, in Unix milliseconds
    second_name_ms: int | None  # since when the file has a hard link, in Unix milliseconds
    warnings: tuple[str, ...] = field(default=())
    quarantined: tuple[Path, ...] = ()  # damaged files that were set aside and not dealt with yet
    damage: str | None = None  # SQLite met a damaged page in this run: the next opening sets the file aside
    loss: str | None = None  # entries that were acknowledged and are missing, until `outbox acknowledge`
    tasks: tuple[TaskState, ...] = ()  # what runs in the background beside the flusher, and the errors that it met

    @classmethod
    def of(
        cls,
        path: Path,
        found: Snapshot,
        *,
        now_ms: int,
        flusher: FlusherState,
        warnings: tuple[str, ...],
        tasks: tuple[TaskState, ...] = (),
    ) -> Self:
        """Return what a bot is told of the snapshot `found`. warnings: what keeps entries from being sent."""
        return cls(
            path=path,
            pending=found.total(State.PENDING),
            delivered=found.total(State.DELIVERED),
            dead=found.total(State.DEAD),
            discarded=found.total(State.DISCARDED),
            pruned=found.total("pruned"),
            removed=found.total("removed"),
            pending_bytes=found.pending_bytes,
            oldest_pending_age_s=found.oldest_age_s(now_ms),
            postponed=found.postponed,
            paused=found.pauses[0].reason if found.pauses else None,
            pauses=found.pauses,
            destinations=found.destinations,
            flusher=flusher,
            wal_bytes=found.wal_bytes,
            db_bytes=found.db_bytes,
            sqlite_version=sqlite3.sqlite_version,
            exposed_to_wal_reset_bug=database.EXPOSED_TO_WAL_RESET_BUG,
            reserve_released_ms=found.notices.reserve_released_ms,
            checkpoint_held_ms=found.notices.checkpoint_held_ms,
            files_lost_ms=found.notices.files_lost_ms,
            second_name_ms=found.notices.second_name_ms,
            warnings=(*found.notices.sentences(found.wal_bytes), *warnings),
            quarantined=found.quarantined,
            damage=found.damage,
            loss=found.loss,
            tasks=tasks,
        )


def total(counts: Mapping[str, Mapping[str, int]], state: str) -> int:
    """Return how many entries of all destinations are in `state`."""
    return sum(states.get(state, 0) for states in counts.values())
