"""What `drain` and `stats` return, and the one snapshot that stats, status and metrics are made from.

Taking it reads counters and indexes, never the backlog, on any connection, in that connection's thread.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from outbox.entry import LaneSpec, State
from outbox.store import files, queries, sqlite
from outbox.store.rows import Notices, StoredPause, by_state, total
from outbox.store.sidecar import Flushing
from outbox.task_state import TaskState

if TYPE_CHECKING:
    from outbox.store.reader import Reader


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


# Counting postponed entries stops here; this number means that many or more.
MOST_POSTPONED = 1000

# How long an entry may be pending before that counts as stalled, by default.
STALLED_AFTER_S = 300.0

# An entry in one of these shows that a flusher has run.
_SETTLED = ("delivered", "dead", "discarded", "pruned")


class Health(IntEnum):
    """The health as a monitor sees it; each is an exit code of `outbox status`."""

    HEALTHY = 0
    DEAD_LETTERS = 1
    STALLED = 2
    UNREADABLE = 3
    HINDERED = 4
    DAMAGED = 5

    @property
    def words(self) -> str:
        """The name in plain words."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the file says. Counts are entries; times are Unix milliseconds; sizes are bytes.

    quarantined: damaged files beside it that still need attention. damage, loss: sentences.
    """

    destinations: Mapping[str, Mapping[str, int]]
    oldest_pending_ms: int | None
    pending_bytes: int  # of the payloads
    postponed: int  # pending entries that wait for a row of their own or are stuck; at most MOST_POSTPONED
    strict_order: bool
    pauses: tuple[StoredPause, ...]  # the longest one first
    lanes: Mapping[int, LaneSpec]  # those that pauses are about; a bot may have thousands
    notices: Notices
    db_bytes: int
    wal_bytes: int
    loss: str | None
    damage: str | None = None
    quarantined: tuple[Path, ...] = ()

    def total(self, state: str) -> int:
        """Return how many entries of all destinations are in `state`."""
        return total(self.destinations, state)

    def by_destination(self, state: str) -> dict[str, int]:
        """Return how many entries of each destination are in `state`; only destinations that ever had any."""
        return {name: states[state] for name, states in self.destinations.items() if state in states}

    def oldest_age_s(self, now_ms: int) -> float | None:
        """Return how long the oldest pending entry has waited; None: nothing is pending."""
        return None if self.oldest_pending_ms is None else max(0.0, (now_ms - self.oldest_pending_ms) / 1000)

    def unsent(self, *, bot_runs: bool | None, flushing: Flushing | None, settings: Sequence[str]) -> str | None:
        """Return why nobody sends what waits, though nothing is paused; None: nothing waits, or somebody sends it.

        bot_runs, flushing: of the process that has the file open, or had it last; None: not known. settings: what in
        them keeps entries from arriving; they may not be the bot's, so deliveries in this run count for more.
        """
        if not self.total("pending"):
            return None
        started = flushing is not None and flushing.since_ms is not None
        if settings and not (bot_runs and flushing is not None and flushing.delivered_ms is not None):
            return settings[0]
        if bot_runs and flushing is not None and not flushing.running:
            what = "has stopped" if started else "has never started"
            return f"the process that has the file open {what} its flusher: outbox.flushing(), or run_flusher()"
        if not (started or self.pauses or any(self.total(state) for state in _SETTLED)):
            return "no flusher has ever run on this file"
        return None

    def causes(self) -> dict[str, bool]:
        """Return the conditions of the file that an operator must know, by name, and whether each holds."""
        return {
            "damage": self.damage is not None,
            "quarantine": bool(self.quarantined),
            "loss": self.loss is not None,
            "reserve_released": self.notices.reserve_released_ms is not None,
            "files_lost": self.notices.files_lost_ms is not None,
        }

    def health(self, *, now_ms: int, unsent: str | None, stalled_after_s: float = STALLED_AFTER_S) -> Health:
        """Return the worst that applies: `stats`, `outbox status`, the metrics and the fleet's row all show this.

        unsent: why nobody sends what waits. The view v_health says the same, as far as the file alone can tell.
        """
        if self.quarantined or self.damage or self.loss:
            return Health.DAMAGED
        if self.pauses or unsent or (self.oldest_age_s(now_ms) or 0) > stalled_after_s:
            return Health.STALLED
        if self.notices != Notices():
            return Health.HINDERED
        return Health.DEAD_LETTERS if self.total("dead") else Health.HEALTHY


async def take(reader: Reader, **beside: Any) -> Snapshot:
    """Return the snapshot, taken through `reader`; `beside` as `read`. Raises StoreError, OutboxClosed."""
    return await reader.run(lambda connection: read(connection, reader.path, **beside))


def take_in_thread(path: Path, **beside: Any) -> Snapshot:
    """The same in any thread, for a monitor's scrape: it uses neither the event loop nor the writer.

    Its own connection takes some hundred microseconds; in a WAL file a reader waits for nobody. Raises StoreError.
    """
    try:
        with contextlib.closing(sqlite.plain_connection(path)) as connection:
            return read(connection, path, **beside)
    except sqlite.SqliteError as error:
        raise sqlite.named(error, path) from error


def read(
    connection: sqlite3.Connection, path: Path, *, damage: str | None = None, quarantined: Sequence[Path] = ()
) -> Snapshot:
    """Return a consistent snapshot. damage, quarantined: known from beside the file, not from inside it."""

    def asked(sql: str, *parameters: object) -> list[Any]:
        return connection.execute(sql, parameters).fetchall()

    begun = connection.in_transaction  # by a caller that reads more in the same transaction
    if not begun:
        connection.execute("begin")
    try:
        oldest, ((_, backlog),) = asked(queries.OLDEST_PENDING.sql), asked(queries.BACKLOG.sql)
        ((postponed,),) = asked(queries.POSTPONED.sql, MOST_POSTPONED)
        meta = dict(asked(queries.META.sql))
        pauses = tuple(StoredPause.of(row) for row in asked(queries.PAUSES.sql))
        paused = ",".join(pause.subject for pause in pauses if pause.scope == "lane" and pause.subject.isdigit())
        return Snapshot(
            destinations=by_state(asked(queries.COUNTS.sql)),
            oldest_pending_ms=oldest[0][1] if oldest else None,
            pending_bytes=backlog,
            postponed=postponed,
            strict_order=meta.get("strict_order") == "1",
            pauses=pauses,
            lanes={number: LaneSpec.of(spec) for number, *spec in asked(queries.SOME_LANES.sql, f"[{paused}]")},
            notices=Notices.of(meta),
            db_bytes=files.file_bytes(path),
            wal_bytes=files.file_bytes(files.wal_path(path)),
            loss=said_of_loss(meta.get("loss")),
            damage=damage,
            quarantined=tuple(quarantined),
        )
    finally:
        if not begun:
            connection.rollback()


def said_of_loss(noted: str | None) -> str | None:
    """Return the sentence in the `loss` of `outbox_meta`: acknowledged entries that are missing."""
    return None if noted is None else str(json.loads(noted)["what"])
