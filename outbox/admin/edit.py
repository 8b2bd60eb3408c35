"""Gives an unsettled entry a new payload and makes it ready again, in one transaction; the old payload is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiosqlite

from outbox.admin.dead_letters import Transact, overtaken
from outbox.admin.revision import Revised, Unrevised, fingerprint, renamed, revised
from outbox.entry import LaneSpec, Operation, State
from outbox.errors import InvalidEntry, InvalidRequest
from outbox.store import queries
from outbox.store.reader import Reader
from outbox.store.receipts import find_lane
from outbox.store.selection import NOT_DEAD, STEP, Handled, Outcome
from outbox.store.store import note


async def candidates(reader: Reader, its_id: str, destination: str | None) -> list[Unrevised]:
    """Return the entries with this id: none, one, or one for each of several destinations."""
    rows = await reader.read(queries.MENDABLE.sql, (its_id,))
    return _candidates(rows, await reader.lanes(), destination)


async def edit(
    transact: Transact,
    its_id: str,
    destination: str | None,
    text: str,
    *,
    was: str | None,
    now_ms: int,
    force: bool,
    pending: bool = False,
    sending: Callable[[], bool] = lambda: False,
) -> list[Handled]:
    """Give an entry the payload `text` and make it ready, or leave it as it is. Returns its outcome.

    was: the fingerprint of the payload that the editor saw. force, sending: as `requeue`. pending: accept a pending
    entry, too; nothing is in flight then. Raises InvalidEntry: the text is not a valid payload for it; InvalidRequest:
    several destinations have the id.
    """

    async def work(connection: aiosqlite.Connection) -> list[Handled]:
        lanes = {number: LaneSpec.of(spec) for number, *spec in await connection.execute_fetchall(queries.LANES.sql)}
        rows = list(await connection.execute_fetchall(queries.MENDABLE.sql, (its_id,)))
        found = _candidates(rows, lanes, destination)
        if not found:
            return [Handled(id=its_id, destination=destination, outcome=Outcome.UNKNOWN_ID)]
        if len(found) > 1:
            raise InvalidRequest(f"{len(found)} tables have an entry {its_id}; say which", field="destination")
        if was is not None and was != fingerprint(found[0].payload):
            return [Handled(id=its_id, destination=found[0].destination, outcome=Outcome.CHANGED_SINCE)]
        how = _How(now_ms, force=force, pending=pending, sending=sending())
        outcome = await _edited(connection, found[0], text, how)
        return [Handled(id=its_id, destination=found[0].destination, outcome=outcome)]

    return await transact(work)


async def rename(
    transact: Transact,
    names: Mapping[str, str],
    destination: str | None,
    *,
    now_ms: int,
    force: bool,
) -> list[Handled]:
    """Rename columns in every entry, dead or pending, that has one of them. Returns each one's outcome.

    In steps, in put order; nothing is in flight meanwhile. An entry that already has the new name is left as it is.
    """
    handled: list[Handled] = []
    how = _How(now_ms, force=force, pending=True, sending=False)

    async def step(connection: aiosqlite.Connection, after_seq: int) -> list[Handled]:
        lanes = {number: LaneSpec.of(spec) for number, *spec in await connection.execute_fetchall(queries.LANES.sql)}
        bounds = (after_seq, after_seq + STEP, destination, destination, json.dumps(list(names)))
        rows = list(await connection.execute_fetchall(queries.MENDABLE_NEXT.sql, bounds))
        done = []
        for found in _candidates(rows, lanes, None):
            try:
                text = renamed(found.payload, names)
                outcome = Outcome.UNCHANGED if text is None else await _edited(connection, found, text, how)
            except InvalidEntry:  # raised before any of it was written
                outcome = Outcome.UNFIT
            done.append(Handled(id=found.id, destination=found.destination, outcome=outcome))
        return done

    until = await transact(_newest)
    for after_seq in range(0, until, STEP):
        handled += await transact(partial(step, after_seq=after_seq))
    return handled


async def renamable(reader: Reader, names: Mapping[str, str], destination: str | None) -> int:
    """Return how many entries `rename` would examine: dead or pending ones that have one of the columns."""
    columns = json.dumps(list(names))
    rows = await reader.read(queries.MENDABLE_NEXT.sql, (0, 2**63 - 1, destination, destination, columns))
    return len(rows)


async def _newest(connection: aiosqlite.Connection) -> int:
    rows = list(await connection.execute_fetchall(queries.NEWEST_SEQ.sql))
    return int(rows[0][0])


@dataclass(frozen=True, slots=True)
class _How:
    now_ms: int
    force: bool
    pending: bool
    sending: bool


async def _edited(connection: aiosqlite.Connection, entry: Unrevised, text: str, how: _How) -> Outcome:
    if entry.state in NOT_DEAD and not (how.pending and entry.state is State.PENDING):
        return NOT_DEAD[entry.state]
    new, seqs = revised(entry, text), json.dumps([entry.seq])
    await connection.execute("savepoint edit")
    await connection.execute(queries.TAKE_OUT.sql, (how.now_ms, seqs))
    await _write(connection, entry.seq, new, how.now_ms)
    # Checked only now: the new payload may concern another row, whose state must not be reverted.
    if not how.force and (refused := await overtaken(connection, [entry.seq], sending=how.sending)):
        await connection.execute("rollback to edit")
        return refused[entry.seq]
    await connection.execute(queries.REVIVE.sql, (seqs,))
    words = "edited, forced" if how.force else "edited"
    await note(connection, [entry.seq], now_ms=how.now_ms, event="requeued", message=words)
    return Outcome.REQUEUED


async def _write(connection: aiosqlite.Connection, seq: int, new: Revised, now_ms: int) -> None:
    lane = None if new.spec is None else await find_lane(connection, new.spec)
    await connection.execute(queries.KEEP.sql, (now_ms, seq))
    await connection.execute(queries.MEND.sql, (new.payload, new.key, lane, new.digest, seq))


def _candidates(rows: Sequence[Any], lanes: Mapping[int, LaneSpec], destination: str | None) -> list[Unrevised]:
    found = [_candidate(row, lanes) for row in rows]
    return [each for each in found if destination is None or each.destination == destination]


def _candidate(row: Sequence[Any], lanes: Mapping[int, LaneSpec]) -> Unrevised:
    _, seq, its_id, destination, state, _, _, _, operation, key, payload, on_conflict, match, created_at_ms, lane = row
    return Unrevised(
        seq=seq, id=its_id, destination=destination, operation=Operation(operation), key=key, payload=payload,
        on_conflict=on_conflict, match=match, created_at_ms=created_at_ms, spec=lanes.get(lane), state=State(state),
    )  # fmt: skip
