"""The stored unit: a write bound for a destination, its id, its digest, and its possible moves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self, TypedDict
from uuid import UUID, uuid5

from outbox.columns import Kind


class Operation(StrEnum):
    """What the entry does at its destination."""

    INSERT = "insert"
    UPSERT = "upsert"
    UPDATE = "update"


# What a put takes, so that a type checker sees a typo.
OperationName = Literal["insert", "upsert", "update"]
IfExists = Literal["keep"]
# The namespace of this library (RFC 9562, section 6.6): it must never change.
_NAMED = UUID("6f7b6f78-6f75-5462-8f78-6f7574626f78")
# The digit after the third dash: its two highest bits are the variant, the others are random.
_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


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


def mint_id(now_ms: int, entropy: bytes) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) for `now_ms`; `entropy`: 10 random bytes."""
    # Texts rather than one number of 128 bits: a quarter quicker, once for every put.
    time, dice = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}", entropy.hex()
    return f"{time[:8]}-{time[8:]}-7{dice[:3]}-{_VARIANTS[dice[19]]}{dice[3:6]}-{dice[6:18]}"


def uuid_of(text: str) -> str:
    """Return the same UUID for the same `text`: an id for what already has a name, such as a broker's fill."""
    return str(uuid5(_NAMED, text))


def mint_ids(now_ms: int, entropy: bytes) -> list[str]:
    """Return UUIDv7s for `now_ms` in ascending order; `entropy`: 10 random bytes for each."""
    time, dice, variants = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}", entropy.hex(), _VARIANTS
    start = f"{time[:8]}-{time[8:]}-7"
    # The common part is made once: half the time of as many single ids.
    return sorted(
        [
            f"{start}{dice[at : at + 3]}-{variants[dice[at + 19]]}{dice[at + 3 : at + 6]}-{dice[at + 6 : at + 18]}"
            for at in range(0, len(dice), 20)
        ]
    )


def digest(
    destination: str,
    operation: str,
    key: str | None,
    payload: str,
    on_conflict: str | None,
    match: str | None,
) -> str:
    """Return the digest of everything that decides what is sent: 32 hexadecimal digits of BLAKE2b."""
    # The unit separator cannot stand in a name, and JSON escapes it: no two entries give one text.
    text = "\x1f".join((destination, operation, key or "", on_conflict or "", match or "", payload))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digests(
    destination: str, operation: str, on_conflict: str | None, entries: Iterable[tuple[str | None, str | None, str]]
) -> list[str]:
    """Return the digest of each of `entries`, given as (key, match, payload), in two thirds of the time."""
    begun, found = hashlib.blake2b(f"{destination}\x1f{operation}\x1f".encode(), digest_size=16), list[str]()
    for key, match, payload in entries:
        state = begun.copy()
        state.update(f"{key or ''}\x1f{on_conflict or ''}\x1f{match or ''}\x1f{payload}".encode())
        found.append(state.hexdigest())
    return found


MOVES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.DELIVERED, State.DEAD, State.DISCARDED}),
    State.DEAD: frozenset({State.PENDING, State.DISCARDED}),  # requeue, discard
    State.DELIVERED: frozenset({State.PENDING}),  # resend; pruned after the retention
    State.DISCARDED: frozenset(),
}


def allowed(before: State, after: State) -> bool:
    """Return whether an entry may go from `before` to `after`."""
    return after in MOVES[before]
