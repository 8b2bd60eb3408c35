"""What the first page asks of the file."""

from __future__ import annotations

from outbox.store.queries import Query

COUNTS = Query(
    "how many entries are in which state",
    "select state, sum(entries) from outbox_counts group by state",
    (),
    "6 per destination",
)

OUTAGES = Query(
    "the newest outages",
    "select since_utc, lasted || iif(until_utc is null, ', and still', ''), what, why from v_outages limit 5",
    (),
    "5",
)

# One entry, at a varying position, of each `every` numbers from `low` to `high`: if a bot puts into two tables in turn,
# both must show. Those put or settled before the first step count as step -1.
GROUPS = Query(
    "how many of a sample were put and settled in which step of the plot",
    """
    with recursive strata (first) as (
        select :low union all select first + :every from strata where first + :every <= :high
    )
    select max(-1, min(:steps - 1, (created_at_ms - :start + :width) / :width - 1)) as put,
           max(-1, min(:steps - 1, (settled_at_ms - :start + :width) / :width - 1)) as settled,
           count(*) * :every
      from strata
      join outbox on seq = first + ((first * 2654435761) >> 12 & 0xffff) % :every
     group by put, settled
    """,
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the sample",
)

FIRST = Query(
    "the first entry from a number on",
    "select seq, created_at_ms from outbox where seq >= ? order by seq limit 1",
    ("INTEGER PRIMARY KEY (rowid>?)",),
    "1",
)

LAST = Query("the newest entry's number", "select max(seq) from outbox", (), "1")

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
