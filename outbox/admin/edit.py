"""A refused entry gets another payload and is revived, in one transaction; the old payload is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiosqlite

from outbox.admin.dead_letters import Transact, overtaken
from outbox.admin.revision import Revised, Unrevised, fingerprint, revised
from outbox.entry import LaneSpec, Operation
from outbox.errors import InvalidRequest
from outbox.store import queries
from outbox.store.history import note
from outbox.store.reader import Reader
from outbox.store.receipts import find_lane
from outbox.store.selection import NOT_DEAD, Handled, Outcome, Selected


class Candidate(NamedTuple):
    """An entry that an edit may mean."""

    selected: Selected
    entry: Unrevised


async def candidates(reader: Reader, its_id: str, destination: str | None) -> list[Candidate]:
    """Return the entries that have this id: none, one, or one for each of several destinations."""
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
    sending: Callable[[], bool] = lambda: False,
) -> list[Handled]:
    """Give a dead entry the payload `text` and revive it, or leave it as it is. Returns its outcome.

    was: the fingerprint of the payload that the editor saw. force, sending: as `requeue`. Raises InvalidEntry: the
    text is no payload for it; InvalidRequest: several destinations have the id.
    """

    async def work(connection: aiosqlite.Connection) -> list[Handled]:
        lanes = {row[0]: _shape(row) for row in await connection.execute_fetchall(queries.LANES.sql)}
        rows = list(await connection.execute_fetchall(queries.MENDABLE.sql, (its_id,)))
        found = _candidates(rows, lanes, destination)
        if not found:
            return [Handled(its_id, destination, Outcome.UNKNOWN_ID)]
        if len(found) > 1:
            raise InvalidRequest(f"{len(found)} tables have an entry {its_id}; say which", field="destination")
        outcome = await _edited(connection, found[0], text, was=was, now_ms=now_ms, force=force, sending=sending())
        return [Handled(its_id, found[0].selected.destination, outcome)]

    return await transact(work)


async def _edited(
    connection: aiosqlite.Connection,
    found: Candidate,
    text: str,
    *,
    was: str | None,
    now_ms: int,
    force: bool,
    sending: bool,
) -> Outcome:
    selected, entry = found
    if selected.state in NOT_DEAD:
        return NOT_DEAD[selected.state]
    if was is not None and was != fingerprint(entry.payload):
        return Outcome.CHANGED_SINCE
    await connection.execute("savepoint edit")
    await _write(connection, selected.seq, revised(entry, text), now_ms)
    # Only now: the new payload may be one of another row, and it is that one's state which must not be reverted.
    if not force and (refused := await overtaken(connection, [selected], sending=sending)):
        await connection.execute("rollback to edit")
        return refused[selected.seq]
    await connection.execute(queries.REVIVE.sql, (json.dumps([selected.seq]),))
    words = "edited, forced" if force else "edited"
    await note(connection, [selected.seq], now_ms=now_ms, event="requeued", message=words)
    return Outcome.REQUEUED


async def _write(connection: aiosqlite.Connection, seq: int, new: Revised, now_ms: int) -> None:
    lane = None if new.spec is None else await find_lane(connection, new.spec)
    await connection.execute(queries.KEEP.sql, (now_ms, seq))
    await connection.execute(queries.MEND.sql, (new.payload, new.key, lane, new.digest, seq))


def _candidates(rows: Sequence[Any], lanes: Mapping[int, LaneSpec], destination: str | None) -> list[Candidate]:
    found = [_candidate(row, lanes) for row in rows]
    return [each for each in found if destination is None or each.selected.destination == destination]


def _candidate(row: Sequence[Any], lanes: Mapping[int, LaneSpec]) -> Candidate:
    *selected, operation, key, payload, on_conflict, match, lane = row
    entry = Unrevised(row[1], row[2], Operation(operation), key, payload, on_conflict, match, lanes.get(lane))
    return Candidate(Selected.of(selected), entry)


def _shape(row: Sequence[Any]) -> LaneSpec:
    _, destination, operation, on_conflict, columns, ordered = row
    return LaneSpec(destination, Operation(operation), on_conflict, columns, bool(ordered))
