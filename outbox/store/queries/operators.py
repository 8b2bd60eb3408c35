"""What operators, maintenance and readers ask: counts, dead entries, edits, history, and what may be removed."""

from __future__ import annotations

from outbox.store.queries.query import Query

# What overtook a dead entry must stay while that one is dead: `requeue` looks for it. The newest of a key is enough.
_PRUNE = """
    delete from outbox where seq in (
        select old.seq from outbox as old indexed by outbox_settled
         where old.state in ('delivered', 'discarded'){only} and old.settled_at_ms < ?
           and not (
               old.state = 'delivered' and old.key is not null
               and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                              and d.destination = old.destination and d.key = old.key and d.seq < old.seq)
               and not exists (select 1 from outbox as l where l.state = 'delivered' and l.key is not null
                                  and l.destination = old.destination and l.key = old.key and l.seq > old.seq))
         order by old.settled_at_ms limit ?)
    """

_PRUNE_USES = (
    "outbox_settled (settled_at_ms<?)",
    "outbox_dead_keys (destination=? AND key=? AND seq<?)",
    "outbox_delivered_keys (destination=? AND key=? AND seq>?)",
)

PRUNE = Query(
    "remove settled entries that are older than the retention, but not what shows that a dead one was overtaken",
    _PRUNE.format(only=""),
    _PRUNE_USES,
    "the limit, and one for each key that has a dead entry",
)

PRUNE_DELIVERED = Query(
    "on a full disk: the same, of delivered entries alone; what was discarded is an operator's evidence",
    _PRUNE.format(only=" and old.state = 'delivered'"),
    _PRUNE_USES,
    "the limit, what is discarded, and one for each key that has a dead entry",
)

PRUNABLE = Query(
    "whether anything is old enough to be looked at",
    "select 1 from outbox where state in ('delivered', 'discarded') and settled_at_ms < ? limit 1",
    ("outbox_settled (settled_at_ms<?)",),
    "1",
)


def matches(time: str) -> str:
    """Return the test of a `Selection` in SQL, whose parameters are its `parameters`. time: what since and until mean.

    A column's value is given as text, as JSON, or as a number.
    """
    return (
        "(? is null or destination = ?) and (? is null or "
        " coalesce(payload ->> 'session_id', match ->> 'session_id') = ?)"
        " and (? is null or coalesce(error_code, cast(error_status as text)) = ?)"
        " and (? is null or instr(error_message, ?) > 0)"
        f" and (? is null or {time} >= ?) and (? is null or {time} < ?)"
        " and (? is null or not exists (select 1 from (select w.value as told,"
        " coalesce(payload ->> w.key, match ->> w.key) as plain, coalesce(payload -> w.key, match -> w.key) as json"
        " from json_each(?) as w) where not ifnull(told in (cast(plain as text), json)"
        " or (told glob '[-+.0-9]*' and typeof(plain) <> 'text' and plain = cast(told as numeric)), 0)))"
        " and (? is null or exists (select 1 from (select lower(?) as words) as c where instr(lower(id), words)"
        " or exists (select 1 from json_tree(payload) as w"
        " where w.type in ('text', 'integer', 'real') and instr(lower(w.atom), words))"
        " or exists (select 1 from json_tree(match) as w where instr(lower(w.atom), words))))"
    )


_SELECTED = "seq, id, destination, state, error_code, error_status, settled_at_ms"
_MATCHES = matches("coalesce(settled_at_ms, created_at_ms)")

DEAD = Query(
    "the next dead entries of a destination, oldest first",
    f"select {_MATCHES}, {_SELECTED} from outbox"
    " where state = 'dead' and destination = ? and seq > ? order by seq limit ?",
    ("outbox_dead (destination=? AND seq>?)",),
    "the limit",
)

CAUSES = Query(
    "the next dead entries of a destination, those that the server refused in the same words together",
    "select error_status, error_code, error_message, count(*), min(settled_at_ms), max(settled_at_ms), max(seq)"
    " from (select * from outbox where state = 'dead' and destination = ? and seq > ? order by seq limit ?)"
    " group by 1, 2, 3",
    ("outbox_dead (destination=? AND seq>?)",),
    "the limit",
)

SEQS = Query(
    "the entries that have one of some ids, each id perhaps in several destinations",
    "select seq, id from outbox where id in (select value from json_each(?))",
    ("sqlite_autoindex_outbox_1 (id=?)",),
    "the ids, times the destinations",
)

SELECTED = Query(
    "one step of them",
    f"select {_MATCHES}, {_SELECTED} from outbox where seq in (select value from json_each(?)) order by seq",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the step",
)

# Only entries of a key whose first pending one is ready are in flight: those behind it may travel with it.
OVERTAKEN = Query(
    "which dead entries a later one of their key has overtaken, or may be overtaking now",
    """
    select mine.seq,
           exists (select 1 from outbox as l where l.state = 'delivered' and l.key is not null
                      and l.destination = mine.destination and l.key = mine.key and l.seq > mine.seq),
           exists (select 1 from outbox as p where p.state = 'pending' and p.key is not null
                      and p.destination = mine.destination and p.key = mine.key and p.seq > mine.seq)
           and (select h.waits is null from outbox as h where h.state = 'pending' and h.key is not null
                   and h.destination = mine.destination and h.key = mine.key order by h.seq limit 1)
      from outbox as mine where mine.key is not null and mine.seq in (select value from json_each(?))
    """,
    (
        "INTEGER PRIMARY KEY (rowid=?)",
        "outbox_delivered_keys (destination=? AND key=? AND seq>?)",
        "outbox_turns (destination=? AND key=? AND seq>?)",
        "outbox_turns (destination=? AND key=?)",
    ),
    "the step",
)

REVIVE = Query(
    "make dead entries pending, as if they had just been put; the server's words stay until its next ones",
    # "not indexed": SQLite 3.53 on an analyzed file would go through all dead entries; the number is no index.
    "update outbox not indexed set state = 'pending', waits = null, attempts = 0, next_attempt_at_ms = null,"
    " settled_at_ms = null, refused_since_ms = null where state = 'dead' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the step",
)

DELIVERED = Query(
    "which entries arrived in a time, of what is selected",
    "select seq from outbox indexed by outbox_settled where state in ('delivered', 'discarded')"
    " and settled_at_ms >= ? and settled_at_ms < ? and state = 'delivered'"
    f" and {_MATCHES}",
    ("outbox_settled (settled_at_ms>? AND settled_at_ms<?)",),
    "what was settled in that time",
)

# A later upsert of the key says all that this one says. Once for each state, whose index finds the key's entries:
# without them each row would look at all later ones.
_SAYS_ALL = """exists (
               select 1 from outbox as l indexed by {index}
                where l.state = '{state}' and l.key is not null
                  and l.destination = mine.destination and l.key = mine.key and l.seq > mine.seq
                  and l.operation = 'upsert'
                  and (l.lane = mine.lane or not exists (
                      select 1 from json_each('["' || replace(a.columns, ',', '","') || '"]') as c
                       where not instr((select ',' || b.columns || ',' from outbox_lanes as b where b.lane = l.lane),
                                       ',' || c.value || ','))))"""

RESENDABLE = Query(
    "delivered entries, and whether a later one of their key says all that they say",
    f"""
    select mine.seq, mine.destination, mine.operation, mine.operation = 'upsert' and mine.key is not null and (
           {_SAYS_ALL.format(index="outbox_delivered_keys", state="delivered")}
        or {_SAYS_ALL.format(index="outbox_turns", state="pending")})
      from outbox as mine left join outbox_lanes as a on a.lane = mine.lane
     where mine.state = 'delivered' and mine.seq in (select value from json_each(?))
    """,
    (
        "INTEGER PRIMARY KEY (rowid=?)",
        "outbox_delivered_keys (destination=? AND key=? AND seq>?)",
        "outbox_turns (destination=? AND key=? AND seq>?)",
    ),
    "the step, and the entries of their keys",
)

RESEND = Query(
    "make delivered entries pending, as if they had just been put",
    "update outbox not indexed set state = 'pending', waits = null, attempts = 0, next_attempt_at_ms = null,"
    " settled_at_ms = null, refused_since_ms = null"
    " where state = 'delivered' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the step",
)

GIVE_UP = Query(
    "give dead entries up",
    "update outbox not indexed set state = 'discarded', settled_at_ms = ?"
    " where state = 'dead' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the step",
)

TAKE_OUT = Query(
    "take pending entries out of their lines, in the transaction that revises them or gives them up",
    "update outbox not indexed set state = 'dead', waits = null, settled_at_ms = ?"
    " where state = 'pending' and seq in (select value from json_each(?))",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the step",
)

_MENDABLE = f"select 1, {_SELECTED}, operation, key, payload, on_conflict, match, created_at_ms, lane from outbox"

MENDABLE = Query(
    "the entries that have an id, with all that an edit hangs on",
    f"{_MENDABLE} where id = ?",
    ("sqlite_autoindex_outbox_1 (id=?)",),
    "the destinations",
)

MENDABLE_NEXT = Query(
    "of some entries, in the order of the puts, those that are not settled and have one of some columns",
    f"{_MENDABLE} not indexed where seq > ? and seq <= ? and state in ('pending', 'dead')"
    " and (? is null or destination = ?)"
    " and exists (select 1 from json_each(?) as c where json_type(payload, '$.' || json_quote(c.value)) is not null)"
    " order by seq",
    ("INTEGER PRIMARY KEY (rowid>? AND rowid<?)",),
    "the step",
)

KEEP = Query(
    "keep what an edit is about to replace",
    "insert into outbox_edits (seq, at_ms, payload, digest) select seq, ?, payload, digest from outbox where seq = ?",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
)

MEND = Query(
    "write what an edit made of a dead entry",
    "update outbox not indexed set payload = ?, key = ?, lane = ?, digest = ? where state = 'dead' and seq = ?",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
)

NOTE = Query(
    "write a line of history for each of some entries",
    "insert into outbox_history (at_ms, event, status, code, message, batch_rows, request_id, seq)"
    " select ?, ?, ?, ?, ?, ?, ?, value from json_each(?)",
    (),
    "the step",
)


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

POSTPONED = Query(
    "how many entries wait for something of their own",
    "select count(*) from (select 1 from outbox where state = 'pending' and waits = 'retry' limit ?)",
    ("outbox_retrying (waits=?)",),
    "the limit",
)

PENDING_NOW = Query(
    "how many entries are pending, by the counters",
    "select coalesce(sum(entries), 0) from outbox_counts where state = 'pending'",
    (),
    "a few for each destination",
)

NEWEST_PUT = Query(
    "when the newest entry was put",
    "select created_at_ms from outbox where seq = (select max(seq) from outbox)",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "1",
)

NEWEST_SEQ = Query("the newest entry's place", "select coalesce(max(seq), 0) from outbox", (), "1")

RESENT = Query(
    "which of some entries had arrived before they were sent again",
    "select distinct seq from outbox_history where event = 'resent' and seq in (select value from json_each(?))",
    ("outbox_history_entry (seq=?)",),
    "20 for each",
)
