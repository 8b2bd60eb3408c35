-- 0002 · a shell may copy entries from another outbox's file.
-- Needs: nothing new.  Rewrites: nothing.  Locks: one short write transaction.

-- Such a row brings along that it waited for its turn there; here it may be the first of its key, whom nobody wakes.
create trigger outbox_turn_copied after insert on outbox when new.waits = 'turn' and new.state = 'pending'
begin
    update outbox set waits = null
     where seq = new.seq
       and not exists (select 1 from outbox as e where e.state = 'pending' and e.key is not null
                          and e.destination = new.destination and e.key = new.key and e.seq < new.seq)
       and not (exists (select 1 from outbox_meta where name = 'strict_order' and value = '1')
                and exists (select 1 from outbox as d where d.state = 'dead' and d.key is not null
                               and d.destination = new.destination and d.key = new.key and d.seq < new.seq));
end;
