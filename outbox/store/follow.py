"""Floor 3 · store. What has happened in the file since the last look, told from outside.

Each look is a short one of its own, so that nobody who watches keeps a bot's WAL from starting over. A delivery is
found by its time: one that a clock stepping back has dated before the last look is not shown, though it is counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from outbox.store import ledger
from outbox.store.ledger import Wanted
from outbox.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Mark:
    """How far somebody has looked: the newest put, delivery (its time and number) and line of history."""

    seq: int
    delivered_ms: int
    delivered_seq: int
    line: int


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to one entry. event: put, delivered, or a word of its history."""

    at_ms: int
    event: str
    seq: int | None
    destination: str | None
    id: str | None
    status: int | None = None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What is new, oldest first; left_out: how many puts and deliveries more there were than were asked for."""

    changes: tuple[Change, ...]
    left_out: int
    mark: Mark


START = Mark(0, 0, 0, 0)
_PUTS = "select created_at_ms, 'put', seq, destination, id from outbox where seq > ? order by seq desc limit ?"
_DELIVERED_SINCE = (
    "outbox indexed by outbox_settled where state in ('delivered', 'discarded') and state = 'delivered'"
    " and settled_at_ms >= ? and (settled_at_ms > ? or seq > ?)"
)
_DELIVERED = (
    f"select settled_at_ms, 'delivered', seq, destination, id from {_DELIVERED_SINCE}"  # noqa: S608 - constants
    " order by settled_at_ms desc, seq desc limit ?"
)


async def news(reader: Reader, mark: Mark, wanted: Wanted, *, most: int) -> News:
    """Return what has happened since `mark` to entries that are wanted: of each kind the newest `most`."""
    puts = [Change(*row) for row in await reader.read(_PUTS, (mark.seq, most))]
    since = (mark.delivered_ms, mark.delivered_ms, mark.delivered_seq)
    delivered = [Change(*row) for row in await reader.read(_DELIVERED, (*since, most))]
    newest_line = await ledger.newest_line(reader)
    # Numbers are used again once the newest lines have gone with their entries.
    line = min(mark.line, newest_line)
    lines = [_change(row) for row in await reader.read(_LINES, (line, most))] if newest_line > line else []
    new = Mark(
        puts[0].seq if puts and puts[0].seq is not None else mark.seq,
        delivered[0].at_ms if delivered else mark.delivered_ms,
        delivered[0].seq if delivered and delivered[0].seq is not None else mark.delivered_seq,
        newest_line,
    )
    left_out = await _left_out(reader, mark, since, len(puts), len(delivered), most)
    changes = await _only(reader, [*puts, *delivered, *lines], wanted)
    # What came at one moment came in this order: a put, then what became of it.
    return News(
        tuple(sorted(changes, key=lambda each: (each.at_ms, each.event != "put", each.seq or 0))), left_out, new
    )


_LINES = (
    "select h.at_ms, h.event, h.seq, o.destination, o.id, h.status, h.code, h.message"
    " from outbox_history as h left join outbox as o on o.seq = h.seq where h.number > ? order by h.number desc limit ?"
)


def _change(row: Sequence[Any]) -> Change:
    return Change(*row)


async def _left_out(
    reader: Reader, mark: Mark, since: tuple[int, int, int], puts: int, delivered: int, most: int
) -> int:
    if mark == START:  # the tail of a long history: nobody wants to know how long
        return 0
    more = 0
    if puts == most:
        more += int((await reader.read("select count(*) from outbox where seq > ?", (mark.seq,)))[0][0]) - puts
    if delivered == most:
        counted = await reader.read(f"select count(*) from {_DELIVERED_SINCE}", since)  # noqa: S608 - constants
        more += int(counted[0][0]) - delivered
    return more


async def _only(reader: Reader, changes: list[Change], wanted: Wanted) -> list[Change]:
    """Return those of `changes` whose entries are wanted; an entry that has gone is wanted by nobody who asks."""
    tests, values = wanted.conditions()
    if not tests:
        return changes
    seqs = json.dumps(sorted({change.seq for change in changes if change.seq is not None}))
    sql = f"select seq from outbox where seq in (select value from json_each(?)){tests}"  # noqa: S608 - constants
    found = {row[0] for row in await reader.read(sql, (seqs, *values))}
    return [change for change in changes if change.seq in found]
