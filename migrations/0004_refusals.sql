-- 0004 · what the flusher remembers of refusals.
-- Needs: 0001.  Rewrites: nothing.  Locks: one short write transaction.

-- What was refused before and may be sent again, lane by lane: it travels apart from what was not.
create index outbox_again on outbox (lane, seq) where state = 'pending' and waits is null and attempts > 0;

-- Entries that the server refused one after another with one cause, and accepted none of their lane between: the table
-- is at fault, not they. They are pending again as soon as it accepts one.
create table outbox_refused_runs (
    seq   integer primary key,
    lane  integer not null,
    cause text    not null                                  -- what all of them have in common, in the server's words
) strict;
create index outbox_refused_runs_lane on outbox_refused_runs (lane);

drop view v_pauses;
create view v_pauses as
-- What is not sent to, why, and when it is tried again. what: everything, a table, or one kind of request to a table.
select case p.scope when 'everything' then 'everything' when 'destination' then p.subject
       else coalesce((select l.destination || ': ' || l.operation
                             || iif(l.operation = 'upsert', ' on (' || replace(l.on_conflict, ',', ', ') || ')', '')
                             || ' of ' || l.columns from outbox_lanes as l
                       where l.lane = cast(p.subject as integer)), p.subject) end as what,
       replace(p.reason, '_', ' ') as why,
       datetime(p.since_ms / 1000, 'unixepoch') as since_utc,
       printf('%d d %02d:%02d:%02d', p.s / 86400, p.s % 86400 / 3600, p.s % 3600 / 60, p.s % 60) as lasts,
       p.failures,
       datetime(p.next_try_at_ms / 1000, 'unixepoch') as next_try_utc,
       trim(coalesce(p.status, '') || ' ' || coalesce(p.code, '') || ' ' || coalesce(p.message, '')) as it_said
  from (select *, max(0, unixepoch() - since_ms / 1000) as s from outbox_pauses) as p order by p.since_ms;
