"""The one snapshot of how things stand: `stats()`, `status`, the metrics and the fleet's row are made from it.

Taking it reads counters and indexes, never the backlog, on any connection, in that connection's thread.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from outbox.entry import LaneSpec
from outbox.store import files, queries, sqlite
from outbox.store.rows import Notices, StoredPause, by_state, total
from outbox.store.sidecar import Flushing

if TYPE_CHECKING:
    from outbox.store.reader import Reader

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


class Snapshot(NamedTuple):
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
