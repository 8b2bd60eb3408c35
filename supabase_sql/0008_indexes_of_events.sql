-- Indexes for reading events. docs/supabase.md says what each one is for, and what it saves.
--
-- Needs:   0001_tables.sql; the owner of the tables.
-- Applies: as often as you like; an existing index is left alone.
-- Locks:   none if they exist; else SHARE on events while they are built: reads go on, bots send afterwards.

set statement_timeout = 0; -- the project's limit (Supabase: 2 minutes) would cancel the building of a large index

do $$
begin
    if (
        select count(*) from pg_class where relnamespace = 'public'::regnamespace
        and relname in ('idx_events_session', 'idx_events_type', 'idx_events_timestamp')
    ) = 3 then
        return;
    end if;
    perform public.outbox_lock('{events}', 'share');
    perform set_config('client_min_messages', 'warning', true); -- no notice for an index that exists
    create index if not exists idx_events_session on public.events (session_id);
    create index if not exists idx_events_type on public.events (event_type);
    create index if not exists idx_events_timestamp on public.events (timestamp);
end $$;

reset statement_timeout;
