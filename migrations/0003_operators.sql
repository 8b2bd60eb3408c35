-- 0003 · what happened to an entry, and what an operator did about it.
-- Needs: 0001.  Rewrites: nothing (the new column is null everywhere).  Locks: one short write transaction, and the
-- time to read the dead and delivered entries that have an ordering key, for the two new indexes.

alter table outbox add column refused_since_ms integer;     -- when the server first refused this very row

-- The story of an entry: each answer that was its own, and each hand that was laid on it.  Outages are not here: they
-- are rows of outbox_pauses and touch no entry.  At most 20 rows an entry: the first one and the newest.
create table outbox_history (
    number     integer primary key,
    seq        integer not null,                            -- which entry
    at_ms      integer not null,
    event      text    not null check (event in ('refused', 'postponed', 'stuck', 'requeued', 'discarded')),
    status     integer,                                     -- the server's words, as in the table outbox
    code       text,
    message    text,                                        -- or the operator's reason
    batch_rows integer,                                     -- how many entries travelled together
    request_id text                                         -- the gateway's name for the request, if it gave one
) strict;

create index outbox_history_entry on outbox_history (seq, number);

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

-- To be revived safely, a dead entry must be older than everything of its key that was delivered.
create index outbox_dead_keys on outbox (destination, key, seq) where state = 'dead' and key is not null;
create index outbox_delivered_keys on outbox (destination, key, seq) where state = 'delivered' and key is not null;

-- strict_order: a dead entry holds back everything of its key that comes after it.  The setting is a row of
-- outbox_meta ('strict_order', '1'), so that the triggers see it.
drop trigger outbox_turn_put;
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

drop trigger outbox_turn_joined;
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

drop trigger outbox_turn_left;
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

drop trigger outbox_turn_settled;
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

drop trigger outbox_turn_gone;
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
