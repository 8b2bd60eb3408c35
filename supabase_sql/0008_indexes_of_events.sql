-- What the reads of events go by. docs/supabase.md says what each index is for, and what it saves.
--
-- Needs:   0001_tables.sql; the owner of the tables.
-- Applies: again and again; an index that is there is left alone.
-- Locks:   none if they are there; else SHARE on events while they are built: reads go on, bots send afterwards.

set statement_timeout = 0; -- a project's own limit (Supabase: 2 minutes) would end the building of a large one

do $$
begin
    if (
        select count(*) from pg_class where relnamespace = 'public'::regnamespace
        and relname in ('idx_events_session', 'idx_events_type', 'idx_events_timestamp')
    ) = 3 then
        return;
    end if;
    perform public.outbox_lock('{events}', 'share');
    perform set_config('client_min_messages', 'warning', true); -- "if not exists" would say so
    create index if not exists idx_events_session on public.events (session_id);
    create index if not exists idx_events_type on public.events (event_type);
    create index if not exists idx_events_timestamp on public.events (timestamp);
end $$;

reset statement_timeout;
