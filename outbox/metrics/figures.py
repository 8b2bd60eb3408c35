"""Every figure: its name, kind, unit and meaning, and where it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from outbox import __version__
from outbox.entry import State
from outbox.flusher.context import Tally
from outbox.operating import Monitor, standing
from outbox.postgrest.verdicts import Reason
from outbox.snapshot import Health, Snapshot
from outbox.stats import health_of

Value = tuple[float, Mapping[str, str]]


class Kind(Enum):
    """How a figure behaves, in OpenTelemetry's words."""

    COUNTER = "counter"  # since the bot's start; only grows
    UP_DOWN = "up-down counter"  # now; may be summed over bots
    GAUGE = "gauge"  # now; a sum makes no sense
    HISTOGRAM = "histogram"


class Watched:
    """The source of one outbox's figures, in any thread. Figures that are read together share one snapshot."""

    def __init__(self, name: str, outbox: Monitor) -> None:
        self.name = name
        self.outbox = outbox
        self._snapshot: Snapshot | None = None
        self._read: set[str] = set()

    def begin(self, figure: str) -> None:
        """Note that `figure` is about to be read: a second read of it starts a new collection."""
        if figure in self._read:
            self._snapshot = None
            self._read.clear()
        self._read.add(figure)

    def snapshot(self) -> Snapshot:
        """Return how things stand in this collection. Raises StoreError."""
        found = self._snapshot
        if found is None:
            found = self._snapshot = standing(self.outbox.path)
        return found

    def health(self) -> Health:
        """Return what `outbox status` would say now. Raises StoreError."""
        now_ms = self.outbox.clock.now_ms()
        return health_of(
            self.snapshot(), now_ms=now_ms, flusher=self.outbox.flusher.now, settings=self.outbox.settings()
        )

    def age_s(self, since_ms: int | None) -> float:
        """Return the seconds since `since_ms`; 0: it is None."""
        return 0.0 if since_ms is None else max(0.0, (self.outbox.clock.now_ms() - since_ms) / 1000)


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric. unit: in UCUM, as OpenTelemetry asks. read: None, it is recorded when it happens."""

    name: str
    kind: Kind
    unit: str
    says: str
    read: Callable[[Watched], Iterable[Value]] | None


def _by(attribute: str, counts: Mapping[str, int], known: Iterable[str] = ()) -> list[Value]:
    """Return each count, and 0 for the rest of `known`: a counter that first appears at 1 shows no increase."""
    # A copy in one step: the event loop may count while another thread reads.
    return [(number, {attribute: value}) for value, number in (dict.fromkeys(known, 0) | dict(counts)).items()]


def _by_destination(read: Callable[[Tally], Mapping[str, int]]) -> Callable[[Watched], Iterable[Value]]:
    return lambda watched: _by("outbox.destination", read(watched.outbox.tally), watched.snapshot().destinations)


def _entries(state: State) -> Callable[[Watched], Iterable[Value]]:
    return lambda watched: _by("outbox.destination", watched.snapshot().by_destination(state))


def _active_pauses(watched: Watched) -> list[Value]:
    counts = Counter((pause.scope, pause.reason) for pause in watched.snapshot().pauses)
    return [
        (number, {"outbox.pause.scope": scope, "outbox.pause.reason": reason})
        for (scope, reason), number in counts.items()
    ]


def _causes(watched: Watched) -> list[Value]:
    died = any(not task.running for task in watched.outbox.tasks())
    causes = watched.snapshot().causes() | {"task_died": died}
    return [(int(holds), {"outbox.cause": cause}) for cause, holds in causes.items()]


def _health(watched: Watched) -> list[Value]:
    now = watched.health()
    states = [state for state in Health if state is not Health.UNREADABLE]
    return [(int(state is now), {"outbox.state": state.name.lower()}) for state in states]


def _one(read: Callable[[Watched], float]) -> Callable[[Watched], Iterable[Value]]:
    return lambda watched: [(read(watched), {})]


DURATION = Figure(
    "outbox.put.duration",
    Kind.HISTOGRAM,
    "s",
    "How long a put took to be on disk, by destination; `error.type` if it failed.",
    None,
)

FIGURES = (
    Figure(
        "outbox.entries.pending",
        Kind.UP_DOWN,
        "{entry}",
        "Entries that wait to be delivered, by destination.",
        _entries(State.PENDING),
    ),
    Figure(
        "outbox.entries.oldest_age",
        Kind.GAUGE,
        "s",
        "How long the oldest pending entry has waited; 0: nothing is pending.",
        _one(lambda watched: watched.age_s(watched.snapshot().oldest_pending_ms)),
    ),
    Figure(
        "outbox.entries.postponed",
        Kind.UP_DOWN,
        "{entry}",
        "Pending entries that wait for something of their own, such as a parent row, or are stuck; 1,000: or more.",
        _one(lambda watched: watched.snapshot().postponed),
    ),
    Figure(
        "outbox.entries.dead",
        Kind.UP_DOWN,
        "{entry}",
        "Entries that the server refused for good and nobody has requeued or discarded, by destination.",
        _entries(State.DEAD),
    ),
    Figure(
        "outbox.entries.delivered",
        Kind.COUNTER,
        "{entry}",
        "Entries delivered, by destination.",
        _by_destination(lambda tally: tally.delivered),
    ),
    Figure(
        "outbox.entries.rejected",
        Kind.COUNTER,
        "{entry}",
        "Entries that became dead letters, by destination.",
        _by_destination(lambda tally: tally.rejected),
    ),
    Figure(
        "outbox.entries.retries",
        Kind.COUNTER,
        "{entry}",
        "How often an entry was postponed for something of its own, by destination; outages are not counted.",
        _by_destination(lambda tally: tally.retries),
    ),
    Figure(
        "outbox.pauses.started",
        Kind.COUNTER,
        "{pause}",
        "Pauses that began, by reason; an outage is one, however long.",
        lambda watched: _by("outbox.pause.reason", watched.outbox.tally.pauses, (reason.value for reason in Reason)),
    ),
    Figure("outbox.pauses.active", Kind.UP_DOWN, "{pause}", "Pauses in force, by scope and reason.", _active_pauses),
    Figure(
        "outbox.flusher.running",
        Kind.UP_DOWN,
        "{flusher}",
        "1: the flusher runs; 0: nothing is sent.",
        _one(lambda watched: int(watched.outbox.flusher.now.running)),
    ),
    Figure(
        "outbox.health",
        Kind.UP_DOWN,
        "{state}",
        "1: this is what `outbox status` says, by state; 0: it is not.",
        _health,
    ),
    Figure(
        "outbox.health.cause",
        Kind.UP_DOWN,
        "{cause}",
        "1: this is wrong with the file or the bot's own tasks, by cause; 0: it is not.",
        _causes,
    ),
    DURATION,
    Figure(
        "outbox.info",
        Kind.UP_DOWN,
        "{version}",
        "1, for the version of the library.",
        lambda _: [(1, {"outbox.version": __version__})],
    ),
    Figure(
        "outbox.db.size", Kind.UP_DOWN, "By", "Size of the file.", _one(lambda watched: watched.snapshot().db_bytes)
    ),
    Figure(
        "outbox.wal.size", Kind.UP_DOWN, "By", "Size of its WAL.", _one(lambda watched: watched.snapshot().wal_bytes)
    ),
    Figure(
        "outbox.checkpoint.held_back",
        Kind.GAUGE,
        "s",
        "How long a reader has kept the WAL from being emptied; 0: nobody does.",
        _one(lambda watched: watched.age_s(watched.snapshot().notices.checkpoint_held_ms)),
    ),
)
