-- Optional: a role that may do what the outbox's own requests need, for the rows of one bot, and nothing else.
--
-- Needs:   the files of supabase_sql/; the owner of the tables, and CREATEROLE.
-- Applies: again and again.
-- Locks:   none where the policies are as wanted; else ACCESS EXCLUSIVE on the four tables for milliseconds.
--
-- A secret key is service_role: it passes row-level security and reaches every table of the project. A bot whose
-- machine you trust less gets a token of this role instead: put a JWT with the claims "role": "outbox_bot" and
-- "source": "the bot's OUTBOX_SOURCE", signed with the project's JWT secret, into OUTBOX_ACCESS_TOKEN, and the
-- publishable key into SUPABASE_KEY. docs/supabase.md shows both. Of the rows whose `source` is the token's, the role
--   trades, events    inserts and reads: rows that have arrived can be neither changed nor deleted
--   sessions          inserts, updates (the upserts of SessionManager) and reads
--   outbox_health     inserts, updates and reads
--   anything else     nothing
-- A row gets its `source` from the token, whatever the header says. A token without the claim may do nothing. A version
-- of a session is below 2^62: a greater one would leave no room for the next put.
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
    -- A query of its own: worked out once a statement, not for each row. The inner one is how Supabase's linter knows.
    claim constant text :=
        $e$source = (select nullif((select current_setting('request.jwt.claims', true)), '')::json ->> 'source')$e$;
    tables constant text[] := '{sessions,trades,events,outbox_health}';
    name text;
begin
    perform set_config('lock_timeout', '1000', true);
    grant usage on schema public to outbox_bot;
    revoke all on table public.sessions, public.trades, public.events, public.outbox_health, public.outbox_fleet
        from outbox_bot;
    grant select, insert on table public.trades, public.events to outbox_bot;
    grant select, insert, update on table public.sessions, public.outbox_health to outbox_bot;

    if 4 = (
        select count(*) from pg_policies p where p.schemaname = 'public' and p.tablename = any (tables)
        and p.policyname = p.tablename || '_bot' and p.with_check like '%request.jwt.claims%'
    ) and not exists (
        select from pg_policies p where p.schemaname = 'public' and p.tablename = any (tables)
        and p.policyname = p.tablename || '_service' and 'outbox_bot' = any (p.roles)
    ) then
        return;
    end if;
    perform public.outbox_lock(tables, 'access exclusive');
    perform set_config('client_min_messages', 'warning', true); -- "if exists" would say so
    foreach name in array tables loop
        -- An earlier version of this file let the role into the policy of service_role, which knows no bots.
        execute format('alter policy %I on public.%I to service_role', name || '_service', name);
        execute format('drop policy if exists %I on public.%I', name || '_bot', name);
        execute format(
            'create policy %I on public.%I for all to outbox_bot using (%s) with check (%s%s)',
            name || '_bot', name, claim, claim, case name when 'sessions' then ' and version < 4611686018427387904' end
        );
    end loop;
end $$;
