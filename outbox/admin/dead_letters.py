"""What an operator may do to dead entries: revive them, or give them up with a reason.

Done in steps, each a transaction of its own, so that puts come in between. Repeating it changes nothing more: entries
that are no longer dead are left alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import aiosqlite

from outbox.entry import State
from outbox.store import queries
from outbox.store.selection import STEP, Handled, Outcome, Selected, Selection
from outbox.store.store import note

T = TypeVar("T")


class Transact(Protocol):
    """Runs work in a transaction of its own, as `Store.transact`."""

    def __call__(self, work: Callable[[aiosqlite.Connection], Awaitable[T]], /) -> Awaitable[T]: ...


Work = Callable[[aiosqlite.Connection, Sequence[Selected]], Awaitable[list[Handled]]]


async def requeue(
    transact: Transact,
    which: Selection,
    *,
    now_ms: int,
    force: bool,
    dry_run: bool = False,
    sending: Callable[[], bool] = lambda: False,
) -> list[Handled]:
    """Revive dead entries: pending again, attempts forgotten, history kept. Returns each one's outcome.

    Refused for an entry that a later one of its key has overtaken, or may be overtaking: it would revert that state.
    force: not refused. dry_run: nothing is changed. sending: whether entries may be on their way at this moment.
    """

    async def work(connection: aiosqlite.Connection, entries: Sequence[Selected]) -> list[Handled]:
        refused = {} if force else await overtaken(connection, [entry.seq for entry in entries], sending=sending())
        seqs = [entry.seq for entry in entries if entry.seq not in refused]
        if not dry_run:
            await connection.execute(queries.REVIVE.sql, (json.dumps(seqs),))
            await note(connection, seqs, now_ms=now_ms, event="requeued", message="forced" if force else None)
        return [
            Handled(id=entry.id, destination=entry.destination, outcome=refused.get(entry.seq, Outcome.REQUEUED))
            for entry in entries
        ]

    return await _in_steps(transact, which, work)


async def discard(
    transact: Transact, which: Selection, *, now_ms: int, reason: str, dry_run: bool = False
) -> list[Handled]:
    """Give entries up; the rows and the reason are kept until they are pruned. Returns each one's outcome."""

    async def work(connection: aiosqlite.Connection, entries: Sequence[Selected]) -> list[Handled]:
        seqs = [entry.seq for entry in entries]
        if not dry_run:
            await connection.execute(queries.TAKE_OUT.sql, (now_ms, json.dumps(seqs)))
            await connection.execute(queries.GIVE_UP.sql, (now_ms, json.dumps(seqs)))
            await note(connection, seqs, now_ms=now_ms, event="discarded", message=reason)
        return [Handled(id=entry.id, destination=entry.destination, outcome=Outcome.DISCARDED) for entry in entries]

    return await _in_steps(transact, which, work)


def summary(handled: Iterable[Handled]) -> dict[str, int]:
    """Return how many entries had which outcome, those done first."""
    counts = Counter(each.outcome for each in handled)
    return {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}


# ---------------------------------------------------------------------------------------------- steps


async def _in_steps(transact: Transact, which: Selection, work: Work) -> list[Handled]:
    """Do `work` on the entries that are meant, in transactions of `STEP` entries; return what became of each."""

    async def step(sql: str, *parameters: object) -> tuple[list[Selected], list[Handled]]:
        async def found_and_handled(connection: aiosqlite.Connection) -> tuple[list[Selected], list[Handled]]:
            rows = await connection.execute_fetchall(sql, (*which.parameters(), *parameters))
            entries = [Selected.of(row) for row in rows]
            meant = [entry for entry in entries if which.refuses(entry) is None]
            return entries, await work(connection, meant) if meant else []

        return await transact(found_and_handled)

    handled: list[Handled] = []
    if which.ids is None:  # `STEP` dead entries a step, however few of them match
        for destination in [which.destination] if which.destination else await transact(_destinations):
            after_seq, full = 0, True
            while full:
                entries, done = await step(queries.DEAD.sql, destination, after_seq, STEP)
                handled += done
                full, after_seq = len(entries) == STEP, entries[-1].seq if entries else 0
        return handled
    # All are found before the first is changed: no entry may be sent before an older one of its key.
    found, unknown = await _named(transact, which.ids)
    for start in range(0, len(found), STEP):
        entries, done = await step(queries.SELECTED.sql, json.dumps(found[start : start + STEP]))
        refused = [(entry, why) for entry in entries if (why := which.refuses(entry)) is not None]
        handled += done + [Handled(id=each.id, destination=each.destination, outcome=why) for each, why in refused]
    return _without_namesakes(which, handled) + [
        Handled(id=each, destination=None, outcome=Outcome.UNKNOWN_ID) for each in unknown
    ]


def _without_namesakes(which: Selection, handled: list[Handled]) -> list[Handled]:
    """Leave out entries of other destinations that merely share their id with a selected one."""
    meant = {each.id for each in handled if each.destination == which.destination}
    return [each for each in handled if each.outcome is not Outcome.NOT_SELECTED or each.id not in meant
            or each.destination == which.destination]  # fmt: skip


async def _named(transact: Transact, ids: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the numbers of the entries with one of `ids`, oldest first, and the ids without an entry."""
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


async def overtaken(connection: aiosqlite.Connection, seqs: Sequence[int], *, sending: bool) -> dict[int, Outcome]:
    """Return which of these entries a later one of its key has overtaken, or may be overtaking."""
    refused = {}
    for seq, delivered, ready in await connection.execute_fetchall(queries.OVERTAKEN.sql, (json.dumps(seqs),)):
        if delivered:
            refused[int(seq)] = Outcome.LATER_DELIVERED
        elif ready and sending:
            refused[int(seq)] = Outcome.LATER_UNDER_WAY
    return refused
