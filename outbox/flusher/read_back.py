"""Asking the remote end what it holds: rows by their ids, whatever a URL and the server's max-rows allow at once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from outbox.entry import Destination, LaneSpec
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.stored import (
    Row,
    conflict,
    differing,
    equal_path,
    find,
    is_rounded,
    named_row,
    neighbours_path,
    read_back_path,
    remote_id,
    rows_read,
    updated_path,
)
from outbox.postgrest.verdicts import Failure, Refusal, Reply, read_refusal
from outbox.store.rows import Outgoing

# The bytes of rows read back at once; PostgREST gives at most 1,000 rows.
_LONGEST_READING = 16 * 1024 * 1024


async def read_back(
    transport: Transport, spec: LaneSpec, ids: Sequence[str], *, deadline_s: float
) -> dict[str, Row] | Reply | Failure:
    """Return those rows of `ids` that are there, by their ids' texts; or what was answered instead of rows."""
    left, held, at_once = list(ids), dict[str, Row](), len(ids)
    while left:
        path, asked = read_back_path(spec, left[:at_once])
        answer = await transport.send(Request("GET", path, (), b"", _LONGEST_READING), deadline_s=deadline_s)
        rows = rows_read(answer)
        if rows is None:
            return answer
        found = {str(row[spec.on_conflict]): row for row in rows if spec.on_conflict in row}
        if asked == 1 and len(found) == 1:  # however it is written: nothing else was asked for
            found = dict.fromkeys(left[:1], *found.values())
        held |= found
        # The server may give fewer rows than it has (max-rows): only where it gives none are the others missing.
        rest = [each for each in left[:asked] if find(found, each) is None] if found else []
        if len(rest) == asked:  # `citext`, say, or a trigger: only one by one shows whose rows these are
            rest, at_once = (rest, 1) if at_once > 1 else (rest[1:], 1)
        left = rest + left[asked:]
    return held


async def conflicts(
    transport: Transport,
    spec: LaneSpec,
    sent: Sequence[Outgoing],
    status: int,
    *,
    kept: Collection[int],
    deadline_s: float,
) -> dict[int, Refusal] | Reply | Failure:
    """Return which of `sent`, by their places, are not at their destination, and why; or what was answered instead.

    status: of the answer to their insert. kept: those that accept whatever row is there.
    """
    ids = {entry.seq: remote_id(spec, entry) for entry in sent}
    held = await read_back(transport, spec, list(ids.values()), deadline_s=deadline_s)
    if not isinstance(held, dict):
        return held
    found = dict[int, Refusal]()
    for entry in sent:
        row = find(held, ids[entry.seq])
        columns = list[str]()
        if row is not None and entry.seq not in kept:
            named = {spec.on_conflict: ids[entry.seq]}
            unlike = await _unlike(transport, spec, named, entry.payload, row, deadline_s=deadline_s)
            if not isinstance(unlike, list):
                return unlike
            columns = unlike
        if row is None or columns:
            found[entry.seq] = conflict(spec, entry, row, status, columns)
    return found


async def _unlike(
    transport: Transport, spec: LaneSpec, named: Mapping[str, str], payload: str, row: Row, *, deadline_s: float
) -> list[str] | Reply | Failure:
    """Return the columns in which `row`, which has the values `named`, is not what was sent; or what was answered.

    A column differs if the texts do and PostgreSQL does not call them equal.
    """
    sent, unlike = json.loads(payload, parse_float=Decimal), list[str]()
    for column in differing(payload, row):
        among = is_rounded(sent[column], row.get(column))
        path = neighbours_path(spec, column) if among else equal_path(spec, named, column, payload, row.get(column))
        if path is None:
            unlike.append(column)
            continue
        answer = await transport.send(Request("GET", path, (), b"", _LONGEST_READING), deadline_s=deadline_s)
        rows = rows_read(answer)
        if rows is None:
            if not isinstance(answer, Reply) or answer.status >= 500 or not read_refusal(answer).genuine:
                return answer
            rows = []  # it cannot be compared: `json` and `point` have no equality
        if not rows or (among and not is_rounded(sent[column], row.get(column), [each.get(column) for each in rows])):
            unlike.append(column)
    return unlike


async def is_applied(
    transport: Transport, spec: LaneSpec, entry: Outgoing, destination: Destination, *, deadline_s: float
) -> bool | Reply | Failure:
    """Return whether the row that the update `entry` names shows its values; or what was answered instead of a row.

    False too if it names none by the unique columns of `destination`. Nobody needs to remember which try had no known
    outcome: whether the row has the values is what counts.
    """
    for unique in (destination.on_conflict, (destination.key,)):
        named = named_row(entry.match or "{}", unique) if unique else None
        if named is None:
            continue
        path = updated_path(spec, named)
        answer = await transport.send(Request("GET", path, (), b"", _LONGEST_READING), deadline_s=deadline_s)
        rows = rows_read(answer)
        if rows is None:
            return answer
        if len(rows) != 1:
            return False
        unlike = await _unlike(transport, spec, named, entry.payload, rows[0], deadline_s=deadline_s)
        return not unlike if isinstance(unlike, list) else unlike
    return False
