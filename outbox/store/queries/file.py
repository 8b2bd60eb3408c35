"""What the file says of itself, its lanes, what is not sent for a while, and what died in a run of refusals."""

from __future__ import annotations

from outbox.store.queries.query import Query

META = Query("what the file says of itself", "select name, value from outbox_meta", (), "a dozen")

FACT = Query("one thing that it says", "select value from outbox_meta where name = ?", (), "1")

STATE_FACT = Query("the file says one thing more, or anew", "insert or replace into outbox_meta values (?, ?)", (), "1")

STATE_FIRST = Query("the same, unless it says it already", "insert or ignore into outbox_meta values (?, ?)", (), "1")

FORGET_FACT = Query("it does not say so any more", "delete from outbox_meta where name = ?", (), "1")

TABLE = Query("whether the file has a table", "select 1 from sqlite_schema where name = ?", (), "the tables")

PAUSES = Query(
    "what is not sent to, and why",
    "select scope, subject, reason, status, code, message, failures, since_ms, next_try_at_ms from outbox_pauses"
    " order by since_ms",
    (),
    "the pauses: destinations and lanes, not entries",
)

SAVE_PAUSE = Query(
    "a pause, or what is new about one",
    "insert into outbox_pauses (scope, subject, reason, status, code, message, failures, since_ms, next_try_at_ms)"
    " values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set reason = excluded.reason,"
    " status = excluded.status, code = excluded.code, message = excluded.message,"
    " failures = excluded.failures, since_ms = excluded.since_ms, next_try_at_ms = excluded.next_try_at_ms",
    (),
    "1",
)

PAUSE_ENDED = Query(
    "a pause is over",
    "update outbox_pause_history set ended_ms = max(since_ms, ?) where scope = ? and subject = ? and ended_ms is null",
    ("outbox_pause_standing (scope=? AND subject=?)",),
    "1",
)

SENDS = Query(
    "the process that has the file open begins to send",
    "update outbox_lives set sends_ms = ? where number = (select max(number) from outbox_lives) and sends_ms is null",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
)

END_PAUSE = Query("a pause is over", "delete from outbox_pauses where scope = ? and subject = ?", (), "1")

END_PAUSES_FOR = Query("all pauses for one reason are over", "delete from outbox_pauses where reason = ?", (), "a few")

RUNS = Query(
    "what died in the runs of refusals that are not over",
    "select lane, cause, seq from outbox_refused_runs order by seq",
    (),
    "10 per lane",
)

JOIN_RUN = Query(
    "an entry dies in a run of refusals",
    "insert or replace into outbox_refused_runs (seq, lane, cause) values (?, ?, ?)",
    (),
    "1",
)

END_OTHER_RUN = Query(
    "a lane's run of refusals for another cause is over",
    "delete from outbox_refused_runs where lane = ? and cause <> ?",
    ("outbox_refused_runs_lane (lane=?)",),
    "10",
)

FORGET_RUN = Query(
    "a lane's run of refusals is over",
    "delete from outbox_refused_runs where lane = ?",
    ("outbox_refused_runs_lane (lane=?)",),
    "10",
)

RUN_TO_REVIVE = Query(
    "what died in a lane's run of refusals, but what a later entry of its key has overtaken",
    """
    select mine.seq from outbox_refused_runs as run cross join outbox as mine
     where run.lane = ? and mine.seq = run.seq and mine.state = 'dead'
       and not (mine.key is not null
                and exists (select 1 from outbox as l where l.state = 'delivered' and l.key is not null
                               and l.destination = mine.destination and l.key = mine.key and l.seq > mine.seq))
    """,
    (
        "outbox_refused_runs_lane (lane=?)",
        "INTEGER PRIMARY KEY (rowid=?)",
        "outbox_delivered_keys (destination=? AND key=? AND seq>?)",
    ),
    "10",
)

REVIVE_RUN = Query(
    "make them pending; their attempts are kept, so that one that is refused again is bad itself",
    "update outbox not indexed set state = 'pending', waits = null, next_attempt_at_ms = null, settled_at_ms = null"
    " where state = 'dead' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "10",
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

# Triggers of the bot's own on the entries. Reads the schema, some fifty rows.
OWN_TRIGGERS = "select 1 from sqlite_schema where type = 'trigger' and tbl_name = 'outbox' and name not glob 'outbox_*'"

LAST_SEQ = Query(
    "the last place that was given to an entry",
    "select coalesce(max(seq), 0) from sqlite_sequence where name = 'outbox'",
    (),
    "the tables with places of their own: a handful",
)

LANES = Query(
    "every lane that was ever used",
    "select lane, destination, operation, on_conflict, columns, ordered from outbox_lanes",
    (),
    "the lanes: kinds of request, not entries",
)

SOME_LANES = Query(
    "some of them, which a look has met for the first time",
    f"{LANES.sql} where lane in (select value from json_each(?))",
    (),
    "the lanes: kinds of request, not entries",
)

NEW_LANE = Query(
    "a lane, unless it is there",
    # Random: a number that a shell copied from another outbox, with an entry, must not mean anything here.
    "insert into outbox_lanes (lane, destination, operation, on_conflict, columns, ordered)"
    " values (random() & 0x7fffffffffff, ?, ?, ?, ?, ?)"
    " on conflict (destination, operation, on_conflict, columns, ordered) do nothing",
    (),
    "1",
)

LANE = Query(
    "the number of a lane",
    "select lane from outbox_lanes"
    " where destination = ? and operation = ? and on_conflict = ? and columns = ? and ordered = ?",
    (),
    "1",
)
