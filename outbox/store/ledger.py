"""Floor 3 · store. Entries as a person looks at them: a list, one entry's whole story, what a filter means."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from outbox.entry import State
from outbox.store import queries
from outbox.store.operators import STEP, Filter, Selected
from outbox.store.reader import Reader

_LISTED = (
    "seq, id, destination, operation, state, key, waits, attempts, next_attempt_at_ms, created_at_ms, settled_at_ms,"
    " error_status, error_code, error_message, error_details, error_hint, source"
)
# Each state through its own index: a handful of dead letters among a million delivered rows is found at once.
_BY_STATE = {
    None: "outbox where 1",
    State.PENDING: "outbox where state = 'pending' and seq in (select seq from outbox indexed by outbox_ready"
    " where state = 'pending' and waits is null union all select seq from outbox indexed by outbox_turns"
    " where state = 'pending' and key is not null and waits = 'turn' union all select seq from outbox"
    " indexed by outbox_retrying where state = 'pending' and waits = 'retry')",
    State.DEAD: "outbox indexed by outbox_dead where state = 'dead'",
    State.DELIVERED: "outbox indexed by outbox_settled where state = 'delivered'"
    " and state in ('delivered', 'discarded')",
    State.DISCARDED: "outbox indexed by outbox_settled where state = 'discarded'"
    " and state in ('delivered', 'discarded')",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One entry without its payload; the fields are columns of the same names. Times: Unix milliseconds."""

    seq: int
    id: str
    destination: str
    operation: str
    state: State
    key: str | None
    waits: str | None
    attempts: int
    next_attempt_at_ms: int | None
    created_at_ms: int
    settled_at_ms: int | None
    error_status: int | None
    error_code: str | None
    error_message: str | None
    error_details: str | None
    error_hint: str | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an entry's history."""

    at_ms: int
    event: str
    status: int | None
    code: str | None
    message: str | None
    batch_rows: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Story:
    """All that the file says about one entry. overtaken: a later entry of its key was delivered."""

    row: Row
    payload: str
    match: str | None
    on_conflict: str | None
    history: tuple[Line, ...]
    overtaken: bool
    behind: str | None  # the id of the entry of its key that stands in front of it


async def listed(
    reader: Reader, *, state: State | None, destination: str | None, code: str | None, limit: int
) -> list[Row]:
    """Return the newest `limit` entries that match all that is given, newest first."""
    sql, values = f"select {_LISTED} from {_BY_STATE[state]}", []  # type: str, list[Any]  # noqa: S608 - constants
    if destination is not None:
        sql, values = f"{sql} and destination = ?", [*values, destination]
    if code is not None:  # as `Filter`: the status stands in for a code that the server did not give
        sql, values = f"{sql} and coalesce(error_code, cast(error_status as text)) = ?", [*values, code]
    order = "settled_at_ms desc, seq desc" if state in (State.DELIVERED, State.DISCARDED) else "seq desc"
    rows = await reader.read(f"{sql} order by {order} limit ?", (*values, limit))
    return [_row(row) for row in rows]


async def stories(reader: Reader, its_id: str) -> list[Story]:
    """Return the entries that have this id: none, one, or one for each of several destinations."""
    sql = f"select payload, match, on_conflict, {_LISTED} from outbox where id = ? order by seq"  # noqa: S608 - constants
    return [await _story(reader, row) for row in await reader.read(sql, (its_id,))]


async def meant(reader: Reader, which: Filter) -> list[Selected]:
    """Return the dead entries that `which` means now, as the writer will find them: by destination, oldest first."""
    return [entry async for entry in _candidates(reader, which) if which.refuses(entry) is None]


async def _candidates(reader: Reader, which: Filter) -> AsyncIterator[Selected]:
    if which.ids is not None:
        seqs = [seq for seq, _ in await reader.read(queries.SEQS.sql, (json.dumps(which.ids),))]
        for row in await reader.read(queries.SELECTED.sql, (json.dumps(seqs),)):
            yield Selected.of(row)
        return
    for destination in [which.destination] if which.destination else sorted(await reader.counts()):
        after_seq, full = 0, True
        while full:
            rows = await reader.read(queries.DEAD.sql, (destination, after_seq, STEP))
            for row in rows:
                yield Selected.of(row)
            full = len(rows) == STEP
            after_seq = rows[-1][0] if rows else 0


async def _story(reader: Reader, row: Sequence[Any]) -> Story:
    payload, match, on_conflict, *columns = row
    entry = _row(columns)
    overtaken = await reader.read(
        "select 1 from outbox where state = 'delivered' and key is not null and destination = ? and key = ?"
        " and seq > ? limit 1",
        (entry.destination, entry.key, entry.seq),
    )
    front = await reader.read(
        "select id from outbox where state in ('pending', 'dead') and key is not null and destination = ? and key = ?"
        " and seq < ? order by state desc, seq limit 1",
        (entry.destination, entry.key, entry.seq),
    )
    return Story(
        entry, payload, match, on_conflict, await _history(reader, entry.seq), bool(overtaken),
        front[0][0] if front and entry.waits == "turn" else None,
    )  # fmt: skip


async def _history(reader: Reader, seq: int) -> tuple[Line, ...]:
    # A file that a bot of an older version has open knows no history.
    if not await reader.read("select 1 from sqlite_schema where name = 'outbox_history'"):
        return ()
    sql = (
        "select at_ms, event, status, code, message, batch_rows, request_id from outbox_history"
        " where seq = ? order by number"
    )
    return tuple(Line(*line) for line in await reader.read(sql, (seq,)))


def _row(columns: Sequence[Any]) -> Row:
    seq, its_id, destination, operation, state, *rest = columns
    return Row(seq, its_id, destination, operation, State(state), *rest)
