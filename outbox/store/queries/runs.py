"""Runs of refusals: what died while a table refused everything for one cause, and how it comes back."""

from __future__ import annotations

from outbox.store.queries.query import Query

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
