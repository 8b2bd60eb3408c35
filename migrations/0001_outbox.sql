-- 0001 · the outbox itself.
-- Needs: SQLite 3.38 or newer (STRICT, RETURNING, ->>).  Rewrites: nothing.  Locks: one short write transaction.
-- Every table is named outbox…, so that it can live beside a bot's own tables.

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

-- Order per key.  Only the first pending entry of a key is ready; the rest wait for their turn.
create trigger outbox_turn_put after insert on outbox when new.key is not null and new.state = 'pending'
begin
    update outbox set waits = 'turn'
     where seq = new.seq
       and exists (select 1 from outbox as e where e.state = 'pending' and e.key is not null
                      and e.destination = new.destination and e.key = new.key and e.seq < new.seq);
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
                        then 'turn' when waits = 'turn' then null else waits end
     where seq = new.seq;
end;

-- An entry leaves its line for another one: a hand has changed its key or its destination.
create trigger outbox_turn_left after update of key, destination on outbox
    when old.key is not null and old.state = 'pending'
         and (old.key is not new.key or old.destination <> new.destination)
begin
    update outbox set waits = null
     where waits = 'turn'
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = old.destination and e.key = old.key order by e.seq limit 1);
    update outbox set waits = null where seq = new.seq and new.key is null and waits = 'turn';
end;

create trigger outbox_turn_settled after update of state on outbox
    when old.key is not null and old.state = 'pending' and new.state <> 'pending'
begin
    update outbox set waits = null
     where waits = 'turn'
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = old.destination and e.key = old.key order by e.seq limit 1);
end;

create trigger outbox_turn_gone after delete on outbox when old.key is not null and old.state = 'pending'
begin
    update outbox set waits = null
     where waits = 'turn'
       and seq = (select e.seq from outbox as e where e.state = 'pending' and e.key is not null
                     and e.destination = old.destination and e.key = old.key order by e.seq limit 1);
end;
