"""What of the pending is not sent yet: it waits for a row of its own, or came in through a shell and is unread."""

from __future__ import annotations

from outbox.store.queries.query import Query

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

LAST_DUE = Query(
    "when the last of them has",
    f"{NEXT_DUE.sql.removesuffix(' limit 1')} desc limit 1",
    ("outbox_due (next_attempt_at_ms>?)",),
    "1",
)

TOO_LATE = Query(
    "which entries wait for longer than any does, since the clock that they wait by was set back",
    """
    update outbox set waits = null
     where seq in (select seq from outbox indexed by outbox_due
                    where state = 'pending' and waits = 'retry' and next_attempt_at_ms > ?
                    order by next_attempt_at_ms desc limit ?)
    """,
    ("outbox_due (next_attempt_at_ms>?)",),
    "the limit",
)

POSTPONE = Query(
    "write a verdict that sends an entry again later",
    "update outbox set waits = 'retry', next_attempt_at_ms = ?, attempts = attempts + ?,"
    " error_status = ?, error_code = ?, error_message = ?, error_details = ?, error_hint = ?"
    " where state = 'pending' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the batch",
)

FIRST_REFUSED = Query(
    "remember when the server first refused these very rows",
    "update outbox set refused_since_ms = ? where refused_since_ms is null and seq in (select value from json_each(?))",
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

UNREAD = Query(
    "what came in through a shell and has no lane yet",
    "select seq, id, destination, operation, key, payload, on_conflict, match, created_at_ms from outbox"
    " where state = 'pending' and waits is null and lane is null order by seq limit ?",
    ("outbox_ready (lane=?)",),
    "the limit",
)

UNLANE = Query(
    "let entries be read anew whose lane this file does not know: a shell copied them from another outbox",
    "update outbox set lane = null where seq in (select seq from outbox indexed by outbox_ready"
    " where state = 'pending' and waits is null and lane = ? limit ?)",
    ("outbox_ready (lane=?)",),
    "the limit",
)

READ_SHELL_ROW = Query(
    "an entry that came in through a shell is complete, and like any other from here on",
    "update outbox set lane = ?, key = ?, on_conflict = ?, digest = ?"
    " where seq = ? and state = 'pending' and lane is null",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
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
