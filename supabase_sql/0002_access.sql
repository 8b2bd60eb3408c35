-- Who may do what: the service role may read, insert and update; nobody else has access.
--
-- Needs:   0001_tables.sql; the owner of the tables; CREATEROLE on a PostgreSQL without Supabase's three roles.
-- Applies: as often as you like.
-- Locks:   none if row-level security and the policies are in place; else ACCESS EXCLUSIVE on the tables that lack
--          something, for milliseconds.
-- Revokes: every other privilege on these tables, the service role's DELETE among them. The outbox never deletes a
--          remote row, so that a leaked key cannot delete the trades. A program of yours that reads with the public
--          key, or deletes with the service key, needs a grant of its own after this file.
--
-- Each block is one statement, so it applies as a whole or not at all, however the file is run: a bot that writes
-- meanwhile never meets the state between the revoke and the grant, or a table with row-level security and no policy.

-- Supabase has these roles. A plain PostgreSQL with PostgREST in front of it needs them under the same names, and
-- neither a grant nor a policy can name a role that does not exist.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            execute pg_catalog.format('create role %I nologin noinherit', role_name);
        end if;
    end loop;
end $$;

-- Only the owner calls these; a trigger needs no right to call its function.
revoke all on function public.outbox_lock(text[], text), public.outbox_source() from anon, authenticated, service_role;

do $$
begin
    perform set_config('lock_timeout', '1000', true);
    grant usage on schema public to service_role;
    revoke all on table public.sessions, public.trades, public.events, public.outbox_health
        from public, anon, authenticated, service_role;
    grant select, insert, update on table public.sessions, public.trades, public.events, public.outbox_health
        to service_role;
end $$;

-- Supabase's service_role bypasses row-level security anyway; one that was created above does not, and needs these.
do $$
declare
    lacking text[];
    name text;
begin
    select array_agg(c.relname::text order by c.relname) into lacking from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname in ('sessions', 'trades', 'events', 'outbox_health')
    and not (c.relrowsecurity and exists (
        select from pg_policy where polrelid = c.oid and polname = c.relname || '_service'
    ));
    if lacking is null then
        return;
    end if;
    perform public.outbox_lock(lacking, 'access exclusive');
    foreach name in array lacking loop
        execute format('alter table public.%I enable row level security', name);
        if not exists (
            select from pg_policies where schemaname = 'public' and tablename = name and policyname = name || '_service'
        ) then
            execute format(
                'create policy %I on public.%I for all to service_role using (true) with check (true)',
                name || '_service', name
            );
        end if;
    end loop;
end $$;
