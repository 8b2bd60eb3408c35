"""The stored unit: a write bound for a destination, the shapes that it is handled in, and its possible moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self, TypedDict

from outbox.columns import Kind


class Operation(StrEnum):
    """What the entry does at its destination."""

    INSERT = "insert"
    UPSERT = "upsert"
    UPDATE = "update"


# What a put takes, so that a type checker sees a typo.
OperationName = Literal["insert", "upsert", "update"]
IfExists = Literal["keep"]


class SharedOptions(TypedDict, total=False):
    """What every put takes by keyword; `Outbox.put` says what each means."""

    operation: OperationName | Operation | None
    key: object
    on_conflict: Sequence[str] | None
    match: Mapping[str, object] | None
    if_exists: IfExists | None


class PutOptions(SharedOptions, total=False):
    """What a put of one row takes as well."""

    id: object


class State(StrEnum):
    """Where an entry stands. `MOVES` says which moves there are."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Destination:
    """A remote table.

    Attributes:
        name: Its identifier.
        key: The column that an insert fills with the entry's id.
        on_conflict: The columns that decide an upsert.
        operation: The default of `put`.
        integers: Columns whose integral floats are sent as integers (PostgreSQL refuses 1.0 for an INT: 22P02).
        key_kind: What the key column holds; None: not known.
        columns: Those that were declared beyond the shipped ones.
    """

    name: str
    key: str = "id"
    on_conflict: tuple[str, ...] = ()
    operation: Operation = Operation.INSERT
    integers: frozenset[str] = frozenset()
    key_kind: Kind | None = None
    columns: frozenset[str] = frozenset()

    @property
    def unique(self) -> tuple[str, ...]:
        """The columns that identify a row."""
        return self.on_conflict or (self.key,)


class LaneSpec(NamedTuple):
    """What entries must have in common to share one request; stored once, as a row of `outbox_lanes`."""

    destination: str
    operation: Operation
    on_conflict: str  # comma-separated; for an insert the destination's key column
    columns: str  # comma-separated, as sent in `columns=`
    ordered: bool  # True: these entries have ordering keys, and travel one request at a time

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return the lane in a row of `queries.LANES`, without its number."""
        destination, operation, on_conflict, columns, ordered = row
        return cls(destination, Operation(operation), on_conflict, columns, bool(ordered))

    @property
    def kind(self) -> LaneSpec:
        """What lanes share that differ only in their columns."""
        return self._replace(columns="", ordered=False)

    def words(self) -> str:
        """Describe such a request for people: a lane's number means nothing to them."""
        deciding = f" on ({self.on_conflict.replace(',', ', ')})" if self.operation is Operation.UPSERT else ""
        return f"{self.destination}: {self.operation}{deciding} of {self.columns.replace(',', ', ')}"


class Entry(NamedTuple):
    """One row of the table `outbox`, as `put` writes it; the fields are columns of the same names."""

    id: str
    destination: str
    operation: Operation
    key: str | None
    payload: str
    on_conflict: str | None
    match: str | None
    lane: int | None
    created_at_ms: int
    source: str | None
    digest: str
    if_exists: str | None


class Outgoing(NamedTuple):  # a tuple: one for every row that is sent
    """An entry as the flusher sees it."""

    seq: int
    id: str
    key: str | None
    payload: str
    match: str | None
    digest: str
    attempts: int
    refused_since_ms: int | None = None
    if_exists: str | None = None  # "keep": whatever row is there under its id stays


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """A pending entry as it was put, here or by a shell. payload, match: JSON."""

    seq: int
    id: str
    destination: str
    operation: Operation
    key: str | None
    payload: str
    on_conflict: str | None
    match: str | None
    created_at_ms: int

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return the entry in a row of `queries.SHOWN`."""
        seq, its_id, destination, operation, key, payload, on_conflict, match, created_at_ms = row
        return cls(
            seq=seq,
            id=its_id,
            destination=destination,
            operation=Operation(operation),
            key=key,
            payload=payload,
            on_conflict=on_conflict,
            match=match,
            created_at_ms=created_at_ms,
        )


MOVES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.DELIVERED, State.DEAD, State.DISCARDED}),
    State.DEAD: frozenset({State.PENDING, State.DISCARDED}),  # requeue, discard
    State.DELIVERED: frozenset({State.PENDING}),  # resend; pruned after the retention
    State.DISCARDED: frozenset(),
}


def allowed(before: State, after: State) -> bool:
    """Return whether an entry may go from `before` to `after`."""
    return after in MOVES[before]
