"""How things stand: counts, the oldest entry, what is pending."""

from __future__ import annotations

from outbox.store.queries.query import Query

# One branch for each value of `waits`, so that each has an index; a number is 8 bytes, the payloads come in pages.
PENDING = Query(
    "everything that is pending, oldest first, for a bot that wants to look at it",
    """
    select seq from outbox indexed by outbox_ready where state = 'pending' and waits is null
    union all
    select seq from outbox indexed by outbox_turns where state = 'pending' and key is not null and waits = 'turn'
    union all
    select seq from outbox indexed by outbox_retrying where state = 'pending' and waits = 'retry'
    order by seq limit ?
    """,
    ("outbox_ready", "outbox_turns", "outbox_retrying (waits=?)"),
    "the backlog",
)

SHOWN = Query(
    "one page of them",
    "select seq, id, destination, operation, key, payload, on_conflict, match, created_at_ms from outbox"
    " where state = 'pending' and seq in (select value from json_each(?)) order by seq",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the page",
)

COUNTS = Query(
    "how many entries are in which state",
    "select destination, state, entries from outbox_counts",
    (),
    "6 per destination: the four states, pruned and removed",
)

BACKLOG = Query(
    "how much is pending: entries, and bytes of their payloads",
    "select coalesce(sum(entries), 0), coalesce(sum(bytes), 0) from outbox_counts where state = 'pending'",
    (),
    "6 per destination",
)

# A loose index scan again. Those that wait for their turn are left out: each has an older one in front of it.
# NULL lanes, which are a shell's rows, come first in the index: one of them is found like any other.
OLDEST_PENDING = Query(
    "the oldest pending entry, and when it was put",
    """
    with recursive ready (lane) as (
        select min(lane) from outbox where state = 'pending' and waits is null
        union all
        select (select min(lane) from outbox where state = 'pending' and waits is null and lane > ready.lane)
          from ready where ready.lane is not null
    )
    select seq, created_at_ms from outbox where seq = (
        select min(seq) from (
            select (select min(o.seq) from outbox as o
                     where o.state = 'pending' and o.waits is null and o.lane = ready.lane) as seq
              from ready where lane is not null
            union all
            select min(seq) from outbox where state = 'pending' and waits is null and lane is null
            union all
            select min(seq) from outbox where state = 'pending' and waits = 'retry'))
    """,
    ("outbox_ready (lane=?)", "outbox_retrying (waits=?)"),
    "the lanes that have something to send",
)

META = Query("what the file says of itself", "select name, value from outbox_meta", (), "a dozen")

POSTPONED = Query(
    "how many entries wait for something of their own",
    "select count(*) from (select 1 from outbox where state = 'pending' and waits = 'retry' limit ?)",
    ("outbox_retrying (waits=?)",),
    "the limit",
)
