"""What the flusher asks: what can be sent, and what an answer settles."""

from __future__ import annotations

from outbox.store.queries.query import Query

# A loose index scan: one step per lane that has something to send, however much each has.
READY_LANES = Query(
    "which lanes have something to send, each with its oldest entry",
    """
    with recursive ready (lane) as (
        select min(lane) from outbox where state = 'pending' and waits is null
        union all
        select (select min(lane) from outbox where state = 'pending' and waits is null and lane > ready.lane)
          from ready where ready.lane is not null
    )
    select lane, (select min(seq) from outbox o where o.state = 'pending' and o.waits is null and o.lane = ready.lane)
      from ready where lane is not null
    """,
    ("outbox_ready", "outbox_ready (lane>?)", "outbox_ready (lane=?)"),
    "2 per ready lane",
)

PUT_SINCE = Query(
    "what was put since a look at all lanes, so that theirs may have something to send",
    "select lane, seq from outbox not indexed where seq > ? and state = 'pending' and waits is null"
    " and lane is not null order by seq",
    ("INTEGER PRIMARY KEY (rowid>?)",),
    "what was put since",
)

SENT = ("seq", "id", "key", "payload", "match", "digest", "attempts", "refused_since_ms", "if_exists")
_SENT = ", ".join(SENT)

READY = Query(
    "what an unordered lane sends next of what was never refused, oldest first, behind what is on its way",
    # "indexed by": SQLite 3.53 on an analyzed file would read everything behind the seq, delivered rows too.
    f"select {_SENT} from outbox indexed by outbox_ready where state = 'pending' and waits is null and lane = ?"
    " and seq > ? and attempts = 0 order by seq limit ?",
    ("outbox_ready (lane=? AND seq>?)",),
    "the limit, and what was refused before and is ready again",
)

ALONGSIDE = Query(
    "what several unordered lanes send next of what was never refused: they share a request",
    f"select {', '.join(f'o.{name}' for name in SENT)}, o.lane from json_each(?) cross join outbox as o"
    " indexed by outbox_ready where o.state = 'pending' and o.waits is null and o.lane = json_each.value"
    " and o.attempts = 0 limit ?",
    ("outbox_ready (lane=?)",),
    "the limit, a step for each lane, and what was refused before and is ready again",
)

NEWEST = Query(
    "the same, newest first: a pause is probed from both ends",
    f"select {_SENT} from outbox indexed by outbox_ready where state = 'pending' and waits is null and lane = ?"
    " and attempts = 0 order by seq desc limit ?",
    ("outbox_ready (lane=?)",),
    "the limit, and what was refused before and is ready again",
)

AGAIN = Query(
    "what an unordered lane sends again: it was refused before, for a parent that was not there, say",
    f"select {_SENT} from outbox indexed by outbox_again where state = 'pending' and waits is null and attempts > 0"
    " and lane = ? order by seq limit ?",
    ("outbox_again (lane=?)",),
    "the limit",
)

WAITING = Query(
    "which of some entries are still pending, and what each waits for: parts of refused batches, and suspects",
    f"select {_SENT}, waits from outbox where state = 'pending' and seq in (select value from json_each(?))"
    " order by seq",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the entries",
)

# The first entry of each key is ready; those behind it in the same lane may travel with it.
READY_RUNS = Query(
    "what an ordered lane sends next: each ready key's entries from its first one on",
    f"""
    select {", ".join(f"e.{name}" for name in SENT)}, e.lane
      from outbox as head
      cross join outbox as e
     where head.state = 'pending' and head.waits is null and head.lane = ? and head.seq > ?
       and e.state = 'pending' and e.key is not null
       and e.destination = head.destination and e.key = head.key and e.seq >= head.seq
     limit ?
    """,
    ("outbox_ready (lane=? AND seq>?)", "outbox_turns (destination=? AND key=? AND seq>?)"),
    "the limit",
)

# One statement, for an entry may change from one to the other meanwhile.
WAYS = Query(
    "what of the pending can go on: the ready lanes; and last, how much is pending, as lane -1 if some is unread or"
    " waits for something of its own, else as lane 0",
    READY_LANES.sql
    + """
    union all
    select -(exists (select 1 from outbox where state = 'pending' and waits is null and lane is null)
             or exists (select 1 from outbox where state = 'pending' and waits = 'retry')),
           coalesce(sum(entries), 0)
      from outbox_counts where state = 'pending'
    """,
    (*READY_LANES.uses, "outbox_retrying (waits=?)"),
    "2 per ready lane, 6 per destination, and 2",
)

SETTLE = Query(
    "write a verdict that ends an entry",
    "update outbox set state = ?, settled_at_ms = ?, waits = null, next_attempt_at_ms = null, attempts = attempts + ?,"
    " error_status = ?, error_code = ?, error_message = ?, error_details = ?, error_hint = ?"
    " where state = 'pending' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the batch",
)
