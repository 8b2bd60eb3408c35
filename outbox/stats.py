"""What `drain` and `stats` return."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from outbox.entry import State
from outbox.snapshot import Health, Snapshot
from outbox.store import sqlite
from outbox.store.rows import StoredPause
from outbox.store.sidecar import Flushing
from outbox.task_state import TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What `drain` did.

    Attributes:
        delivered: Entries in this drain.
        pending: Entries now.
        dead: Entries now.
        seconds: How long it took.
        timed_out: The deadline came while something was still pending.
        held_by: Why it ended earlier with something pending: what waits for an operator, and why.
    """

    delivered: int
    pending: int
    dead: int
    seconds: float
    timed_out: bool
    held_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlusherState:
    """What `stats()` shows of the flusher."""

    started: bool = False
    running: bool = False
    last_error: str | None = None
    last_delivery_ms: int | None = None


@dataclass(slots=True)
class Status:
    """The flusher's state at this moment, which any thread may read."""

    now: FlusherState = field(default_factory=FlusherState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The outbox at a glance. Counts are entries; ages are seconds; sizes are bytes."""

    path: Path
    health: Health  # the worst that applies, as in `outbox status`
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
    quarantined: tuple[Path, ...] = ()  # damaged files that were set aside and still need attention
    damage: str | None = None  # SQLite found a damaged page in this run: the next open sets the file aside
    loss: str | None = None  # entries that were acknowledged and are missing, until `outbox acknowledge`
    tasks: tuple[TaskState, ...] = ()  # the background tasks beside the flusher, and their errors

    @classmethod
    def of(
        cls,
        path: Path,
        found: Snapshot,
        *,
        now_ms: int,
        flusher: FlusherState,
        settings: Sequence[str] = (),
        warnings: tuple[str, ...] = (),
        tasks: tuple[TaskState, ...] = (),
    ) -> Self:
        """Return the stats in the snapshot `found`. settings: what in them keeps entries from arriving."""
        return cls(
            path=path,
            health=health_of(found, now_ms=now_ms, flusher=flusher, settings=settings),
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
            exposed_to_wal_reset_bug=sqlite.EXPOSED_TO_WAL_RESET_BUG,
            reserve_released_ms=found.notices.reserve_released_ms,
            checkpoint_held_ms=found.notices.checkpoint_held_ms,
            files_lost_ms=found.notices.files_lost_ms,
            second_name_ms=found.notices.second_name_ms,
            warnings=(*found.notices.sentences(found.wal_bytes), *warnings, *settings),
            quarantined=found.quarantined,
            damage=found.damage,
            loss=found.loss,
            tasks=tasks,
        )


def health_of(found: Snapshot, *, now_ms: int, flusher: FlusherState, settings: Sequence[str]) -> Health:
    """Return the health of an outbox that is open here; the rest as `Stats.of`."""
    flushing = Flushing(flusher.running, 0 if flusher.started else None, delivered_ms=flusher.last_delivery_ms)
    return found.health(now_ms=now_ms, unsent=found.unsent(bot_runs=True, flushing=flushing, settings=settings))
