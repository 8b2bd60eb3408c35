"""What the first page shows: the counts, and the backlog over time."""

from __future__ import annotations

from dataclasses import dataclass

from datasette.app import Datasette
from datasette.database import Database, QueryInterrupted

from outbox.clock import SystemClock
from outbox.web import backlog

# The file's name within the site, and so in its addresses.
NAME = "outbox"
# The plot reads every entry once.
TIME_LIMIT_MS = 10_000
# How far back the plot may reach, in hours; 0: as far as the file does.
SPANS = {1: "1 hour", 6: "6 hours", 24: "1 day", 168: "7 days", 0: "all"}

_STATES = ("pending", "delivered", "dead", "discarded", "pruned", "removed")
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Picture:
    """What the first page shows. hours: how far back the plot reaches. problem: why there is no plot."""

    path: str
    counts: tuple[tuple[str, int], ...]  # entries by state
    pauses: int
    hours: int
    plot: str
    problem: str


async def picture(site: Datasette, hours: int) -> Picture:
    """Return the figures and the plot of the last `hours` hours; 0: of all that the file knows."""
    file = site.get_database(NAME)
    rows = await file.execute("select state, sum(entries) from outbox_counts group by state")
    found = dict(tuple(row) for row in rows.rows)
    counts = tuple((state, found.get(state, 0)) for state in _STATES if state != "removed" or found.get(state))
    pauses = (await file.execute("select count(*) from outbox_pauses")).first()[0]
    plot, problem = "", ""
    try:
        plot = await _plot(file, hours)
    except QueryInterrupted:
        problem = f"The file holds too many entries to draw them within {TIME_LIMIT_MS / 1000:.0f} seconds."
    return Picture(file.path, counts, pauses, hours, plot, problem)


async def _plot(file: Database, hours: int) -> str:
    end_ms = SystemClock().now_ms()
    if hours:
        start_ms = end_ms - hours * _HOUR_MS
    else:
        first = (await file.execute("select created_at_ms from outbox order by seq limit 1")).first()
        start_ms = min(first[0], end_ms - 1000) if first else end_ms - _HOUR_MS
    width_ms = max(1, -(-(end_ms - start_ms) // backlog.STEPS))
    values = {"steps": backlog.STEPS, "start": start_ms, "width": width_ms}
    groups = (await file.execute(backlog.GROUPS, values)).rows
    counts = backlog.backlog([(row[0], row[1], row[2]) for row in groups])
    return backlog.drawing(counts, start_ms, start_ms + width_ms * backlog.STEPS)
