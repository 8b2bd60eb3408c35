"""The queries of a local or merged read; in short steps, since the flusher shares the connection."""

from __future__ import annotations

from outbox.store.queries import Query

PENDING = Query(
    "what is pending for a destination: one branch for each way to wait, so that each has an index",
    """
    select seq from outbox indexed by outbox_ready
     where state = 'pending' and waits is null and lane in (select lane from outbox_lanes where destination = ?)
    union all
    select seq from outbox indexed by outbox_ready
     where state = 'pending' and waits is null and lane is null and destination = ?
    union all
    select seq from outbox indexed by outbox_turns
     where state = 'pending' and key is not null and destination = ? and waits = 'turn'
    union all
    select seq from outbox indexed by outbox_retrying where state = 'pending' and waits = 'retry' and destination = ?
     order by seq limit ?
    """,
    ("outbox_ready (lane=?)", "outbox_turns (destination=? AND key>?)", "outbox_retrying (waits=?)"),
    "what is pending",
)

SHOWN = Query(
    "some entries; delivered ones too: one whose successor is still read as pending may have gone between two steps",
    """
    select seq, id, destination, operation, key, payload, on_conflict, match, created_at_ms from outbox
     where state in ('pending', 'delivered') and seq in (select value from json_each(?)) order by seq
    """,
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "those asked for",
)

HELD = Query(
    "what the file holds of a destination between two places",
    """
    select seq, id, destination, operation, key, payload, on_conflict, match, created_at_ms from outbox not indexed
     where seq > ? and seq <= ? and destination = ? and state in ('pending', 'delivered') order by seq
    """,
    ("INTEGER PRIMARY KEY (rowid>? AND rowid<?)",),
    "the places between them",
)

BOUNDS = Query(
    "the oldest place and the newest", "select (select min(seq) from outbox), (select max(seq) from outbox)", (), "2"
)

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
