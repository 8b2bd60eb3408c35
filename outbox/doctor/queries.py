"""What doctor asks of the file, beside what the store's own queries say."""

from __future__ import annotations

from outbox.store.queries import Query

PENDING_LANES = Query(
    "the lanes that have something pending",
    "select lane from outbox_lanes where exists (select 1 from outbox as o"
    " where o.state = 'pending' and o.waits is null and o.lane = outbox_lanes.lane)"
    " or lane in (select o.lane from outbox as o indexed by outbox_turns"
    " where o.state = 'pending' and o.key is not null and o.waits = 'turn' union"
    " select o.lane from outbox as o indexed by outbox_retrying where o.state = 'pending' and o.waits = 'retry')",
    ("outbox_ready (lane=?)", "outbox_retrying (waits=?)"),
    "1 per lane, and what waits for another entry or something of its own",
)

NEWEST_DELIVERED = Query(
    "the newest insert that was delivered to a destination, among so many entries",
    "select id, payload from outbox where seq > (select max(seq) from outbox) - ? and destination = ?"
    " and operation = 'insert' and state = 'delivered' order by seq desc limit 1",
    ("INTEGER PRIMARY KEY (rowid>?)",),
    "so many",
)

LATEST_LANE = Query(
    "the lane of the newest entry that was delivered to a destination, among so many entries",
    "select lane from outbox where seq > (select max(seq) from outbox) - ? and destination = ?"
    " and state = 'delivered' and lane is not null order by seq desc limit 1",
    ("INTEGER PRIMARY KEY (rowid>?)",),
    "so many",
)

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
