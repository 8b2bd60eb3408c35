-- Drops indexes of older tables that others have replaced: they only cost.
--
-- Needs:   0007_indexes_of_trades.sql, which builds what replaces them; the owner of the tables.
-- Applies: as often as you like.
-- Locks:   none if they are gone; else ACCESS EXCLUSIVE on sessions and trades for milliseconds. It is a file of its
--          own because in one transaction with 0007 it would block readers while the indexes are built.
--
-- idx_trades_symbol (symbol)              is a prefix of idx_trades_symbol_timestamp
-- idx_trades_is_paper (is_paper)          was never used; idx_trades_paper_timestamp is
-- idx_sessions_session_id (session_id)    duplicates the index of the unique constraint
-- An index of your own with such a name but other columns stays.

do $$
declare
    old text[];
begin
    select array_agg(i.indexrelid::regclass::text) into old
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
    where c.relnamespace = 'public'::regnamespace and i.indpred is null and not i.indisunique
    and (c.relname, t.relname, regexp_replace(pg_get_indexdef(c.oid), '^.* USING ', '')) in (
        ('idx_trades_symbol', 'trades', 'btree (symbol)'),
        ('idx_trades_is_paper', 'trades', 'btree (is_paper)'),
        ('idx_sessions_session_id', 'sessions', 'btree (session_id)')
    );
    if old is null then
        return;
    end if;
    perform public.outbox_lock('{sessions,trades}', 'access exclusive');
    execute 'drop index ' || array_to_string(old, ', ');
end $$;
