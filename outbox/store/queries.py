"""Every query that runs more than once: its purpose, the index it must use, its bound.

A test asks SQLite for each one's plan, so that none of them reads the backlog or the history.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

from outbox.entry import Entry


@dataclass(frozen=True, slots=True)
class Query:
    """purpose: why it is asked. uses: the indexes its plan must name. bound: the rows it touches at the most."""

    purpose: str
    sql: str
    uses: tuple[str, ...]
    bound: str


_COLUMNS = ", ".join(Entry._fields)
_MARKS = f"({', '.join('?' * len(Entry._fields))})"


def insert(rows: int) -> str:
    """Return the statement that stores `rows` entries at once: one statement is one transaction is one sync.

    An id that is stored already is passed over. Measured, 64 rows with all triggers: 12.9 µs a row, against 14.0 with
    `json_each` and 14.7 with `executemany`. It returns nothing: a row that comes back is a step of its own, for which
    SQLite's thread must get hold of the interpreter again; `returning seq, id, destination` cost 6 % of 64 tasks' rate.
    """
    values = ", ".join([_MARKS] * rows)
    return f"insert into outbox ({_COLUMNS}) values {values} on conflict do nothing"


# What entries of one put_many have in common, and what each has of its own.
_SHARED = ("destination", "operation", "on_conflict", "match", "created_at_ms", "source", "if_exists")
_OWN = tuple(name for name in Entry._fields if name not in _SHARED)
shared_values = attrgetter(*_SHARED)
own_values = attrgetter(*_OWN)

# Up to here each number of rows has a statement of its own in the cache; beyond, multiples of it keep the texts few.
STEP = 128
# 8 times 128 entries of 12 columns are 12,288 parameters; SQLite's limit is 32,766.
MOST_ROWS = 8 * STEP


def statement_rows(rows: int) -> int:
    """Return how many of `rows` the next statement stores."""
    rows = min(rows, MOST_ROWS)
    return rows if rows <= STEP else rows - rows % STEP


@lru_cache(maxsize=32)
def insert_alike(rows: int, *, keep: bool) -> str:
    """Return the statement that stores entries of one put_many: `shared_values`, then each one's `own_values`.

    keep: pass over an id that is stored already; else it fails as a whole. Measured, 1,024 rows: 8.9 µs a row, against
    12.8 with a parameter for every column.
    """
    first = len(_SHARED) + 1
    places = itertools.count(first)
    rows_of_marks = []
    for _ in range(rows):
        marks = {name: f"?{number}" for number, name in enumerate(_SHARED, 1)} | {n: f"?{next(places)}" for n in _OWN}
        rows_of_marks.append(f"({', '.join(marks[name] for name in Entry._fields)})")
    passed_over = " on conflict do nothing" if keep else ""
    return f"insert into outbox ({_COLUMNS}) values {', '.join(rows_of_marks)}{passed_over}"


STORED = Query(
    "what is stored under some ids, as [id, destination] pairs: tells a repeated put from another one of the same id",
    "select pair.key, o.seq, o.digest, o.payload, o.operation, o.key, o.on_conflict, o.match"
    " from json_each(?) as pair cross join outbox as o"
    " where o.id = pair.value ->> 0 and o.destination = pair.value ->> 1",
    ("sqlite_autoindex_outbox_1 (id=? AND destination=?)",),
    "one for each pair",
)

LANE = Query(
    "the number of a lane, made when it is new",
    # Random: a number that a shell copied from another outbox, with an entry, must not mean anything here.
    "insert into outbox_lanes (lane, destination, operation, on_conflict, columns, ordered)"
    " values (random() & 0x7fffffffffff, ?, ?, ?, ?, ?)"
    " on conflict (destination, operation, on_conflict, columns, ordered) do update set lane = lane returning lane",
    (),
    "1",
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

_SENT = "seq, id, key, payload, match, digest, attempts, refused_since_ms"

READY = Query(
    "what an unordered lane sends next of what was never refused, oldest first, behind what is on its way",
    # "indexed by": SQLite 3.53 on an analyzed file would read everything behind the seq, delivered rows too.
    f"select {_SENT} from outbox indexed by outbox_ready where state = 'pending' and waits is null and lane = ?"
    " and seq > ? and attempts = 0 order by seq limit ?",
    ("outbox_ready (lane=? AND seq>?)",),
    "the limit, and what was refused before and is ready again",
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
    select {", ".join(f"e.{name}" for name in _SENT.split(", "))}, e.lane
      from outbox as head
      cross join outbox as e
     where head.state = 'pending' and head.waits is null and head.lane = ?
       and e.state = 'pending' and e.key is not null
       and e.destination = head.destination and e.key = head.key and e.seq >= head.seq
     limit ?
    """,
    ("outbox_ready (lane=?)", "outbox_turns (destination=? AND key=? AND seq>?)"),
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
    "select seq, id, destination, operation, key, payload, on_conflict, match from outbox"
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
    # "is not null": a shell may set `waits` alone, and its entry would stand first and be due never.
    "select next_attempt_at_ms from outbox indexed by outbox_due where state = 'pending' and waits = 'retry'"
    " and next_attempt_at_ms is not null order by next_attempt_at_ms limit 1",
    ("outbox_due (next_attempt_at_ms>?)",),
    "1",
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

# Of a line the first hundred are looked at: where no insert or upsert is among them, an update waits its minute.
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

PAUSES = Query(
    "what is not sent to, and why",
    "select scope, subject, reason, status, code, message, failures, since_ms, next_try_at_ms from outbox_pauses"
    " order by since_ms",
    (),
    "the pauses: destinations and lanes, not entries",
)

# What overtook a dead entry must stay as long as that one is dead: `requeue` looks for it. The newest of a key will do.
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

_SELECTED = "seq, id, destination, state, error_code, error_status, settled_at_ms"

DEAD = Query(
    "the next dead entries of a destination, oldest first",
    f"select {_SELECTED} from outbox where state = 'dead' and destination = ? and seq > ? order by seq limit ?",
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
    f"select {_SELECTED} from outbox where seq in (select value from json_each(?)) order by seq",
    ("INTEGER PRIMARY KEY (rowid=?)",),
    "the step",
)

# In flight are only entries of a key whose first pending one is ready: those behind it may travel with it.
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
    "which entries arrived in a time, of a table, of a session",
    "select seq from outbox indexed by outbox_settled where state in ('delivered', 'discarded')"
    " and settled_at_ms >= ? and settled_at_ms < ? and state = 'delivered' and (? is null or destination = ?)"
    " and (? is null or coalesce(payload ->> 'session_id', match ->> 'session_id') = ?)",
    ("outbox_settled (settled_at_ms>? AND settled_at_ms<?)",),
    "what was settled in that time",
)

RESENDABLE = Query(
    "delivered entries, and whether a later one of their key says all that they say",
    """
    select mine.seq, mine.destination, mine.operation,
           mine.key is not null and exists (
               select 1 from outbox as l
                where l.state in ('delivered', 'pending') and l.key is not null and l.operation = 'upsert'
                  and l.destination = mine.destination and l.key = mine.key and l.seq > mine.seq
                  and (l.lane = mine.lane or not exists (
                      select 1 from json_each('["' || replace(a.columns, ',', '","') || '"]') as c
                       where not instr((select ',' || b.columns || ',' from outbox_lanes as b where b.lane = l.lane),
                                       ',' || c.value || ','))))
      from outbox as mine left join outbox_lanes as a on a.lane = mine.lane
     where mine.state = 'delivered' and mine.seq in (select value from json_each(?))
    """,
    ("INTEGER PRIMARY KEY (rowid=?)",),
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

MENDABLE = Query(
    "the entries that have an id, with all that an edit hangs on",
    f"select {_SELECTED}, operation, key, payload, on_conflict, match, lane from outbox where id = ?",
    ("sqlite_autoindex_outbox_1 (id=?)",),
    "the destinations",
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

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
