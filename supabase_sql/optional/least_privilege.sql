-- Optional: a role that may do what the outbox's own requests need, for the rows of one bot, and nothing else.
--
-- Needs:   the files of supabase_sql/; the owner of the tables, and CREATEROLE.
-- Applies: as often as you like.
-- Locks:   none if the policies are in place; else ACCESS EXCLUSIVE on the four tables for milliseconds.
--
-- A secret key is service_role: it bypasses row-level security and reaches every table of the project. Give a bot on a
-- machine that you trust less a token of this role instead: put a JWT with the claims "role": "outbox_bot" and
-- "source": "the bot's OUTBOX_SOURCE", signed with the project's JWT secret, into OUTBOX_ACCESS_TOKEN, and the
-- publishable key into SUPABASE_KEY. docs/supabase.md shows both. On the rows whose `source` is that of the token, the
-- role may do this:
--   trades, events    insert and read: rows that have arrived can be neither changed nor deleted
--   sessions          insert, update (the upserts of SessionManager) and read
--   outbox_health     insert, update and read
--   anything else     nothing
-- A row gets its `source` from the token, whatever the header says. A token without the claim may do nothing. A
-- session's version must be below 2^62: a greater one would leave no room for the next put.
-- For a table of your own: grant insert and select (with upserts also update) on it, and give it a policy.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'outbox_bot') then
        create role outbox_bot nologin noinherit;
    end if;
    -- PostgREST connects as this role and switches to the one that the token names. Supabase has it.
    if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
        grant outbox_bot to authenticator;
    end if;
end $$;

do $$
declare
    -- A subquery: evaluated once per statement, not per row. Supabase's linter recognises it by the inner one.
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
    perform set_config('client_min_messages', 'warning', true); -- no notice from "if exists"
    foreach name in array tables loop
        -- An earlier version of this file added the role to service_role's policy, which does not tell bots apart.
        execute format('alter policy %I on public.%I to service_role', name || '_service', name);
        execute format('drop policy if exists %I on public.%I', name || '_bot', name);
        execute format(
            'create policy %I on public.%I for all to outbox_bot using (%s) with check (%s%s)',
            name || '_bot', name, claim, claim, case name when 'sessions' then ' and version < 4611686018427387904' end
        );
    end loop;
end $$;
