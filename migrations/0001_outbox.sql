-- 0001 · the outbox: its entries, what happened to them, the bot's own state, and views for people.
-- Needs: SQLite 3.38 or newer (STRICT, RETURNING, ->>, unixepoch).  Rewrites: nothing.  Locks: one short write
-- transaction.  Every table is named outbox…, every view v_…, so that they can live beside a bot's own.
--   sqlite3 -readonly bot.db "select * from v_health"
-- docs/forensics.md asks twenty questions of the views; they cost a put nothing.

-- --------------------------------------------------------------------------------------------------- entries

create table outbox (
    seq                integer primary key autoincrement,   -- the order of the puts; never used twice
    id                 text    not null                     -- the idempotency key; a UUIDv7 unless the caller chose one
                       default (
                           substr(printf('%012x', cast((julianday('now') - 2440587.5) * 86400000 as integer)), 1, 8)
                           || '-' || substr(printf('%012x', cast((julianday('now') - 2440587.5) * 86400000 as integer)), 9, 4)
                           || '-7' || substr(lower(hex(randomblob(2))), 2)
                           || '-' || substr('89ab', 1 + (random() & 3), 1) || substr(lower(hex(randomblob(2))), 2)
                           || '-' || lower(hex(randomblob(6)))
                       )
                       check (length(id) between 1 and 200),
    destination        text    not null                     -- the remote table
                       check (destination glob '[A-Za-z_]*' and destination not glob '*[^A-Za-z0-9_]*'
                              and length(destination) <= 63),
    operation          text    not null default 'insert' check (operation in ('insert', 'upsert', 'update')),
    state              text    not null default 'pending' check (state in ('pending', 'delivered', 'dead', 'discarded')),
    key                text,                                -- ordering key: same destination and key arrive in order of seq
    payload            text    not null                     -- the row, as a JSON object
                       check (json_valid(payload) and ltrim(payload, char(32, 9, 10, 13)) glob '{*'),
    on_conflict        text,                                -- upsert: the columns that decide, comma-separated
    match              text    check (match is null or json_valid(match)),  -- update: which rows, as a JSON object
    lane               integer references outbox_lanes (lane),  -- what it may share a request with; null: not read yet
    waits              text    check (waits in ('turn', 'retry')),  -- null: may be sent; turn: an earlier entry of its key
                                                            -- comes first; retry: not before next_attempt_at_ms
    attempts           integer not null default 0,          -- refusals of this very row; outages are not counted
    next_attempt_at_ms integer,                             -- Unix time in milliseconds, as all …_ms
    refused_since_ms   integer,                             -- when the server first refused this very row
    created_at_ms      integer not null default (cast((julianday('now') - 2440587.5) * 86400000 as integer)),
    settled_at_ms      integer,                             -- when it was delivered, died or was discarded
    error_status       integer,                             -- the last refusal, in the server's own words
    error_code         text,
    error_message      text,
    error_details      text,
    error_hint         text,
    source             text,                                -- which bot put it
    digest             text,                                -- over all that is sent; checked before sending
    unique (id, destination),
    check (waits is not 'retry' or next_attempt_at_ms is not null)
) strict;

-- What may be sent now, lane by lane, oldest first.  Entries that came in through a shell have no lane yet.
create index outbox_ready on outbox (lane, seq) where state = 'pending' and waits is null;
-- The line in front of each ordering key.
create index outbox_turns on outbox (destination, key, seq) where state = 'pending' and key is not null;
-- Entries that wait for something of their own, by due time and by age.
create index outbox_due on outbox (next_attempt_at_ms) where state = 'pending' and waits = 'retry';
create index outbox_retrying on outbox (waits) where state = 'pending' and waits = 'retry';
create index outbox_dead on outbox (destination, seq) where state = 'dead';
create index outbox_settled on outbox (settled_at_ms) where state in ('delivered', 'discarded');
-- To be revived safely, an entry must be older than everything of its key that was delivered.
create index outbox_dead_keys on outbox (destination, key, seq) where state = 'dead' and key is not null;
create index outbox_delivered_keys on outbox (destination, key, seq) where state = 'delivered' and key is not null;

-- Entries of one lane may share one request: same table, operation, deciding columns and set of columns.
create table outbox_lanes (
    lane        integer primary key,
    destination text    not null,
    operation   text    not null,
    on_conflict text    not null default '',                -- the request's on_conflict=
    columns     text    not null,                           -- the request's columns=
    ordered     integer not null check (ordered in (0, 1)), -- 1: its entries have ordering keys
    unique (destination, operation, on_conflict, columns, ordered)
) strict;

-- Who cannot be sent to at the moment, and why.  An outage is one row here and touches no entry.
create table outbox_pauses (
    scope          text    not null check (scope in ('everything', 'destination', 'lane')),
    subject        text    not null default '',             -- '', the destination, or the lane's number
    reason         text    not null,
    status         integer,
    code           text,
    message        text,
    failures       integer not null check (failures > 0),
    since_ms       integer not null,
    next_try_at_ms integer not null,
    primary key (scope, subject)
) strict, without rowid;

-- How many entries are in which state; kept by triggers, so that a shell's changes count too.
-- put = pending + delivered + dead + discarded + pruned + removed.
create table outbox_counts (
    destination text    not null,
    state       text    not null,   -- a state of the outbox; pruned: was settled, is gone; removed: deleted before it was settled
    entries     integer not null,
    bytes       integer not null default 0,     -- of their payloads, as UTF-8
    primary key (destination, state)
) strict, without rowid;

-- Facts about the file itself: who put it here, whether it was closed cleanly, which project it belongs to.
create table outbox_meta (
    name  text primary key,
    value text not null
) strict, without rowid;

-- The story of an entry: each answer that was its own, and each hand that was laid on it.  Outages are not here: they
-- are rows of outbox_pauses and touch no entry.  At most 20 rows an entry: the first one and the newest.
create table outbox_history (
    number     integer primary key,
    seq        integer not null,                            -- which entry
    at_ms      integer not null,
    event      text    not null check (event in ('refused', 'postponed', 'stuck', 'requeued', 'resent', 'discarded')),
    status     integer,                                     -- the server's words, as in the table outbox
    code       text,
    message    text,                                        -- or the operator's reason
    batch_rows integer,                                     -- how many entries travelled together
    request_id text                                         -- the gateway's name for the request, if it gave one
) strict;

create index outbox_history_entry on outbox_history (seq, number);

-- What an entry's payload was before a hand changed it. The first one is what the bot put.
create table outbox_edits (
    number  integer primary key,
    seq     integer not null,                               -- which entry
    at_ms   integer not null,                               -- when it was replaced: Unix time in milliseconds
    payload text    not null,                               -- as it was until then
    digest  text                                            -- of that entry as it was until then
) strict;

create index outbox_edits_entry on outbox_edits (seq, number);

-- What was here and is gone: one row for each UTC day and destination, of entries that were pruned or deleted.
-- v_daily adds what is still here.
create table outbox_daily (
    day         text    not null,                           -- 2026-01-31: when they were settled; removed: when put
    destination text    not null,
    delivered   integer not null default 0,                 -- pruned after they had arrived
    discarded   integer not null default 0,                 -- pruned after they had been given up
    removed     integer not null default 0,                 -- deleted by a hand before they were settled: lost
    slowest_ms  integer not null default 0,                 -- the longest way from put to delivery
    primary key (day, destination)
) strict, without rowid;

-- -------------------------------------------------------------------------------------------------- counting

create trigger outbox_counts_put after insert on outbox
begin
    insert into outbox_counts values (new.destination, new.state, 1, length(cast(new.payload as blob)))
        on conflict do update set entries = entries + 1, bytes = bytes + excluded.bytes;
end;

create trigger outbox_counts_moved after update of state, destination, payload on outbox
    when old.state <> new.state or old.destination <> new.destination or old.payload is not new.payload
begin
    update outbox_counts set entries = entries - 1, bytes = bytes - length(cast(old.payload as blob))
     where destination = old.destination and state = old.state;
    insert into outbox_counts values (new.destination, new.state, 1, length(cast(new.payload as blob)))
        on conflict do update set entries = entries + 1, bytes = bytes + excluded.bytes;
end;

create trigger outbox_counts_gone after delete on outbox
begin
    update outbox_counts set entries = entries - 1, bytes = bytes - length(cast(old.payload as blob))
     where destination = old.destination and state = old.state;
    insert into outbox_counts
        values (old.destination, case when old.state in ('delivered', 'discarded') then 'pruned' else 'removed' end, 1,
                length(cast(old.payload as blob)))
        on conflict do update set entries = entries + 1, bytes = bytes + excluded.bytes;
end;

-- At the delete, not at the settling: a put and a delivery pay nothing, and a shell's delete is counted too. One step
-- of the pruning touches as many rows here as it has days and destinations.
create trigger outbox_daily_gone after delete on outbox
begin
    insert into outbox_daily (day, destination, delivered, discarded, removed, slowest_ms)
    select coalesce(date(iif(settled, old.settled_at_ms, old.created_at_ms) / 1000, 'unixepoch'), 'unknown'),
           old.destination, old.state = 'delivered', old.state = 'discarded', not settled,
           iif(old.state = 'delivered', max(0, coalesce(old.settled_at_ms - old.created_at_ms, 0)), 0)
      from (select old.state in ('delivered', 'discarded') as settled) where true
        on conflict do update set
            delivered = delivered + excluded.delivered, discarded = discarded + excluded.discarded,
            removed = removed + excluded.removed, slowest_ms = max(slowest_ms, excluded.slowest_ms);
end;

-- --------------------------------------------------------------------------------------------- order per key

-- Order per key.  Only the first pending entry of a key is ready; the rest wait for their turn.
-- With strict_order, a row of outbox_meta ('strict_order', '1') so that the triggers see it, a dead entry also holds
-- back everything of its key that comes after it.
create trigger outbox_turn_put after insert on outbox when new.key is not null and new.state = 'pending'
begin
    update outbox set waits = 'turn'
     where seq = new.seq
       and (exists (select 1 from outbox as e where e.state = 'pending' and e.key is not null
                       and e.destination = new.destination and e.key = new.key and e.seq < new.seq)
            or (exists (select 1 from outbox_meta where name = 'strict_order' and value = '1')
                and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                               and d.destination = new.destination and d.key = new.key and d.seq < new.seq)));
end;

-- An entry joins the line late: it got its key, or it was revived.
create trigger outbox_turn_joined after update of key, destination, state on outbox
    when new.key is not null and new.state = 'pending'
         and (old.key is not new.key or old.destination <> new.destination or old.state <> 'pending')
begin
    update outbox set waits = 'turn'
     where state = 'pending' and key is not null and destination = new.destination and key = new.key
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = new.destination and e.key = new.key and e.seq > new.seq
                   order by e.seq limit 1);
    update outbox
       set waits = case when exists (select 1 from outbox as e where e.state = 'pending' and e.key is not null
                                        and e.destination = new.destination and e.key = new.key and e.seq < new.seq)
                          or (exists (select 1 from outbox_meta where name = 'strict_order' and value = '1')
                              and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                                             and d.destination = new.destination and d.key = new.key
                                             and d.seq < new.seq))
                        then 'turn' when waits = 'turn' then null else waits end
     where seq = new.seq;
end;

-- An entry leaves its line for another one: a hand has changed its key or its destination.
create trigger outbox_turn_left after update of key, destination on outbox
    when old.key is not null and old.state in ('pending', 'dead')
         and (old.key is not new.key or old.destination <> new.destination)
begin
    update outbox set waits = null
     where waits = 'turn'
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = old.destination and e.key = old.key order by e.seq limit 1)
       and not (exists (select 1 from outbox_meta where name = 'strict_order' and value = '1')
                and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                               and d.destination = old.destination and d.key = old.key and d.seq < outbox.seq));
    update outbox set waits = null where seq = new.seq and new.key is null and waits = 'turn';
end;

-- An entry leaves its line for good: it was settled, or deleted.
create trigger outbox_turn_settled after update of state on outbox
    when old.key is not null and old.state in ('pending', 'dead') and new.state <> 'pending' and old.state <> new.state
begin
    update outbox set waits = null
     where waits = 'turn'
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = old.destination and e.key = old.key order by e.seq limit 1)
       and not (exists (select 1 from outbox_meta where name = 'strict_order' and value = '1')
                and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                               and d.destination = old.destination and d.key = old.key and d.seq < outbox.seq));
end;

create trigger outbox_turn_gone after delete on outbox when old.key is not null and old.state in ('pending', 'dead')
begin
    update outbox set waits = null
     where waits = 'turn'
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = old.destination and e.key = old.key order by e.seq limit 1)
       and not (exists (select 1 from outbox_meta where name = 'strict_order' and value = '1')
                and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                               and d.destination = old.destination and d.key = old.key and d.seq < outbox.seq));
end;

-- ------------------------------------------------------------------------ bounds of what is kept of an entry

create trigger outbox_history_bound after insert on outbox_history
    when (select count(*) from outbox_history where seq = new.seq) > 20
begin
    delete from outbox_history
     where number = (select number from outbox_history where seq = new.seq order by number limit 1 offset 1);
end;

create trigger outbox_history_gone after delete on outbox
begin
    delete from outbox_history where seq = old.seq;
end;

-- The first one is the bot's own word and stays; of the others the newest 19.
create trigger outbox_edits_bound after insert on outbox_edits
    when (select count(*) from outbox_edits where seq = new.seq) > 20
begin
    delete from outbox_edits
     where number = (select number from outbox_edits where seq = new.seq order by number limit 1 offset 1);
end;

create trigger outbox_edits_gone after delete on outbox
begin
    delete from outbox_edits where seq = old.seq;
end;

-- ------------------------------------------------------------------- the bot's own state; none of it travels

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

-- ----------------------------------------------------------------- views for people, with UTC times and ages

create view v_health as
-- How things stand, in one row: sqlite3 -readonly -line bot.db "select * from v_health". Reads counters.
-- health: stalled (paused, or something pending for more than 5 minutes), dead letters, or healthy.
-- removed: deleted by a hand before they were settled; anything but 0 is a loss.
with recursive
ready (lane) as (
    select min(lane) from outbox where state = 'pending' and waits is null
    union all
    select (select min(lane) from outbox where state = 'pending' and waits is null and lane > ready.lane)
      from ready where ready.lane is not null
),
oldest (seq) as (
    select min(seq) from (
        select (select min(o.seq) from outbox as o
                 where o.state = 'pending' and o.waits is null and o.lane = ready.lane) as seq
          from ready where lane is not null
        union all
        select min(seq) from outbox where state = 'pending' and waits is null and lane is null
        union all
        select min(seq) from outbox where state = 'pending' and waits = 'retry')
),
facts as (
    select (select coalesce(sum(entries), 0) from outbox_counts where state = 'pending') as pending,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'dead') as dead,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'delivered') as delivered,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'discarded') as discarded,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'pruned') as pruned,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'removed') as removed,
           (select created_at_ms from outbox where seq = (select seq from oldest)) as oldest_ms,
           (select max(0, unixepoch() - created_at_ms / 1000) from outbox where seq = (select seq from oldest)) as s,
           (select count(*) from outbox_pauses) as pauses,
           (select created_at_ms from outbox order by seq desc limit 1) as last_put_ms,
           (select settled_at_ms from outbox indexed by outbox_settled where state in ('delivered', 'discarded')
               and state = 'delivered' order by settled_at_ms desc limit 1) as last_delivery_ms
)
select case when pauses > 0 or s > 300 then 'stalled' when dead > 0 then 'dead letters' else 'healthy' end as health,
       pending, dead, delivered, discarded, pruned, removed,
       datetime(oldest_ms / 1000, 'unixepoch') as oldest_pending_utc,
       iif(s is null, null, printf('%d d %02d:%02d:%02d', s / 86400, s % 86400 / 3600, s % 3600 / 60, s % 60))
           as oldest_pending_age,
       pauses,
       (select reason from outbox_pauses order by since_ms limit 1) as paused_because,
       datetime(last_put_ms / 1000, 'unixepoch') as last_put_utc,
       datetime(last_delivery_ms / 1000, 'unixepoch') as last_delivery_utc
  from facts;

create view v_pauses as
-- What is not sent to, why, and when it is tried again. what: everything, a table, or one kind of request to a table.
select case p.scope when 'everything' then 'everything' when 'destination' then p.subject
       else coalesce((select l.destination || ': ' || l.operation || ' of ' || l.columns from outbox_lanes as l
                       where l.lane = cast(p.subject as integer)), p.subject) end as what,
       replace(p.reason, '_', ' ') as why,
       datetime(p.since_ms / 1000, 'unixepoch') as since_utc,
       printf('%d d %02d:%02d:%02d', p.s / 86400, p.s % 86400 / 3600, p.s % 3600 / 60, p.s % 60) as lasts,
       p.failures,
       datetime(p.next_try_at_ms / 1000, 'unixepoch') as next_try_utc,
       trim(coalesce(p.status, '') || ' ' || coalesce(p.code, '') || ' ' || coalesce(p.message, '')) as it_said
  from (select *, max(0, unixepoch() - since_ms / 1000) as s from outbox_pauses) as p order by p.since_ms;

create view v_pending as
-- What is not sent yet, and what each one waits for. Oldest first within each kind of request: first those that may be
-- sent, then those that wait for a time of their own, then those behind another one of their key. Give it a limit: it
-- reads no more than it shows. "order by seq" reads the whole backlog.
select e.seq, e.id, e.destination, e.operation, e.key,
       datetime(e.created_at_ms / 1000, 'unixepoch') as put_utc,
       printf('%d d %02d:%02d:%02d', e.s / 86400, e.s % 86400 / 3600, e.s % 3600 / 60, e.s % 60) as age,
       case when e.waits = 'turn' then 'behind ' || coalesce(
                (select f.id from outbox as f where f.state = 'pending' and f.key is not null
                    and f.destination = e.destination and f.key = e.key and f.seq < e.seq order by f.seq limit 1),
                (select f.id || ' (dead)' from outbox as f where f.state = 'dead' and f.key is not null
                    and f.destination = e.destination and f.key = e.key and f.seq < e.seq order by f.seq limit 1),
                'nobody')
            when e.waits = 'retry' then 'a try at ' || datetime(e.next_attempt_at_ms / 1000, 'unixepoch')
            when e.lane is null then 'a flusher that reads it: a shell put it'
            else coalesce((select 'the end of a pause: ' || replace(p.reason, '_', ' ') from outbox_pauses as p
                            where p.scope = 'everything' or (p.scope = 'destination' and p.subject = e.destination)
                               or (p.scope = 'lane' and p.subject = cast(e.lane as text)) limit 1),
                          'a flusher that sends it') end as waits_for,
       e.attempts as refusals,
       trim(coalesce(e.error_status, '') || ' ' || coalesce(e.error_code, '') || ' ' || coalesce(e.error_message, ''))
           as it_said,
       coalesce(e.payload ->> 'session_id', e.match ->> 'session_id') as session_id,
       e.source, e.payload
  from (select seq from outbox indexed by outbox_ready where state = 'pending' and waits is null
        union all
        select seq from outbox indexed by outbox_retrying where state = 'pending' and waits = 'retry'
        union all
        select seq from outbox indexed by outbox_turns where state = 'pending' and key is not null
           and waits = 'turn') as p
 cross join (select *, max(0, unixepoch() - created_at_ms / 1000) as s from outbox) as e on e.seq = p.seq;

create view v_dead as
-- What the server refused for good, in its own words; by table, the newest first. Nothing here is lost: mend the cause,
-- then `outbox requeue`, mend the entry with `outbox edit`, or give it up with `outbox discard`.
-- overtaken: 1: a later entry of its key was delivered; sent now, it would revert that one.
select seq, id, destination, operation, key,
       datetime(created_at_ms / 1000, 'unixepoch') as put_utc,
       datetime(settled_at_ms / 1000, 'unixepoch') as died_utc,
       printf('%d d %02d:%02d:%02d', s / 86400, s % 86400 / 3600, s % 3600 / 60, s % 60) as dead_for,
       error_status as status, error_code as code, error_message as message, error_details as details,
       error_hint as hint,
       key is not null and exists (select 1 from outbox as l where l.state = 'delivered' and l.key is not null
            and l.destination = d.destination and l.key = d.key and l.seq > d.seq) as overtaken,
       attempts as refusals,
       coalesce(payload ->> 'session_id', match ->> 'session_id') as session_id,
       source, payload
  from (select *, max(0, unixepoch() - settled_at_ms / 1000) as s from outbox indexed by outbox_dead
         where state = 'dead') as d
 where d.state = 'dead' order by d.destination desc, d.seq desc;

create view v_recent as
-- Everything that is here, the newest first. Give it a limit, or an id.
select seq, id, destination, operation, state, key,
       datetime(created_at_ms / 1000, 'unixepoch') as put_utc,
       printf('%d d %02d:%02d:%02d', s / 86400, s % 86400 / 3600, s % 3600 / 60, s % 60) as age,
       datetime(settled_at_ms / 1000, 'unixepoch') as settled_utc,
       trim(coalesce(error_status, '') || ' ' || coalesce(error_code, '') || ' ' || coalesce(error_message, ''))
           as it_said,
       coalesce(payload ->> 'session_id', match ->> 'session_id') as session_id,
       source, payload
  from (select *, max(0, unixepoch() - created_at_ms / 1000) as s from outbox) order by seq desc;

create view v_history as
-- What happened to each entry that had a story: refusals, waits, and hands laid on it. The newest first.
select h.number, datetime(h.at_ms / 1000, 'unixepoch') as at_utc, h.event, o.destination, o.id, o.state,
       trim(coalesce(h.status, '') || ' ' || coalesce(h.code, '') || ' ' || coalesce(h.message, '')) as words,
       h.batch_rows, h.request_id, h.seq
  from outbox_history as h left join outbox as o on o.seq = h.seq order by h.number desc;

create view v_trades as
-- Trades that were put and are still here, the newest first, whatever became of them. Give it a limit.
-- Delivered ones are pruned after the retention (OUTBOX_RETENTION_DAYS): add up profit in the remote table.
select seq, state, datetime(created_at_ms / 1000, 'unixepoch') as put_utc,
       coalesce(payload ->> 'session_id', match ->> 'session_id') as session_id,
       payload ->> 'timestamp' as timestamp, payload ->> 'symbol' as symbol, payload ->> 'action' as action,
       payload ->> 'direction' as direction, payload ->> 'volume' as volume, payload ->> 'entry_price' as entry_price,
       payload ->> 'exit_price' as exit_price, payload ->> 'pnl' as pnl, payload ->> 'pnl_pips' as pnl_pips,
       payload ->> 'is_paper' as is_paper, payload ->> 'comment' as comment, id
  from outbox where destination = 'trades' order by seq desc;

create view v_events as
-- Events that were put and are still here, the newest first. Give it a limit.
select seq, state, datetime(created_at_ms / 1000, 'unixepoch') as put_utc,
       coalesce(payload ->> 'session_id', match ->> 'session_id') as session_id,
       payload ->> 'timestamp' as timestamp, payload ->> 'event_type' as event_type, payload ->> 'data' as data, id
  from outbox where destination = 'events' order by seq desc;

create view v_sessions as
-- Writes of sessions that are still here, the newest first: a session's start, and each change of it. Give it a limit.
-- The session that runs, with its last heartbeat, is a row of outbox_sessions.
select seq, state, datetime(created_at_ms / 1000, 'unixepoch') as put_utc, operation,
       coalesce(payload ->> 'session_id', match ->> 'session_id') as session_id,
       payload ->> 'status' as status, payload ->> 'start_time' as start_time, payload ->> 'end_time' as end_time,
       payload ->> 'end_reason' as end_reason, payload ->> 'initial_balance' as initial_balance,
       payload ->> 'final_balance' as final_balance, payload ->> 'total_trades' as total_trades,
       payload ->> 'total_pnl' as total_pnl, payload ->> 'version' as version, id
  from outbox where destination = 'sessions' order by seq desc;

create view v_daily as
-- What was settled on each UTC day, the newest first: what is still here, and what has been pruned since.
-- Reads everything settled that is still here: a second for a million entries.
-- slowest_s: the longest way from put to delivery. pruned: how many of them are not here any more.
select day, destination, sum(delivered) as delivered, sum(dead) as dead, sum(discarded) as discarded,
       sum(pruned) as pruned, sum(removed) as removed, max(slowest_ms) / 1000.0 as slowest_s
  from (select day, destination, delivered, 0 as dead, discarded, delivered + discarded as pruned, removed, slowest_ms
          from outbox_daily
        union all
        select date(settled_at_ms / 1000, 'unixepoch'), destination, sum(state = 'delivered'), 0,
               sum(state = 'discarded'), 0, 0, max(iif(state = 'delivered', settled_at_ms - created_at_ms, 0))
          from outbox indexed by outbox_settled where state in ('delivered', 'discarded') group by 1, 2
        union all
        select date(settled_at_ms / 1000, 'unixepoch'), destination, 0, count(*), 0, 0, 0, 0
          from outbox indexed by outbox_dead where state = 'dead' group by 1, 2)
 group by day, destination order by day desc, destination;
