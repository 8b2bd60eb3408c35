-- Indexes for reading trades. docs/supabase.md says what each one is for, and what it saves.
--
-- Needs:   0001_tables.sql; the owner of the tables.
-- Applies: as often as you like; an existing index is left alone.
-- Locks:   none if they exist; else SHARE on trades while they are built: reads go on, bots send afterwards.

set statement_timeout = 0; -- the project's limit (Supabase: 2 minutes) would cancel the building of a large index

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
    perform set_config('client_min_messages', 'warning', true); -- no notice for an index that exists
    create index if not exists idx_trades_session on public.trades (session_id);
    create index if not exists idx_trades_timestamp on public.trades (timestamp);
    -- A symbol's newest trades, without reading all trades of the symbol or the newest of all symbols.
    create index if not exists idx_trades_symbol_timestamp on public.trades (symbol, timestamp);
    -- Paper trades are half of the rows on a test machine and none elsewhere: an index on the flag alone is never
    -- chosen.
    create index if not exists idx_trades_paper_timestamp on public.trades (timestamp) where is_paper;
end $$;

reset statement_timeout;
