-- 0002 · the bot's own state: its session and its cached bars.  None of it travels; entries do.
-- Needs: SQLite 3.38 or newer.  Rewrites: nothing.  Locks: one short write transaction.

-- The session of each bot, its running one or the last that it ended.  A row with status RUNNING at start is a crash.
-- Times are for people: ISO 8601 in UTC, always with milliseconds, so that their texts sort as they do.
create table outbox_sessions (
    source          text    not null primary key,           -- which bot: OUTBOX_SOURCE, or what SessionManager was given
    session_id      text    not null check (session_id <> ''),
    status          text    not null check (status in ('RUNNING', 'STOPPED')),
    end_reason      text    check (end_reason in ('NORMAL', 'EMERGENCY', 'DAY_CHANGE', 'RECOVERED', 'MANUAL', 'UNKNOWN')),
    start_time      text    not null check (start_time glob '[0-9]*-[0-9]*-[0-9]*T[0-9]*:[0-9]*:[0-9]*.[0-9]*+00:00'),
    end_time        text    check (end_time glob '[0-9]*-[0-9]*-[0-9]*T[0-9]*:[0-9]*:[0-9]*.[0-9]*+00:00'),
    day_start       text    not null check (day_start glob '[0-9]*-[0-9]*-[0-9]*T00:00:00.000+00:00'),
                                                            -- the UTC day that check_day_boundary has last seen begin
    last_heartbeat  text    not null check (last_heartbeat glob '[0-9]*-[0-9]*-[0-9]*T[0-9]*:[0-9]*:[0-9]*.[0-9]*+00:00'),
    initial_balance real,                                   -- null: unknown, as each balance
    current_balance real,                                   -- as of the last heartbeat that said one
    symbols         text    not null check (json_valid(symbols) and json_type(symbols) = 'array'),
    version         integer not null check (version > 0),   -- of the last put of this session; the remote keeps the highest
    check ((status = 'STOPPED') = (end_time is not null) and (status = 'STOPPED') = (end_reason is not null))
) strict, without rowid;

-- Cached price bars, whatever their fields are.
create table outbox_bars (
    symbol    text    not null check (symbol <> ''),
    timeframe text    not null default '',                  -- the caller's own word, such as H1; '': there is only one
    time_ms   integer not null,                             -- when the bar begins: Unix time in milliseconds
    bar       text    not null check (json_valid(bar)),     -- all of the bar, as a JSON object
    primary key (symbol, timeframe, time_ms)
) strict, without rowid;
