-- The remote tables: sessions, trades, events, and outbox_health.
--
-- Needs:    PostgreSQL 15 or newer; a role that may create tables in schema public (Supabase: postgres).
-- Applies:  to an empty database, to one with older tables of the same names, and to its own result, as often as you
--           like. Existing rows and columns stay; missing columns are added.
-- Rewrites: nothing; PostgreSQL evaluates the default of an added column once and keeps it in the catalogue.
-- Locks:    none if nothing has to change; else ACCESS EXCLUSIVE on the tables that lack something, for milliseconds,
--           taken by public.outbox_lock below.
-- Order:    run 0002_access.sql right after this file. This file already enables row-level security: some projects open
--           new tables to the public key by default, and nobody may read them in between.
--
-- The client makes the id of each row before it first sends the row; that is why sending it twice is harmless. The
-- default is for rows that people insert by hand. gen_random_uuid() is built in since PostgreSQL 13.
--
-- The column `source` says which bot sent a row (OUTBOX_SOURCE). The bot does not put it into the row: it sends the
-- header x-outbox-source with every request, and PostgREST lets SQL read the headers. So a table without the column
-- accepts the same requests, and a row inserted by hand has no source. A token that names a source takes precedence
-- over the header: its signature cannot be forged (optional/least_privilege.sql).

-- No notice from each "if not exists" for what is there already.
set client_min_messages = warning;

-- A table with columns of other types would lose rows silently (version as text: "9" is newer than "10") or refuse
-- every row. This block refuses such a table by name, before anything changes, and lists everything that has to be
-- corrected.
do $$
declare
    wrong text;
begin
    with wanted (name, kind, columns) as (values
        ('uuid', '{uuid}'::text[], '{sessions.id,trades.id,events.id}'::text[]),
        ('text', '{text,varchar}', '{sessions.session_id,sessions.status,sessions.end_reason,sessions.source,
            trades.session_id,trades.trade_id,trades.symbol,trades.action,trades.comment,trades.source,
            events.session_id,events.event_type,events.source,
            outbox_health.source,outbox_health.paused,outbox_health.version,outbox_health.health}'),
        ('timestamptz', '{timestamptz}', '{sessions.start_time,sessions.end_time,sessions.created_at,
            trades.timestamp,trades.created_at,events.timestamp,events.created_at,
            outbox_health.last_success_at,outbox_health.reported_at}'),
        ('float', '{float8,numeric}', '{sessions.initial_balance,sessions.final_balance,sessions.total_pnl,
            trades.volume,trades.entry_price,trades.exit_price,trades.pnl,trades.pnl_pips,trades.commission,
            outbox_health.oldest_pending_s,outbox_health.every_s}'),
        ('int', '{int4,int8}', '{sessions.total_trades,trades.direction,trades.intensity,trades.hmm_state}'),
        ('bigint', '{int8}', '{sessions.version,outbox_health.pending,outbox_health.dead}'),
        ('boolean', '{bool}', '{trades.is_paper,outbox_health.stopped}'),
        ('jsonb', '{jsonb}', '{events.data,sessions.extra,trades.extra}'),
        ('text[]', '{_text,_varchar}', '{sessions.symbols}')
    ), found (place, problem) as (
        select each, format('is %s where %s is needed', format_type(a.atttypid, a.atttypmod), wanted.name)
        from wanted cross join unnest(wanted.columns) as each
        join pg_attribute a on a.attrelid = to_regclass('public.' || split_part(each, '.', 1))
            and a.attname = split_part(each, '.', 2) and not a.attisdropped
        join pg_type t on t.oid = a.atttypid
        where not t.typname = any (wanted.kind)
        union all
        select t.name, format('has no column %s', each.name)
        from (values
            ('sessions', '{id,session_id,start_time}'::text[]),
            ('trades', '{id,session_id,timestamp,symbol}'),
            ('events', '{id,timestamp,event_type}'),
            ('outbox_health', '{source,pending,dead,oldest_pending_s,last_success_at,paused,version,every_s,stopped,
                reported_at}')
        ) as t (name, columns) cross join unnest(t.columns) as each (name)
        where to_regclass('public.' || t.name) is not null and not exists (
            select from pg_attribute a where a.attrelid = to_regclass('public.' || t.name)
            and a.attname = each.name and not a.attisdropped
        )
        union all
        select t.name, format('has no unique constraint on (%s) alone', t.key)
        from (values ('sessions', 'id'), ('sessions', 'session_id'), ('trades', 'id'), ('events', 'id'),
            ('outbox_health', 'source')) as t (name, key)
        where to_regclass('public.' || t.name) is not null and not exists (
            select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            where i.indrelid = to_regclass('public.' || t.name) and a.attname = t.key and i.indisunique
            and i.indisvalid and i.indimmediate and i.indnkeyatts = 1 and i.indpred is null
        )
        union all
        select c.relname, 'is no table' from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind not in ('r', 'p')
        and c.relname in ('sessions', 'trades', 'events', 'outbox_health')
    )
    select string_agg(format('public.%s %s', place, problem), '; ' order by place, problem) into wrong from found;
    if wrong is not null then
        raise exception 'nothing was changed: %. Alter or rename it, then apply again: docs/supabase.md', wrong
            using errcode = 'wrong_object_type';
    end if;
end $$;

-- Takes the locks without making others wait long: it waits at most 1.5 s for the first table, while it holds no lock,
-- and 0.2 s for each further one. If a table is busy, it releases all its locks, so that whoever has queued goes on,
-- and tries again: for 10 s, or outbox.lock_wait_s. The waits for three further tables take 0.6 s, less than
-- deadlock_timeout (1 s), so no other session is ever cancelled for a deadlock with this one. The first wait is longer,
-- because an autovacuum gives up its table only to a session that has waited that long.
create or replace function public.outbox_lock(names text[], mode text) returns void
    language plpgsql
    set search_path = ''
as $$
declare
    wait_s constant float := coalesce(nullif(current_setting('outbox.lock_wait_s', true), '')::float, 10);
    give_up constant timestamptz := clock_timestamp() + make_interval(secs => wait_s);
    name text;
begin
    loop
        begin
            perform set_config('lock_timeout', greatest(1, least(1500, wait_s * 1000)::int)::text, true);
            foreach name in array names loop
                execute format('lock table public.%I in %s mode', name, mode);
                perform set_config('lock_timeout', '200', true);
            end loop;
            return;
        exception when lock_not_available then
            if clock_timestamp() >= give_up then
                raise exception 'public.% was in use for % s; nothing of this was changed', name, wait_s
                    using errcode = 'lock_not_available', hint = 'pg_stat_activity shows who holds it; then try again';
            end if;
            names := array_prepend(name, array_remove(names, name)); -- next time this one first, while no lock is held
        end;
        perform pg_sleep(0.2 + random() * 0.3);
    end loop;
end $$;

-- Reads the header once per statement, before its rows, so that the column's default costs next to nothing per row. (A
-- default that parsed the headers itself took 1.5 s for 50,000 rows with long headers; docs/supabase.md has the
-- figures.)
create or replace function public.outbox_source() returns trigger
    language plpgsql
    set search_path = ''
as $$
begin
    perform set_config(
        'outbox.source',
        coalesce(
            nullif(current_setting('request.jwt.claims', true), '')::json ->> 'source',
            nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source',
            ''
        ),
        true
    );
    return null;
end $$;

-- PostgreSQL lets everyone execute a new function, and Supabase grants that to its three roles, too (0002_access.sql
-- revokes it). A trigger needs no such right.
revoke all on function public.outbox_lock(text[], text), public.outbox_source() from public;

create table if not exists public.sessions (
    id uuid primary key default gen_random_uuid(),
    session_id text unique not null, -- the unique constraint's index serves look-ups; a second index would only cost
    start_time timestamptz not null,
    end_time timestamptz,
    initial_balance float,
    final_balance float,
    total_trades int default 0,
    total_pnl float default 0,
    symbols text[],
    status text default 'RUNNING',
    end_reason text,
    extra jsonb, -- what the bot reported at the end and no column here holds
    created_at timestamptz default now(),
    version bigint not null default 0, -- grows with each put of the session; 0003_keep_newer.sql compares it
    source text default nullif(current_setting('outbox.source', true), '')
);

create table if not exists public.trades (
    id uuid primary key default gen_random_uuid(),
    session_id text not null,
    trade_id text,
    timestamp timestamptz not null,
    symbol text not null,
    direction int,
    intensity int,
    action text,
    volume float,
    entry_price float,
    exit_price float,
    pnl float,
    pnl_pips float,
    commission float default 0,
    hmm_state int,
    is_paper boolean default false,
    comment text,
    extra jsonb, -- what the bot said of the trade and no column here holds
    created_at timestamptz default now(),
    source text default nullif(current_setting('outbox.source', true), '')
);

create table if not exists public.events (
    id uuid primary key default gen_random_uuid(),
    session_id text,
    timestamp timestamptz not null,
    event_type text not null,
    data jsonb, -- a JSON object; 0005_event_objects.sql makes sure of it
    created_at timestamptz default now(),
    source text default nullif(current_setting('outbox.source', true), '')
);

-- One row per bot, overwritten every minute; the view in 0004_health.sql flags the silent ones.
create table if not exists public.outbox_health (
    source text primary key,
    pending bigint not null,
    dead bigint not null,
    oldest_pending_s float, -- how long the oldest pending row has waited, in seconds; null: nothing is pending
    last_success_at timestamptz, -- in this run, by the bot's clock
    paused text, -- why nothing, or not everything, is sent; null: nothing is paused
    version text, -- of the library
    every_s float not null, -- how often the bot reports
    stopped boolean not null default false, -- it stopped cleanly, so its silence is expected
    reported_at timestamptz not null default now() -- by the server's clock
);

-- Columns that tables of an older version may lack. Columns that are "not null" without a default are not among them:
-- every version had them, and existing rows would have no value for them. All in one statement, so that the locks are
-- taken together however the file is run.
do $$
declare
    wanted constant jsonb := '{
        "sessions": [
            "end_time", "initial_balance", "final_balance", "total_trades", "total_pnl", "symbols", "status",
            "end_reason", "extra", "created_at", "version", "source"
        ],
        "trades": [
            "trade_id", "direction", "intensity", "action", "volume", "entry_price", "exit_price", "pnl", "pnl_pips",
            "commission", "hmm_state", "is_paper", "comment", "extra", "created_at", "source"
        ],
        "events": ["session_id", "data", "created_at", "source"],
        "outbox_health": []
    }';
    lacking text[];
begin
    select array_agg(t.name order by t.name) into lacking from jsonb_each(wanted) as t (name, columns)
    cross join to_regclass('public.' || t.name) as c (oid)
    where not (select relrowsecurity from pg_class where pg_class.oid = c.oid)
    or exists (
        select from jsonb_array_elements_text(t.columns) as needed (name) where not exists (
            select from pg_attribute a where a.attrelid = c.oid and a.attname = needed.name and not a.attisdropped
        )
    )
    or t.name <> 'outbox_health' and not (
        exists (select from pg_trigger where tgrelid = c.oid and tgname = 'outbox_source')
        and 2 = (
            select count(*) from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
            where d.adrelid = c.oid and (a.attname, pg_get_expr(d.adbin, d.adrelid)) in (
                ('id', 'gen_random_uuid()'),
                ('source', 'NULLIF(current_setting(''outbox.source''::text, true), ''''::text)')
            )
        )
    );
    if lacking is null then
        return;
    end if;
    perform public.outbox_lock(lacking, 'access exclusive');

    if 'sessions' = any (lacking) then
        alter table public.sessions
            enable row level security,
            alter column id set default gen_random_uuid(), -- was uuid_generate_v4(), which needs an extension
            add column if not exists end_time timestamptz,
            add column if not exists initial_balance float,
            add column if not exists final_balance float,
            add column if not exists total_trades int default 0,
            add column if not exists total_pnl float default 0,
            add column if not exists symbols text[],
            add column if not exists status text default 'RUNNING',
            add column if not exists end_reason text,
            add column if not exists extra jsonb,
            add column if not exists created_at timestamptz default now(),
            add column if not exists version bigint not null default 0,
            add column if not exists source text;
        alter table public.sessions alter column source set default nullif(current_setting('outbox.source', true), '');
        create or replace trigger outbox_source
            before insert on public.sessions for each statement execute function public.outbox_source();
    end if;

    if 'trades' = any (lacking) then
        alter table public.trades
            enable row level security,
            alter column id set default gen_random_uuid(),
            add column if not exists trade_id text,
            add column if not exists direction int,
            add column if not exists intensity int,
            add column if not exists action text,
            add column if not exists volume float,
            add column if not exists entry_price float,
            add column if not exists exit_price float,
            add column if not exists pnl float,
            add column if not exists pnl_pips float,
            add column if not exists commission float default 0,
            add column if not exists hmm_state int,
            add column if not exists is_paper boolean default false,
            add column if not exists comment text,
            add column if not exists extra jsonb,
            add column if not exists created_at timestamptz default now(),
            add column if not exists source text;
        alter table public.trades alter column source set default nullif(current_setting('outbox.source', true), '');
        create or replace trigger outbox_source
            before insert on public.trades for each statement execute function public.outbox_source();
    end if;

    if 'events' = any (lacking) then
        alter table public.events
            enable row level security,
            alter column id set default gen_random_uuid(),
            add column if not exists session_id text,
            add column if not exists data jsonb,
            add column if not exists created_at timestamptz default now(),
            add column if not exists source text;
        alter table public.events alter column source set default nullif(current_setting('outbox.source', true), '');
        create or replace trigger outbox_source
            before insert on public.events for each statement execute function public.outbox_source();
    end if;

    if 'outbox_health' = any (lacking) then
        alter table public.outbox_health enable row level security;
    end if;
end $$;

reset client_min_messages;
