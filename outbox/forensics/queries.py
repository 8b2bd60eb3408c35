"""What inspection asks of a file. The plan test reads all of it; a list's statement is put together from its parts."""

from __future__ import annotations

from outbox.entry import State
from outbox.store.queries import Query, matches

ROW = (
    "seq, id, destination, operation, state, key, waits, attempts, next_attempt_at_ms, created_at_ms, settled_at_ms,"
    " error_status, error_code, error_message, error_details, error_hint, source"
)
_BY_NUMBER = "INTEGER PRIMARY KEY (rowid=?)"
_SINCE = "INTEGER PRIMARY KEY (rowid>?)"
_BETWEEN = "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
# Each state through its own index: a handful of dead letters among a million delivered rows is found at once.
_BY_STATE = {
    None: "outbox not indexed where 1",
    State.PENDING: "outbox where state = 'pending' and seq in (select seq from outbox indexed by outbox_ready"
    " where state = 'pending' and waits is null union all select seq from outbox indexed by outbox_turns"
    " where state = 'pending' and key is not null and waits = 'turn' union all select seq from outbox"
    " indexed by outbox_retrying where state = 'pending' and waits = 'retry')",
    State.DEAD: "outbox indexed by outbox_dead where state = 'dead'",
    State.DELIVERED: "outbox indexed by outbox_settled where state = 'delivered'"
    " and state in ('delivered', 'discarded')",
    State.DISCARDED: "outbox indexed by outbox_settled where state = 'discarded'"
    " and state in ('delivered', 'discarded')",
}
_MATCHES = matches("created_at_ms")


def place(state: State | None) -> tuple[str, ...]:
    """Return the columns that a list of `state` is ordered by."""
    return ("settled_at_ms", "seq") if state in (State.DELIVERED, State.DISCARDED) else ("seq",)


def listed(state: State | None, *, behind: bool, until: bool) -> str:
    """Return the statement of one step of a list, newest first. behind, until: places that bound it."""
    columns = place(state)
    names, marks = f"({', '.join(columns)})", f"({', '.join('?' * len(columns))})"
    bounds = f" and {names} < {marks}" * behind + f" and {names} >= {marks}" * until
    return f"select {ROW} from {_BY_STATE[state]}{bounds} and {_MATCHES} order by {_newest(columns)} limit ?"


def step_end(state: State | None, *, behind: bool) -> str:
    """Return the statement that finds the last place of a step of so many rows."""
    columns = place(state)
    bounds = f" and ({', '.join(columns)}) < ({', '.join('?' * len(columns))})" * behind
    order = _newest(columns)
    return f"select {', '.join(columns)} from {_BY_STATE[state]}{bounds} order by {order} limit 1 offset ?"


def _newest(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} desc" for column in columns)


LISTED = Query("a step of a list of all", listed(None, behind=True, until=True), (_BETWEEN,), "the step")
LISTED_DELIVERED = Query(
    "the same of what is delivered",
    listed(State.DELIVERED, behind=True, until=True),
    ("outbox_settled (settled_at_ms>? AND settled_at_ms<?)",),
    "the step",
)
STEP_END = Query(
    "where it ends", step_end(State.DELIVERED, behind=True), ("outbox_settled (settled_at_ms<?)",), "the step"
)

IDS = Query(
    "the ids that begin alike",
    "select distinct id from outbox where id >= ? and id < ? order by id limit 3",
    ("sqlite_autoindex_outbox_1 (id>? AND id<?)",),
    "what has these ids",
)
ID = Query("an entry's id", "select id from outbox where seq = ?", (_BY_NUMBER,), "1")
LANE_OF = Query("an entry's lane", "select lane from outbox where seq = ?", (_BY_NUMBER,), "1")
TOLD_ROWS = Query(
    "the rows of some entries",
    "select seq, payload, match from outbox where seq in (select value from json_each(?))",
    (_BY_NUMBER,),
    "the entries",
)
STORIES = Query(
    "all about the entries that have an id",
    f"select payload, match, on_conflict, {ROW} from outbox where id = ? order by seq",
    ("sqlite_autoindex_outbox_1 (id=?)",),
    "one for each destination",
)
OVERTAKEN = Query(
    "whether a later entry of its key was delivered",
    "select 1 from outbox where state = 'delivered' and key is not null and destination = ? and key = ?"
    " and seq > ? limit 1",
    ("outbox_delivered_keys (destination=? AND key=? AND seq>?)",),
    "1",
)
IN_FRONT = Query(
    "which entry of its key is ahead of it",
    """
    select id from outbox where seq = coalesce(
        (select min(seq) from outbox where state = 'pending' and key is not null
            and destination = ? and key = ? and seq < ?),
        (select min(seq) from outbox where state = 'dead' and key is not null
            and destination = ? and key = ? and seq < ?))
    """,
    ("outbox_turns (destination=? AND key=? AND seq<?)", "outbox_dead_keys (destination=? AND key=? AND seq<?)"),
    "2",
)
NEWEST_SEQ = Query("the newest entry's number", "select coalesce(max(seq), 0) from outbox", (), "1")
SETTLED_BEFORE = Query(
    "how many were settled before a time",
    "select count(*) from outbox indexed by outbox_settled"
    " where state in ('delivered', 'discarded') and settled_at_ms < ?",
    ("outbox_settled (settled_at_ms<?)",),
    "these, in the index alone",
)
SESSIONS = Query(
    "the last session of each bot, newest first",
    "select session_id from outbox_sessions order by start_time desc",
    (),
    "one for each bot",
)

NEWEST_LINE = Query("the newest line's number", "select coalesce(max(number), 0) from outbox_history", (), "1")
_LINES = (
    "select h.at_ms, h.event, h.seq, o.destination, o.id, h.status, h.code, h.message"
    " from outbox_history as h left join outbox as o on o.seq = h.seq"
)
NEWEST_LINES = Query(
    "the newest lines of history, and whose they are", f"{_LINES} order by h.number desc limit 100", (), "100"
)
HISTORY = Query(
    "an entry's lines",
    "select at_ms, event, status, code, message, batch_rows, request_id from outbox_history"
    " where seq = ? order by number",
    ("outbox_history_entry (seq=?)",),
    "20",
)
EDITS = Query(
    "the payloads that it had before",
    "select at_ms, payload from outbox_edits where seq = ? order by number",
    (),
    "few",
)

# A tail appends what is wanted, the order and the limit.
PUTS = Query(
    "what was put since",
    "select created_at_ms, 'put', seq, destination, id from outbox where seq > ?",
    (_SINCE,),
    "what is new",
)
DELIVERIES = Query(
    "what was delivered since",
    "select settled_at_ms, 'delivered', seq, destination, id from outbox indexed by outbox_settled"
    " where state in ('delivered', 'discarded') and state = 'delivered'"
    " and settled_at_ms >= ? and (settled_at_ms > ? or seq > ?)",
    ("outbox_settled (settled_at_ms>?)",),
    "what is new",
)
LINES = Query("what else happened since", f"{_LINES} where h.number > ?", (_SINCE,), "what is new")


def counted(sql: str) -> str:
    """Return the statement that counts what `sql` finds."""
    return f"select count(*) from ({sql})"


PAGE_END = Query(
    "the last entry of a page of an export",
    "select max(seq) from (select seq from outbox where seq > ? and seq <= ? order by seq limit ?)",
    (_BETWEEN,),
    "the page",
)


def page(selected: str) -> str:
    """Return the statement of a page of an export."""
    # "not indexed": with a state's index each page would read all entries in that state.
    return (
        f"select {selected} from outbox not indexed"
        f" where seq > ? and seq <= ? and (? is null or state = ?) and {_MATCHES} order by seq"
    )


PAGE = Query("a page of an export", page("null"), (_BETWEEN,), "the page")

OUTAGES = Query(
    "the newest pauses, past and current",
    "select scope, subject, reason, status, code, message, failures, since_ms, ended_ms, refused, backlog"
    " from outbox_pause_history where (? is null or ended_ms is null or ended_ms >= ?)"
    " and (? is null or since_ms < ?) order by number desc limit ?",
    (),
    "the pauses since",
)
LIVES = Query(
    "the newest processes that had the file open for writing",
    "select program, pid, opened_ms, sends_ms, closed_ms, number = (select max(number) from outbox_lives)"
    " from outbox_lives where (? is null or opened_ms >= ?) and (? is null or opened_ms < ?)"
    " order by number desc limit ?",
    (),
    "the processes since",
)

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
