-- Optional: a role that may do what the outbox's own requests need, and nothing else.
--
-- Needs:   the files of supabase_sql/; the owner of the tables, and CREATEROLE.
-- Applies: again and again; after partitions.sql once more, which makes the policies of its tables anew.
-- Locks:   ACCESS EXCLUSIVE on each table for milliseconds.
--
-- A secret key is service_role: it passes row-level security and reaches every table of the project. A bot whose
-- machine you trust less gets a token of this role instead: put a JWT with the claim "role": "outbox_bot", signed with
-- the project's JWT secret, into OUTBOX_ACCESS_TOKEN, and the publishable key into SUPABASE_KEY. docs/supabase.md shows
-- both. The role
--   trades, events    inserts and reads: rows that have arrived can be neither changed nor deleted
--   sessions          inserts, updates (the upserts of SessionManager) and reads
--   outbox_health     inserts, updates and reads
--   anything else     nothing
-- For a table of your own: grant insert and select (with upserts also update) on it, and give it a policy.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'outbox_bot') then
        create role outbox_bot nologin noinherit;
    end if;
    -- PostgREST signs in as this role and takes on the one that a token names. Supabase has it.
    if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
        grant outbox_bot to authenticator;
    end if;
end $$;

do $$
declare
    name text;
begin
    grant usage on schema public to outbox_bot;
    revoke all on table public.sessions, public.trades, public.events, public.outbox_health, public.outbox_fleet
        from outbox_bot;
    grant select, insert on table public.trades, public.events to outbox_bot;
    grant select, insert, update on table public.sessions, public.outbox_health to outbox_bot;
    -- Into the policy that is there: still one for each table.
    foreach name in array array['sessions', 'trades', 'events', 'outbox_health'] loop
        execute pg_catalog.format(
            'alter policy %I on public.%I to service_role, outbox_bot', name || '_service', name
        );
    end loop;
end $$;
