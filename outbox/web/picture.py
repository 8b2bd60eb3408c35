"""What the first page shows: the counts, and the backlog over time."""

from __future__ import annotations

from dataclasses import dataclass

from datasette.app import Datasette
from datasette.database import Database

from outbox.clock import SystemClock
from outbox.web import backlog, queries

# The file's name within the site, and so in its addresses.
NAME = "outbox"
# For the user's own queries.
TIME_LIMIT_MS = 10_000
# How far back the plot may reach, in hours; 0: as far as the file goes.
SPANS = {1: "1 hour", 6: "6 hours", 24: "1 day", 168: "7 days", 0: "all"}

_STATES = ("pending", "delivered", "dead", "discarded", "pruned", "removed")
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Picture:
    """What the first page shows. hours: how far back the plot reaches. every: one of so many entries was read."""

    path: str
    counts: tuple[tuple[str, int], ...]  # entries by state
    outages: tuple[tuple[str, ...], ...]  # since, for how long, what, why
    hours: int
    plot: str
    every: int


async def picture(site: Datasette, hours: int) -> Picture:
    """Return the figures and the plot of the last `hours` hours; 0: of everything in the file."""
    file = site.get_database(NAME)
    rows = await file.execute(queries.COUNTS.sql)
    found = dict(tuple(row) for row in rows.rows)
    counts = tuple((state, found.get(state, 0)) for state in _STATES if state != "removed" or found.get(state))
    newest = (
        await file.execute(queries.OUTAGES.sql) if "v_outages" in await file.view_names() else None
    )  # an older file has none
    outages = tuple(tuple(str(cell) for cell in row) for row in newest.rows) if newest else ()
    return Picture(file.path, counts, outages, hours, *await _plot(file, hours))


async def _plot(file: Database, hours: int) -> tuple[str, int]:
    """Return the drawing, and how many entries each sampled one stands for."""
    end_ms = SystemClock().now_ms()
    low, high = await _first(file, 0), (await file.execute(queries.LAST.sql)).first()[0] or 0
    start_ms = min(low[1], end_ms - 1000) if low else end_ms - _HOUR_MS
    within = low[0] if low else 1
    if hours:
        start_ms = end_ms - hours * _HOUR_MS
        within = await _put_since(file, within, high, start_ms)
    width_ms = max(1, -(-(end_ms - start_ms) // backlog.STEPS))
    found: list[tuple[int, int | None, int]] = []
    most = 1
    for first, last in ((low[0] if low else 1, within - 1), (within, high)):
        if first <= last:
            each = backlog.every(first, last)
            values = {"steps": backlog.STEPS, "start": start_ms, "width": width_ms}
            rows = await file.execute(queries.GROUPS.sql, values | {"low": first, "high": last, "every": each})
            found += [(row[0], row[1], row[2]) for row in rows.rows]
            most = max(most, each)
    counts = backlog.backlog(found)
    return backlog.drawing(counts, start_ms, start_ms + width_ms * backlog.STEPS), most


async def _first(file: Database, seq: int) -> tuple[int, int] | None:
    """Return number and time of the first entry from `seq` on."""
    row = (await file.execute(queries.FIRST.sql, (seq,))).first()
    return None if row is None else (row[0], row[1])


async def _put_since(file: Database, low: int, high: int, start_ms: int) -> int:
    """Return the number of the first entry put since `start_ms`, by bisection; approximate if the clock has jumped."""
    while low <= high:
        middle = (low + high) // 2
        found = await _first(file, middle)
        if found is None or found[1] >= start_ms:
            high = middle - 1
        else:
            low = found[0] + 1
    return low
