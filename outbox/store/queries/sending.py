"""What the flusher asks: what can be sent, what a verdict changes, what waits and why."""

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

UNLANE = Query(
    "let entries be read anew whose lane this file does not know: a shell copied them from another outbox",
    "update outbox set lane = null where seq in (select seq from outbox indexed by outbox_ready"
    " where state = 'pending' and waits is null and lane = ? limit ?)",
    ("outbox_ready (lane=?)",),
    "the limit",
)

UNREAD = Query(
    "what came in through a shell and has no lane yet",
    "select seq, id, destination, operation, key, payload, on_conflict, match, created_at_ms from outbox"
    " where state = 'pending' and waits is null and lane is null order by seq limit ?",
    ("outbox_ready (lane=?)",),
    "the limit",
)

DUE = Query(
    "which entries have waited long enough for something of their own",
    """
    update outbox set waits = null
     where seq in (select seq from outbox indexed by outbox_due
                    where state = 'pending' and waits = 'retry' and next_attempt_at_ms <= ?
                    order by next_attempt_at_ms limit ?)
    """,
    ("outbox_due (next_attempt_at_ms<?)",),
    "the limit",
)

NEXT_DUE = Query(
    "when the next of them has",
    # "is not null": a shell may set `waits` alone, and its entry would stand first and never be due.
    "select next_attempt_at_ms from outbox indexed by outbox_due where state = 'pending' and waits = 'retry'"
    " and next_attempt_at_ms is not null order by next_attempt_at_ms limit 1",
    ("outbox_due (next_attempt_at_ms>?)",),
    "1",
)

SETTLE = Query(
    "write a verdict that ends an entry",
    "update outbox set state = ?, settled_at_ms = ?, waits = null, next_attempt_at_ms = null, attempts = attempts + ?,"
    " error_status = ?, error_code = ?, error_message = ?, error_details = ?, error_hint = ?"
    " where state = 'pending' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the batch",
)

POSTPONE = Query(
    "write a verdict that sends an entry again later",
    "update outbox set waits = 'retry', next_attempt_at_ms = ?, attempts = attempts + ?,"
    " error_status = ?, error_code = ?, error_message = ?, error_details = ?, error_hint = ?"
    " where state = 'pending' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the batch",
)

# The first hundred of a line are looked at: where no insert or upsert is among them, an update waits its minute.
_BEHIND = """
       exists (select 1 from outbox as b where b.state = 'pending' and b.key is not null
                  and b.destination = u.destination and b.key = u.key and b.seq > u.seq),
       exists (select 1 from (select b.operation from outbox as b where b.state = 'pending' and b.key is not null
                                 and b.destination = u.destination and b.key = u.key and b.seq > u.seq
                               order by b.seq limit 100)
                where operation <> 'update')
"""

BEHIND = Query(
    "whether something stands behind an update in its line, and whether that brings the row",
    f"select {_BEHIND} from outbox as u where u.seq = ?",
    ("INTEGER PRIMARY KEY (rowid=?)", "outbox_turns (destination=? AND key=? AND seq>?)"),
    "100",
)

UNMATCHED = Query(
    "the same of updates that wait for their next try, and when that is",
    f"select u.seq, u.next_attempt_at_ms, {_BEHIND} from outbox as u not indexed"
    " where u.state = 'pending' and u.waits = 'retry' and u.seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)", "outbox_turns (destination=? AND key=? AND seq>?)"),
    "100 for each",
)

LEFT_UNMATCHED = Query(
    "the updates among what waits for its next try, at the start",
    "select seq, refused_since_ms from (select seq, refused_since_ms, operation from outbox indexed by outbox_retrying"
    " where state = 'pending' and waits = 'retry' limit ?) where operation = 'update'",
    ("outbox_retrying (waits=?)",),
    "the limit",
)

HURRY = Query(
    "try an update sooner that holds up its line",
    "update outbox set next_attempt_at_ms = ? where state = 'pending' and waits = 'retry' and seq = ?",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
)

MAY_COME = Query(
    "whether an insert or upsert of the same destination that was put earlier is still pending",
    """
    select 1 from outbox_lanes where destination = ? and operation <> 'update'
       and exists (select 1 from outbox as o where o.state = 'pending' and o.waits is null
                      and o.lane = outbox_lanes.lane and o.seq < ?)
    union all
    select 1 from outbox as o indexed by outbox_retrying where o.state = 'pending' and o.waits = 'retry'
       and o.destination = ? and o.operation <> 'update' and o.seq < ?
     limit 1
    """,
    ("outbox_ready (lane=? AND seq<?)", "outbox_retrying (waits=? AND rowid<?)"),
    "1 per lane, and what waits for something of its own",
)

RESENT = Query(
    "which of some entries had arrived before they were sent again",
    "select distinct seq from outbox_history where event = 'resent' and seq in (select value from json_each(?))",
    ("outbox_history_entry (seq=?)",),
    "20 for each",
)

INSERTS_AHEAD = Query(
    "the lanes of unordered inserts that fill some columns, each with its oldest entry that is ready",
    """
    select lane, first
      from (select lane, (select min(seq) from outbox as o where o.state = 'pending' and o.waits is null
                             and o.lane = outbox_lanes.lane) as first
              from outbox_lanes
             where destination = ? and operation = 'insert' and ordered = 0
               and not exists (select 1 from json_each(?)
                                where instr(',' || columns || ',', ',' || value || ',') = 0))
     where first is not null
    """,
    ("outbox_ready (lane=?)",),
    "1 per lane of inserts",
)

FIRST_REFUSED = Query(
    "remember when the server first refused these very rows",
    "update outbox set refused_since_ms = ? where refused_since_ms is null and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the batch",
)

_FIRST_BEHIND_A_DEAD_ONE = """
 where state = 'pending'
   and seq in (select first
                 from (select d.seq as dead,
                              (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                                  and e.destination = d.destination and e.key = d.key order by e.seq limit 1) as first
                         from outbox as d indexed by outbox_dead_keys where d.state = 'dead' and d.key is not null)
                where dead < first)
"""

FREEZE = Query(
    "strict order begins: what comes after a dead entry of its key waits",
    "update outbox set waits = 'turn'" + _FIRST_BEHIND_A_DEAD_ONE,
    ("outbox_dead_keys", "outbox_turns (destination=? AND key=?)"),
    "the dead entries; asked when the setting changes",
)

THAW = Query(
    "strict order ends: what waits behind a dead entry goes on",
    "update outbox set waits = null" + _FIRST_BEHIND_A_DEAD_ONE + "   and waits = 'turn'",
    ("outbox_dead_keys", "outbox_turns (destination=? AND key=?)"),
    "the dead entries; asked when the setting changes",
)

READ_SHELL_ROW = Query(
    "an entry that came in through a shell is complete, and like any other from here on",
    "update outbox set lane = ?, key = ?, on_conflict = ?, digest = ?"
    " where seq = ? and state = 'pending' and lane is null",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
)
