"""The queries on the bot's own tables: its session, and its bars. The plan test reads all of them."""

from __future__ import annotations

from outbox.store.queries import Query

_SESSION = "PRIMARY KEY (source=?)"

FIND = Query(
    "the session of a source that runs",
    "select session_id, start_time, day_start, last_heartbeat, initial_balance, current_balance, symbols, version"
    " from outbox_sessions where source = ? and status = 'RUNNING'",
    (_SESSION,),
    "1",
)

FIND_OTHERS = Query(
    "those of other sources",
    "select source, session_id, last_heartbeat from outbox_sessions where source <> ? and status = 'RUNNING'",
    (),
    "one for each source",
)

KNOWN = Query(
    "a source's last session", "select session_id, status from outbox_sessions where source = ?", (_SESSION,), "1"
)

SAVE = Query(
    "a session begins or ends, in the place of the source's last one",
    "insert or replace into outbox_sessions (session_id, start_time, day_start, last_heartbeat, initial_balance,"
    " current_balance, symbols, version, source, status, end_reason, end_time)"
    " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    (),
    "1",
)

BEAT = Query(
    "a heartbeat; an end that was committed first is not undone by one that stood in line behind it",
    "update outbox_sessions set last_heartbeat = ?, day_start = ?, current_balance = ?"
    " where source = ? and session_id = ? and status = 'RUNNING' returning 1",
    (_SESSION,),
    "1",
)

UPSERT_BAR = Query(
    "a bar, in the place of the one of its time",
    "insert into outbox_bars (symbol, timeframe, time_ms, bar) values (?, ?, ?, ?)"
    " on conflict do update set bar = excluded.bar",
    (),
    "1",
)

NEW_BARS = Query(
    "bars of an old file, as [time, bar] pairs: what has been cached since is newer",
    "insert into outbox_bars (symbol, timeframe, time_ms, bar) select ?, '', value ->> 0, value ->> 1 from json_each(?)"
    " where true on conflict do nothing returning 1",
    (),
    "one for each pair",
)

OLDEST_FIRST = Query(
    "a page of bars",
    "select time_ms, bar from outbox_bars where symbol = ? and timeframe = ? and time_ms >= ? and time_ms < ?"
    " order by time_ms limit ?",
    ("PRIMARY KEY (symbol=? AND timeframe=? AND time_ms>? AND time_ms<?)",),
    "the limit",
)

NEWEST_FIRST = Query(
    "the same from the other end",
    OLDEST_FIRST.sql.replace("order by time_ms", "order by time_ms desc"),
    OLDEST_FIRST.uses,
    "the limit",
)

NTH_NEWEST = Query(
    "the time of the bar before which all may go",
    "select time_ms from outbox_bars where symbol = ? and timeframe = ? order by time_ms desc limit 1 offset ?",
    ("PRIMARY KEY (symbol=? AND timeframe=?)",),
    "the bars that stay",
)

SERIES = Query(
    "each symbol and timeframe that has bars",
    "select distinct symbol, timeframe from outbox_bars where symbol = coalesce(?, symbol)"
    " and timeframe = coalesce(?, timeframe)",
    (),
    "all bars, by their key alone",
)

PRUNE_BARS = Query(
    "the oldest bars of a series, before a time",
    "delete from outbox_bars where symbol = ? and timeframe = ? and time_ms in (select time_ms from outbox_bars"
    " where symbol = ? and timeframe = ? and time_ms < ? order by time_ms limit ?) returning 1",
    ("PRIMARY KEY (symbol=? AND timeframe=? AND time_ms<?)",),
    "the limit",
)

ALL = {name: query for name, query in globals().items() if isinstance(query, Query)}
