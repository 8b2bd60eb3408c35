-- What the reads of trades go by. docs/supabase.md says what each index is for, and what it saves.
--
-- Needs:   0001_tables.sql; the owner of the tables.
-- Applies: again and again; an index that is there is left alone.
-- Locks:   none if they are there; else SHARE on trades while they are built: reads go on, bots send afterwards.

set statement_timeout = 0; -- a project's own limit (Supabase: 2 minutes) would end the building of a large one

do $$
begin
    if (
        select count(*) from pg_class where relnamespace = 'public'::regnamespace and relname in (
            'idx_trades_session', 'idx_trades_timestamp', 'idx_trades_symbol_timestamp', 'idx_trades_paper_timestamp'
        )
    ) = 4 then
        return;
    end if;
    perform public.outbox_lock('{trades}', 'share');
    perform set_config('client_min_messages', 'warning', true); -- "if not exists" would say so
    create index if not exists idx_trades_session on public.trades (session_id);
    create index if not exists idx_trades_timestamp on public.trades (timestamp);
    -- A symbol's newest trades without reading all of that symbol, or all of the newest.
    create index if not exists idx_trades_symbol_timestamp on public.trades (symbol, timestamp);
    -- Half of the rows on a trial machine and none elsewhere: an index on the flag alone is never chosen.
    create index if not exists idx_trades_paper_timestamp on public.trades (timestamp) where is_paper;
end $$;

reset statement_timeout;
