-- 0005 · what was away and when, and the lives of the process that writes.
-- Needs: 0001, 0004.  Rewrites: nothing.  Locks: one short write transaction.

-- Pauses that stand or have ended, the newest 1,000. ended_ms, backlog: null while it stands.
create table outbox_pause_history (
    number   integer primary key,
    scope    text    not null,
    subject  text    not null,
    reason   text    not null,
    status   integer,
    code     text,
    message  text,
    failures integer not null,
    since_ms integer not null,
    ended_ms integer,
    refused  integer not null default 0,                    -- entries refused for good meanwhile, of whatever table
    backlog  integer                                        -- entries that were pending when it ended
) strict;
create index outbox_pause_standing on outbox_pause_history (scope, subject) where ended_ms is null;

insert into outbox_pause_history (scope, subject, reason, status, code, message, failures, since_ms)
select scope, subject, reason, status, code, message, failures, since_ms from outbox_pauses;

create trigger outbox_pause_begun after insert on outbox_pauses
begin
    insert into outbox_pause_history (scope, subject, reason, status, code, message, failures, since_ms)
    values (new.scope, new.subject, new.reason, new.status, new.code, new.message, new.failures, new.since_ms);
    delete from outbox_pause_history where number <= (select max(number) from outbox_pause_history) - 1000;
end;

create trigger outbox_pause_goes_on after update on outbox_pauses
begin
    update outbox_pause_history
       set reason = new.reason, status = new.status, code = new.code, message = new.message, failures = new.failures,
           since_ms = new.since_ms
     where scope = new.scope and subject = new.subject and ended_ms is null;
end;

-- Whoever ends one by its own clock has written ended_ms before.
create trigger outbox_pause_over after delete on outbox_pauses
begin
    update outbox_pause_history
       set ended_ms = max(since_ms, cast((julianday('now') - 2440587.5) * 86400000 as integer))
     where scope = old.scope and subject = old.subject and ended_ms is null;
end;

create trigger outbox_pause_ended after update of ended_ms on outbox_pause_history when new.ended_ms is not null
begin
    update outbox_pause_history
       set backlog = (select coalesce(sum(entries), 0) from outbox_counts where state = 'pending')
     where number = new.number;
end;

create trigger outbox_refused_meanwhile after insert on outbox_history when new.event = 'refused'
begin
    update outbox_pause_history set refused = refused + 1 where ended_ms is null;
end;

-- Who had the file open for writing, and when: the newest 1,000.
create table outbox_lives (
    number    integer primary key,
    pid       integer,
    program   text,
    opened_ms integer not null,
    sends_ms  integer,                                      -- since when it sent; null: it did not
    closed_ms integer                                       -- null: it has it open, was killed, or the machine stopped
) strict;

create trigger outbox_life_begun after insert on outbox_meta when new.name = 'open'
begin
    insert into outbox_lives (pid, program, opened_ms)
    select m.value ->> 'pid', m.value ->> 'program', m.value ->> 'at_ms'
      from (select iif(json_valid(new.value), new.value, '{}') as value) as m
     where m.value ->> 'at_ms' is not null
       and not exists (select 1 from outbox_lives where number = (select max(number) from outbox_lives)
                          and closed_ms is null and opened_ms = m.value ->> 'at_ms');
    delete from outbox_lives where number <= (select max(number) from outbox_lives) - 1000;
end;

-- The flag of one that was killed is there still, and is written over; each one is written twice.
create trigger outbox_life_begun_after_a_kill after update on outbox_meta when new.name = 'open'
begin
    insert into outbox_lives (pid, program, opened_ms)
    select m.value ->> 'pid', m.value ->> 'program', m.value ->> 'at_ms'
      from (select iif(json_valid(new.value), new.value, '{}') as value) as m
     where m.value ->> 'at_ms' is not null
       and not exists (select 1 from outbox_lives where number = (select max(number) from outbox_lives)
                          and closed_ms is null and opened_ms = m.value ->> 'at_ms');
    delete from outbox_lives where number <= (select max(number) from outbox_lives) - 1000;
end;

create trigger outbox_life_ended after delete on outbox_meta when old.name = 'open'
begin
    update outbox_lives set closed_ms = max(opened_ms, cast((julianday('now') - 2440587.5) * 86400000 as integer))
     where number = (select max(number) from outbox_lives) and closed_ms is null;
end;

create view v_outages as
-- What was not sent to, from when to when, why, and what was refused meanwhile. The newest first.
-- what: everything, a table, or one kind of request to a table.
select case p.scope when 'everything' then 'everything' when 'destination' then p.subject
       else coalesce((select l.destination || ': ' || l.operation
                             || iif(l.operation = 'upsert', ' on (' || replace(l.on_conflict, ',', ', ') || ')', '')
                             || ' of ' || l.columns from outbox_lanes as l
                       where l.lane = cast(p.subject as integer)), p.subject) end as what,
       replace(p.reason, '_', ' ') as why,
       datetime(p.since_ms / 1000, 'unixepoch') as since_utc,
       datetime(p.ended_ms / 1000, 'unixepoch') as until_utc,
       printf('%d d %02d:%02d:%02d', p.s / 86400, p.s % 86400 / 3600, p.s % 3600 / 60, p.s % 60) as lasted,
       p.failures, p.refused, p.backlog,
       trim(coalesce(p.status, '') || ' ' || coalesce(p.code, '') || ' ' || coalesce(p.message, '')) as it_said
  from (select *, max(0, coalesce(ended_ms / 1000, unixepoch()) - since_ms / 1000) as s
          from outbox_pause_history) as p
 order by p.number desc;

create view v_lives as
-- Who had the file open for writing, the newest first. ended: closed; killed, or the machine stopped; or, of the
-- newest one, perhaps open still.
select number, program, pid, datetime(opened_ms / 1000, 'unixepoch') as opened_utc,
       datetime(sends_ms / 1000, 'unixepoch') as sends_since_utc,
       datetime(closed_ms / 1000, 'unixepoch') as closed_utc,
       case when closed_ms is not null then 'closed'
            when number = (select max(number) from outbox_lives) then 'open, or killed'
            else 'killed, or the machine stopped' end as ended
  from outbox_lives order by number desc;
