"""Entries as a person reads them: a list, pages, one entry's whole story, what a filter selects."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from outbox.encoding import decode
from outbox.entry import State
from outbox.errors import InvalidRequest
from outbox.forensics import queries as asked
from outbox.store import queries
from outbox.store.reader import Reader
from outbox.store.rows import StoredPause
from outbox.store.selection import STEP, Selected, Selection

_STATES = {state.value: state for state in State}  # looked up in a tenth of the time that State(…) takes


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
    """Everything that the file says about one entry. overtaken: a later entry of its key was delivered."""

    row: Row
    payload: str
    match: str | None
    on_conflict: str | None
    history: tuple[Line, ...]
    overtaken: bool
    behind: str | None  # the id of the entry of its key that is ahead of it
    pauses: tuple[tuple[str, StoredPause], ...]  # that hold it, the widest first: each with what it stops, in words


# Where a step of `listed` begins: after an entry, given by the columns that the list is ordered by.
Behind: TypeAlias = "tuple[int, ...]"


async def listed(
    reader: Reader, wanted: Selection, *, limit: int, rows: int, behind: Behind | None = None
) -> tuple[list[Row], Behind | None]:
    """Read the newest `rows` entries after `behind`; return those wanted, at most `limit`, newest first.

    Also return where to continue; None: that was the end. Pending and dead entries have indexes of their own, and all
    of them are read in one step.
    """
    state, edges = wanted.state, [*(behind or ())]
    last: Behind | None = None
    if state not in (State.PENDING, State.DEAD):
        sql = asked.step_end(state, behind=behind is not None)
        last = next((tuple(row) for row in await reader.read(sql, (*edges, rows - 1))), None)
    sql = asked.listed(state, behind=behind is not None, until=last is not None)
    found = await reader.read(sql, (*edges, *(last or ()), *wanted.parameters(), limit))
    return [_row(row) for row in found], last


async def full_id(reader: Reader, start: str) -> str:
    """Return the one id that is `start` or begins with it; `start` itself if none does.

    Raises InvalidRequest: several do.
    """
    bounds = (start, start + "\U0010ffff")
    found = [row[0] for row in await reader.read(asked.IDS.sql, bounds)]
    if start in found or not found or not start:
        return start
    if len(found) > 1:
        raise InvalidRequest(f"{start!r} is how several begin: {', '.join(found)}", field="ids")
    return str(found[0])


# The columns that distinguish one row from another at a glance, the most telling first.
_TELLING = ("trade_id", "symbol", "event_type", "status", "action", "direction", "volume", "pnl", "level", "message",
            "end_reason", "session_id")  # fmt: skip
_TOLD_COLUMNS = 4


async def telling(reader: Reader, seqs: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return each row's values in `columns`; if none are given, in its most telling ones, or else its first ones."""
    found = {}
    for seq, payload, match in await reader.read(asked.TOLD_ROWS.sql, (json.dumps(list(seqs)),)):
        try:
            row = {**decode(match or "{}"), **decode(payload)}
        except (ValueError, RecursionError):  # a shell's, which only SQLite accepts as JSON
            row = {}
        names = columns or [*(name for name in _TELLING if row.get(name) is not None), *row]
        chosen = dict.fromkeys(names) if columns else dict.fromkeys(list(dict.fromkeys(names))[:_TOLD_COLUMNS])
        found[int(seq)] = {name: row.get(name) for name in chosen}
    return found


async def sessions(reader: Reader) -> list[str]:
    """Return the last session of each bot that keeps its state here, newest first."""
    return [str(session) for (session,) in await reader.read(asked.SESSIONS.sql)]


async def newest_seq(reader: Reader) -> int:
    """Return the number of the newest entry; 0: there is none."""
    return int((await reader.read(asked.NEWEST_SEQ.sql))[0][0])


async def settled_before(reader: Reader, before_ms: int) -> int:
    """Return how many entries were delivered or discarded before a Unix time in milliseconds. Reads an index."""
    return int((await reader.read(asked.SETTLED_BEFORE.sql, (before_ms,)))[0][0])


async def newest_line(reader: Reader) -> int:
    """Return the number of the newest line of history; 0: there is none."""
    return int((await reader.read(asked.NEWEST_LINE.sql))[0][0])


async def stories(reader: Reader, its_id: str) -> list[Story]:
    """Return the entries that have this id: none, one, or one for each of several destinations."""
    return [await _story(reader, row) for row in await reader.read(asked.STORIES.sql, (its_id,))]


async def meant(reader: Reader, which: Selection) -> list[Selected]:
    """Return the dead entries that `which` selects now, as the writer will find them: by destination, oldest first."""
    return [entry async for entry in _candidates(reader, which) if which.refuses(entry) is None]


async def _candidates(reader: Reader, which: Selection) -> AsyncIterator[Selected]:
    if which.ids is not None:
        seqs = [seq for seq, _ in await reader.read(queries.SEQS.sql, (json.dumps(which.ids),))]
        for row in await reader.read(queries.SELECTED.sql, (*which.parameters(), json.dumps(seqs))):
            yield Selected.of(row)
        return
    for destination in [which.destination] if which.destination else sorted(await reader.counts()):
        after_seq, full = 0, True
        while full:
            rows = await reader.read(queries.DEAD.sql, (*which.parameters(), destination, after_seq, STEP))
            for row in rows:
                yield Selected.of(row)
            full = len(rows) == STEP
            after_seq = rows[-1][0] if rows else 0


async def _story(reader: Reader, row: Sequence[Any]) -> Story:
    payload, match, on_conflict, *columns = row
    entry = _row(columns)
    place = (entry.destination, entry.key, entry.seq)
    overtaken = await reader.read(asked.OVERTAKEN.sql, place)
    front = await reader.read(asked.IN_FRONT.sql, (*place, *place)) if entry.waits == "turn" else ()
    return Story(
        entry, payload, match, on_conflict, await _history(reader, entry.seq), bool(overtaken),
        front[0][0] if front else None, await _pauses_over(reader, entry),
    )  # fmt: skip


async def _pauses_over(reader: Reader, entry: Row) -> tuple[tuple[str, StoredPause], ...]:
    if entry.state is not State.PENDING or not (pauses := await reader.pauses()):
        return ()
    lane = (await reader.read(asked.LANE_OF.sql, (entry.seq,)))[0][0]
    lanes = await reader.lanes()
    what = {
        ("everything", ""): "everything",
        ("destination", entry.destination): entry.destination,
        ("lane", str(lane)): lanes[lane].words() if lane in lanes else entry.destination,
    }
    held = [(what[pause.scope, pause.subject], pause) for pause in pauses if (pause.scope, pause.subject) in what]
    return tuple(sorted(held, key=lambda each: list(what.values()).index(each[0])))


async def _history(reader: Reader, seq: int) -> tuple[Line, ...]:
    lines = [Line(*line) for line in await reader.read(asked.HISTORY.sql, (seq,))]
    lines += [
        Line(at_ms, "edited", None, None, f"it was {payload}", None, None)
        for at_ms, payload in await reader.read(asked.EDITS.sql, (seq,))
    ]
    # By time, and an edit before the requeue that it was made for: both have the same time.
    return tuple(sorted(lines, key=lambda line: (line.at_ms, line.event != "edited")))


def _row(columns: Sequence[Any]) -> Row:
    seq, its_id, destination, operation, state, *rest = columns
    return Row(seq, its_id, destination, operation, _STATES[state], *rest)
