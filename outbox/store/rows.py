"""Rows of an outbox file, as those who ask for them see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from outbox.entry import LaneSpec


class Lane(NamedTuple):
    """A kind of request that has something to send. first_seq: its oldest ready entry."""

    number: int
    spec: LaneSpec
    first_seq: int


class Look(NamedTuple):
    """What a look at the file finds.

    change: another number whenever another connection has committed. due_ms, last_due_ms: when the next and the last
    entry are due that wait for something of their own, in Unix milliseconds; None: none does. unread: whether a shell
    has put entries.
    """

    change: int
    due_ms: int | None
    last_due_ms: int | None
    unread: bool


class Sendable(NamedTuple):
    """What of the pending entries can be sent. others: some are unread, or wait for something of their own."""

    pending: int
    lanes: list[Lane]
    others: bool


class Adopted(NamedTuple):
    """What an entry from a shell turned out to mean."""

    seq: int
    spec: LaneSpec
    key: str | None
    on_conflict: str | None
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseFacts:
    """Why something is not sent, since when, and how often it was tried meanwhile."""

    scope: str
    subject: str
    reason: str
    status: int | None
    code: str | None
    message: str | None
    failures: int
    since_ms: int

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return what `row` holds, in the order of the fields."""
        return cls(**{field.name: value for field, value in zip(fields(cls), row, strict=True)})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPause(PauseFacts):
    """One row of `outbox_pauses`."""

    next_try_at_ms: int


class Notices(NamedTuple):
    """What hinders the file, and since when, in Unix milliseconds; None: it does not. The writer records it there."""

    reserve_released_ms: int | None = None  # the disk was found full: puts are refused
    checkpoint_held_ms: int | None = None  # somebody reads an old state of the file, so that the WAL only grows
    files_lost_ms: int | None = None  # files were removed or replaced under the bot that runs now, or ran last
    second_name_ms: int | None = None  # the file has a hard link, beside which another lock may stand

    @classmethod
    def of(cls, meta: Mapping[str, str]) -> Self:
        """Return what `outbox_meta` holds."""
        return cls(**{name: int(meta[name]) for name in cls._fields if meta.get(name, "").isdigit()})

    def facts(self) -> dict[str, int | None]:
        """Return them by their names."""
        return self._asdict()

    def sentences(self, wal_bytes: int) -> tuple[str, ...]:
        """Return what a person should read, a sentence each."""
        found = []
        if self.reserve_released_ms is not None:
            found.append(
                "disk full: the reserve is released, puts are refused; what is pending is still sent."
                " Make room on the disk"
            )
        if self.checkpoint_held_ms is not None:
            found.append(
                f"checkpoint held back by a reader: the WAL has {wal_bytes:,} bytes and grows."
                " Look for a forgotten sqlite3 shell"
            )
        if self.files_lost_ms is not None:
            found.append(
                "the file, or one beside it, was removed or replaced while the bot ran. What it had acknowledged was"
                " brought back; the log says where. Find out who does that: the warning ends when the bot starts anew"
            )
        if self.second_name_ms is not None:
            found.append(
                "the file has a second name (a hard link): whoever opens that one, other than with this library, has"
                " another -wal and damages it. Remove it: the next start of the bot would refuse the file"
            )
        return tuple(found)


def by_state(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, int]]:
    """Return the counts in rows of destination, state and number."""
    counts: dict[str, dict[str, int]] = {}
    for destination, state, entries in rows:
        counts.setdefault(destination, {})[state] = entries
    return counts


def total(counts: Mapping[str, Mapping[str, int]], state: str) -> int:
    """Return how many entries of all destinations are in `state`."""
    return sum(states.get(state, 0) for states in counts.values())
