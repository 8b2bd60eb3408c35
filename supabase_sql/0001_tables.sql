-- The remote tables: sessions, trades, events, and outbox_health.
--
-- Needs:    PostgreSQL 15 or newer; a role that may create tables in schema public (Supabase: postgres).
-- Applies:  to an empty database, to one with the older tables of the same names, and to its own result, as
--           often as you like. Rows and columns that are there stay; columns that are missing are added.
-- Rewrites: nothing; the default of an added column is worked out once, and PostgreSQL keeps it in the catalogue.
-- Locks:    ACCESS EXCLUSIVE on each table for milliseconds; an index that has to be built on old rows blocks
--           writes until it stands.
-- Order:    run 0002_access.sql straight after it. Row-level security is switched on here already, so that on a
--           project whose new tables are open to the public key by default nobody reads them in between.
--
-- Every row's id is made by the client before the first sending; that is what makes a second sending harmless. The
-- default serves rows that people write by hand. gen_random_uuid() is in the core since PostgreSQL 13.
--
-- The column `source` says which bot sent a row (OUTBOX_SOURCE). The bot never names it in a row: it sends the header
-- x-outbox-source with every request, PostgREST shows the headers to SQL, and the column's default reads it there. So
-- a table without the column takes the same requests, and a row written by hand has no source.

-- On a database that has it all, each "if not exists" would say so.
set client_min_messages = warning;

create table if not exists public.sessions (
    id uuid primary key default gen_random_uuid(),
    session_id text unique not null, -- the unique constraint's index serves look-ups; a second one would only cost
    start_time timestamptz not null,
    end_time timestamptz,
    initial_balance float,
    final_balance float,
    total_trades int default 0,
    total_pnl float default 0,
    symbols text[],
    status text default 'RUNNING',
    end_reason text,
    extra jsonb, -- what the bot said at the end beyond these columns
    created_at timestamptz default now(),
    version bigint not null default 0, -- grows with each put of the session; 0003_keep_newer.sql compares it
    source text default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source')
);
alter table public.sessions enable row level security;

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
    extra jsonb, -- what the bot said of the trade beyond these columns
    created_at timestamptz default now(),
    source text default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source')
);
alter table public.trades enable row level security;

create table if not exists public.events (
    id uuid primary key default gen_random_uuid(),
    session_id text,
    timestamp timestamptz not null,
    event_type text not null,
    data jsonb, -- a JSON object, held so by 0005_event_objects.sql
    created_at timestamptz default now(),
    source text default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source')
);
alter table public.events enable row level security;

-- One row for each bot, written over every minute; 0004_health.sql has the view that flags the silent ones.
create table if not exists public.outbox_health (
    source text primary key,
    pending bigint not null,
    dead bigint not null,
    oldest_pending_s float, -- how long the oldest pending row has waited, in seconds; null: nothing is pending
    last_success_at timestamptz, -- of this run, by the bot's clock
    paused text, -- why nothing is sent, or only a part; null: nothing is paused
    version text, -- of the library
    every_s float not null, -- how often the bot reports
    stopped boolean not null default false, -- it ended in good order: silence is no news
    reported_at timestamptz not null default now() -- by the server's clock
);
alter table public.outbox_health enable row level security;

-- Tables that were there before: what an older version of them may lack. The columns that are "not null" without a
-- default are not among these: every version had them, and old rows would have no value for them.
alter table public.sessions
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
    add column if not exists source text
        default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source');

alter table public.trades
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
    add column if not exists source text
        default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source');

alter table public.events
    alter column id set default gen_random_uuid(),
    add column if not exists session_id text,
    add column if not exists data jsonb,
    add column if not exists created_at timestamptz default now(),
    add column if not exists source text
        default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source');

create index if not exists idx_trades_session on public.trades (session_id);
create index if not exists idx_trades_symbol on public.trades (symbol);
create index if not exists idx_trades_is_paper on public.trades (is_paper);
create index if not exists idx_trades_timestamp on public.trades (timestamp);
create index if not exists idx_events_session on public.events (session_id);
create index if not exists idx_events_type on public.events (event_type);

-- The older tables had this one beside the unique constraint's own index on the same column: paid for, never needed.
drop index if exists public.idx_sessions_session_id;

reset client_min_messages;
