"""What has happened in the file since the last look, seen from outside.

Each look is a short read of its own, so that watching never keeps a bot's WAL from starting over. A delivery is found
by its time: one dated before the last look, because the clock stepped back, is not shown, though it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outbox.forensics import entries, queries as asked
from outbox.forensics.changes import Change
from outbox.store.queries import matches
from outbox.store.reader import Reader
from outbox.store.selection import Selection


@dataclass(frozen=True, slots=True)
class Mark:
    """How far somebody has looked: the newest put, delivery (its time and number) and line of history."""

    seq: int
    delivered_ms: int
    delivered_seq: int
    line: int


@dataclass(frozen=True, slots=True)
class News:
    """What is new, oldest first; left_out: how many puts and deliveries exceeded the number asked for."""

    changes: tuple[Change, ...]
    left_out: int
    mark: Mark


START = Mark(0, 0, 0, 0)


async def news(reader: Reader, mark: Mark, wanted: Selection, *, most: int) -> News:
    """Return what has happened to the wanted entries since `mark`: the newest `most` of each kind."""
    tests, values = f" and {matches('created_at_ms')}", wanted.parameters()
    since = (mark.delivered_ms, mark.delivered_ms, mark.delivered_seq)

    async def newest(sql: str, *bounds: int, order: str) -> list[Change]:
        rows = await reader.read(f"{sql}{tests} order by {order} limit ?", (*bounds, *values, most))
        return [Change(*row) for row in rows]

    puts = await newest(asked.PUTS.sql, mark.seq, order="seq desc")
    delivered = await newest(asked.DELIVERIES.sql, *since, order="settled_at_ms desc, seq desc")
    line = await entries.newest_line(reader)
    # Line numbers are reused once the newest lines have been removed with their entries.
    lines = await newest(asked.LINES.sql, min(mark.line, line), order="h.number desc") if line else []
    left_out = 0
    if mark != START:  # at the start the length of the history is of no interest
        left_out += await _more(reader, asked.PUTS.sql + tests, (mark.seq, *values), len(puts), most)
        left_out += await _more(reader, asked.DELIVERIES.sql + tests, (*since, *values), len(delivered), most)
    changes = sorted([*puts, *delivered, *lines], key=_order)
    return News(tuple(changes), left_out, await _mark(reader, mark, line))


async def _mark(reader: Reader, mark: Mark, line: int) -> Mark:
    """Return where the next look begins: after everything seen, wanted or not."""
    since = (mark.delivered_ms, mark.delivered_ms, mark.delivered_seq)
    last = await reader.read(f"{asked.DELIVERIES.sql} order by settled_at_ms desc, seq desc limit 1", since)
    at_ms, seq = (last[0][0], last[0][2]) if last else (mark.delivered_ms, mark.delivered_seq)
    return Mark(max(mark.seq, await entries.newest_seq(reader)), at_ms, seq, line)


async def _more(reader: Reader, sql: str, values: tuple[Any, ...], shown: int, most: int) -> int:
    """Return how many there are beyond those `shown`."""
    if shown < most:
        return 0
    return int((await reader.read(asked.counted(sql), values))[0][0]) - shown


def _order(change: Change) -> tuple[int, int, int]:
    """By time; within one millisecond: the put, then refusals and commands, then the delivery."""
    return change.at_ms, {"put": 0, "delivered": 2}.get(change.event, 1), change.seq or 0
