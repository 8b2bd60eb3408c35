"""What an operator may do to dead entries: revive them, or give them up with a reason.

Carried out in steps, each a transaction of its own, so that puts come in between. Doing the same again changes
nothing more: what is not dead any more is left alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import aiosqlite

from outbox.encoding import identifier
from outbox.entry import State
from outbox.errors import InvalidEntry, InvalidRequest
from outbox.store import queries

T = TypeVar("T")

# A filter may mean every dead letter there is; one step of the writer handles this many.
STEP = 1000
# Room for a sentence or two; the history is read in a terminal.
_LONGEST_REASON = 1000


class Outcome(StrEnum):
    """What became of one entry that an operator named."""

    REQUEUED = "requeued"
    DISCARDED = "discarded"
    IS_PENDING = "pending already"
    IS_DELIVERED = "delivered already"
    IS_DISCARDED = "discarded before"
    UNKNOWN_ID = "unknown id"
    NOT_SELECTED = "not of that destination or code"
    DIED_SINCE = "died again after the request"
    CHANGED_SINCE = "changed after it was looked at"
    LATER_DELIVERED = "a later entry of its key was delivered"  # it would revert newer state
    LATER_UNDER_WAY = "a later entry of its key may be on its way"  # and would arrive before it

    @property
    def done(self) -> bool:
        """Whether the entry was changed."""
        return self in (Outcome.REQUEUED, Outcome.DISCARDED)


NOT_DEAD = {
    State.PENDING: Outcome.IS_PENDING,
    State.DELIVERED: Outcome.IS_DELIVERED,
    State.DISCARDED: Outcome.IS_DISCARDED,
}


class Handled(NamedTuple):
    """An entry and what became of it. destination: None if nobody knows its id."""

    id: str
    destination: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead entries: those that match every field that is set, and at least one must be.

    ids: these (none of them: no entry), in whatever destination they are. code: the server's error code, or its
    HTTP status where it gave none. everything: all there are. died_until_ms: Unix time; not those that died later,
    for a request that is carried out after it was made.
    """

    ids: tuple[str, ...] | None = None
    destination: str | None = None
    code: str | None = None
    everything: bool = False
    died_until_ms: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        selectors = sum(value is not None for value in (self.ids, self.destination, self.code))
        if self.everything and selectors:
            raise InvalidRequest("contradicts ids, destination or code", field="everything")
        if not self.everything and not selectors:
            raise InvalidRequest("say which entries: ids, destination, code, or everything", field="ids")
        if self.destination is not None:
            try:
                identifier(self.destination, field="destination")
            except InvalidEntry as error:
                raise InvalidRequest("is no name of a table", field="destination") from error

    def _check_types(self) -> None:
        if self.ids is not None and not all(isinstance(each, str) for each in self.ids):
            raise InvalidRequest("must be a sequence of texts", field="ids")
        if not isinstance(self.destination, str | None):
            raise InvalidRequest("must be a text", field="destination")
        if not isinstance(self.code, str | None):
            raise InvalidRequest("must be a text", field="code")
        if not isinstance(self.everything, bool):
            raise InvalidRequest("must be true or false", field="everything")
        if not isinstance(self.died_until_ms, int | None) or isinstance(self.died_until_ms, bool):
            raise InvalidRequest("must be a whole number", field="died_until_ms")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the filter that `as_json` gave. Raises InvalidRequest, also for a field that nobody knows."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:  # left out, a selector of a newer version would widen what is selected
            raise InvalidRequest("is unknown to this version", field=min(unknown))
        ids = values.get("ids")
        if not isinstance(ids, list | tuple | None):
            raise InvalidRequest("must be a sequence of texts", field="ids")
        return cls(**{**values, "ids": None if ids is None else tuple(ids)})

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}

    def refuses(self, entry: Selected) -> Outcome | None:
        """Return why `entry` is not meant; None: it is."""
        if self.destination is not None and entry.destination != self.destination:
            return Outcome.NOT_SELECTED
        if entry.state is not State.DEAD:
            return NOT_DEAD[entry.state]
        if self.code is not None and self.code != entry.said:
            return Outcome.NOT_SELECTED
        if self.died_until_ms is not None and (entry.settled_at_ms or 0) > self.died_until_ms:
            return Outcome.DIED_SINCE
        return None


class Selected(NamedTuple):
    """An entry as an operator's filter sees it. said: the server's code, or its status where it gave none."""

    seq: int
    id: str
    destination: str
    state: State
    said: str | None
    settled_at_ms: int | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        seq, its_id, destination, state, code, status, settled_at_ms = row
        said = code if code is not None else None if status is None else str(status)
        return cls(seq, its_id, destination, State(state), said, settled_at_ms)


def checked_reason(reason: object) -> str:
    """Return the reason of a discard without spaces around it. Raises InvalidRequest: it says nothing."""
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidRequest("say why these entries are given up", field="reason")
    if len(reason) > _LONGEST_REASON:
        raise InvalidRequest(f"is longer than {_LONGEST_REASON:,} characters", field="reason")
    if reason.encode(errors="replace").decode() != reason or "\0" in reason:
        raise InvalidRequest("holds characters that cannot be stored", field="reason")
    return reason.strip()


class Transact(Protocol):
    """Runs work in a transaction of its own, as `Store.transact`."""

    def __call__(self, work: Callable[[aiosqlite.Connection], Awaitable[T]], /) -> Awaitable[T]: ...


Work = Callable[[aiosqlite.Connection, Sequence[Selected]], Awaitable[list[Handled]]]


async def requeue(
    transact: Transact, which: Filter, *, now_ms: int, force: bool, sending: Callable[[], bool] = lambda: False
) -> list[Handled]:
    """Revive dead entries: pending again, attempts forgotten, history kept. Returns each one's outcome.

    Refused to one that a later entry of its key has overtaken, or may be overtaking, whose state it would revert.
    force: not refused. sending: whether entries may be on their way at this moment.
    """

    async def work(connection: aiosqlite.Connection, entries: Sequence[Selected]) -> list[Handled]:
        refused = {} if force else await overtaken(connection, entries, sending=sending())
        seqs = [entry.seq for entry in entries if entry.seq not in refused]
        await connection.execute(queries.REVIVE.sql, (json.dumps(seqs),))
        await note(connection, seqs, now_ms=now_ms, event="requeued", message="forced" if force else None)
        return [Handled(entry.id, entry.destination, refused.get(entry.seq, Outcome.REQUEUED)) for entry in entries]

    return await _in_steps(transact, which, work)


async def discard(transact: Transact, which: Filter, *, now_ms: int, reason: str) -> list[Handled]:
    """Give dead entries up; the rows and the reason are kept until they are pruned. Returns each one's outcome."""

    async def work(connection: aiosqlite.Connection, entries: Sequence[Selected]) -> list[Handled]:
        seqs = [entry.seq for entry in entries]
        await connection.execute(queries.GIVE_UP.sql, (now_ms, json.dumps(seqs)))
        await note(connection, seqs, now_ms=now_ms, event="discarded", message=reason)
        return [Handled(entry.id, entry.destination, Outcome.DISCARDED) for entry in entries]

    return await _in_steps(transact, which, work)


async def note(
    connection: aiosqlite.Connection,
    seqs: Sequence[int],
    *,
    now_ms: int,
    event: str,
    status: int | None = None,
    code: str | None = None,
    message: str | None = None,
    batch_rows: int | None = None,
    request_id: str | None = None,
) -> None:
    """Write one line of history for each entry of `seqs`."""
    words = (now_ms, event, status, code, message, batch_rows, request_id)
    await connection.execute(queries.NOTE.sql, (*words, json.dumps(list(seqs))))


def summary(handled: Iterable[Handled]) -> dict[str, int]:
    """Return how many entries had which outcome, what was done first."""
    counts = Counter(each.outcome for each in handled)
    return {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}


# ---------------------------------------------------------------------------------------------- steps


async def _in_steps(transact: Transact, which: Filter, work: Work) -> list[Handled]:
    handled: list[Handled] = []
    if which.ids is None:
        async for page in _pages(transact, which, work):
            handled += page
        return handled
    # All are found before the first is changed: an entry of a key must not go before an older one of it.
    found, unknown = await _named(transact, which.ids)
    for start in range(0, len(found), STEP):
        handled += await transact(_named_step(which, found[start : start + STEP], work))
    return _without_namesakes(which, handled) + [Handled(each, None, Outcome.UNKNOWN_ID) for each in unknown]


def _without_namesakes(which: Filter, handled: list[Handled]) -> list[Handled]:
    """Leave out entries of other destinations that only share their id with one that was meant."""
    meant = {each.id for each in handled if each.destination == which.destination}
    return [each for each in handled if each.outcome is not Outcome.NOT_SELECTED or each.id not in meant
            or each.destination == which.destination]  # fmt: skip


async def _pages(transact: Transact, which: Filter, work: Work) -> AsyncIterator[list[Handled]]:
    """Change the dead entries that match, `STEP` dead ones a step: one that matches few reads no more at once."""
    for destination in [which.destination] if which.destination else await transact(_destinations):
        after_seq = 0
        while True:
            page, last_seq, full = await transact(_page(which, destination, after_seq, work))
            yield page
            if not full:
                break
            after_seq = last_seq


def _page(
    which: Filter, destination: str, after_seq: int, work: Work
) -> Callable[[aiosqlite.Connection], Awaitable[tuple[list[Handled], int, bool]]]:
    async def step(connection: aiosqlite.Connection) -> tuple[list[Handled], int, bool]:
        rows = list(await connection.execute_fetchall(queries.DEAD.sql, (destination, after_seq, STEP)))
        entries = [Selected.of(row) for row in rows]
        meant = [entry for entry in entries if which.refuses(entry) is None]
        handled = await work(connection, meant) if meant else []
        return handled, entries[-1].seq if entries else 0, len(entries) == STEP

    return step


def _named_step(
    which: Filter, seqs: Sequence[int], work: Work
) -> Callable[[aiosqlite.Connection], Awaitable[list[Handled]]]:
    async def step(connection: aiosqlite.Connection) -> list[Handled]:
        rows = await connection.execute_fetchall(queries.SELECTED.sql, (json.dumps(list(seqs)),))
        entries = [Selected.of(row) for row in rows]
        refused = [(entry, why) for entry in entries if (why := which.refuses(entry)) is not None]
        meant = [entry for entry in entries if which.refuses(entry) is None]
        handled = await work(connection, meant) if meant else []
        return handled + [Handled(entry.id, entry.destination, why) for entry, why in refused]

    return step


async def _named(transact: Transact, ids: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the numbers of the entries that have one of `ids`, oldest first, and the ids that none has."""
    seqs: list[int] = []
    wanted = list(dict.fromkeys(ids))
    known: set[str] = set()
    for start in range(0, len(wanted), STEP):
        some = json.dumps(wanted[start : start + STEP])
        for seq, its_id in await transact(lambda connection, some=some: _seqs(connection, some)):  # type: ignore[misc]
            seqs.append(seq)
            known.add(its_id)
    return sorted(seqs), [each for each in wanted if each not in known]


async def _seqs(connection: aiosqlite.Connection, ids: str) -> list[tuple[int, str]]:
    return [(int(row[0]), str(row[1])) for row in await connection.execute_fetchall(queries.SEQS.sql, (ids,))]


async def _destinations(connection: aiosqlite.Connection) -> list[str]:
    """Return the destinations that have dead entries."""
    rows = await connection.execute_fetchall(queries.COUNTS.sql)
    return sorted(destination for destination, state, entries in rows if state == State.DEAD.value and entries > 0)


async def overtaken(
    connection: aiosqlite.Connection, entries: Sequence[Selected], *, sending: bool
) -> dict[int, Outcome]:
    """Return which of `entries` a later one of its key has overtaken, or may be overtaking."""
    seqs = json.dumps([entry.seq for entry in entries])
    refused = {}
    for seq, delivered, ready in await connection.execute_fetchall(queries.OVERTAKEN.sql, (seqs,)):
        if delivered:
            refused[int(seq)] = Outcome.LATER_DELIVERED
        elif ready and sending:
            refused[int(seq)] = Outcome.LATER_UNDER_WAY
    return refused
