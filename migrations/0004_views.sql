-- 0004 · for people: views with UTC times and ages, what an edit replaced, and one row a day of what was pruned.
-- Needs: SQLite 3.38 or newer (unixepoch, ->>).  Rewrites: nothing.  Locks: one short write transaction.
-- The views cost a put nothing. Those named here stand beside a bot's own: their names begin with v_.
--   sqlite3 -readonly bot.db "select * from v_health"
-- docs/forensics.md asks twenty questions of them.

create table outbox_edits (
    -- What an entry's payload was before a hand changed it. The first one is what the bot put.
    number  integer primary key,
    seq     integer not null,                               -- which entry
    at_ms   integer not null,                               -- when it was replaced: Unix time in milliseconds
    payload text    not null,                               -- as it was until then
    digest  text                                            -- of that entry as it was until then
) strict;

create index outbox_edits_entry on outbox_edits (seq, number);

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

create table outbox_daily (
    -- What was here and is gone: one row for each UTC day and destination, of entries that were pruned or deleted.
    -- v_daily adds what is still here.
    day         text    not null,                           -- 2026-01-31: when they were settled; removed: when put
    destination text    not null,
    delivered   integer not null default 0,                 -- pruned after they had arrived
    discarded   integer not null default 0,                 -- pruned after they had been given up
    removed     integer not null default 0,                 -- deleted by a hand before they were settled: lost
    slowest_ms  integer not null default 0,                 -- the longest way from put to delivery
    primary key (day, destination)
) strict, without rowid;

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
