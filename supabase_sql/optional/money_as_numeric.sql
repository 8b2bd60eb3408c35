-- Optional: prices, volumes and money as NUMERIC instead of FLOAT.
--
-- Needs:    0001_tables.sql; the owner of the tables.
-- Applies:  as often as you like; a column that is already NUMERIC is left alone.
-- Rewrites: trades and sessions as a whole, with their indexes; until it ends, the disk holds both copies.
-- Locks:    ACCESS EXCLUSIVE on each table while it is rewritten: nobody can read or write it. Bots keep their rows and
--           send them afterwards. docs/supabase.md says how long a million rows take.
--
-- A sum of NUMERIC is exact, and a Decimal that a bot puts arrives with all of its digits. Each old value becomes the
-- shortest decimal that is the same float: 0.1 is 0.1, and 0.30000000000000004 keeps its 17 digits. A plain cast would
-- round it to 15. (-0 becomes 0: NUMERIC has no -0.) To go back: `alter column pnl type float`.

do $$
declare
    changes record;
    again text;
begin
    -- From 1 on a float's text is the shortest that reads back as the same float; below 1 it is rounded.
    perform pg_catalog.set_config('extra_float_digits', '1', true);
    for changes in
        -- All columns of a table in one statement: one rewrite.
        select table_name, string_agg(
            pg_catalog.format('alter column %1$I type numeric using (%1$I::text)::numeric', column_name), ', '
        ) as actions, array_agg(column_name::name) as columns
        from information_schema.columns
        where table_schema = 'public' and data_type = 'double precision' and (
            table_name = 'trades'
            and column_name in ('volume', 'entry_price', 'exit_price', 'pnl', 'pnl_pips', 'commission')
            or table_name = 'sessions' and column_name in ('initial_balance', 'final_balance', 'total_pnl')
        )
        group by table_name
    loop
        perform public.outbox_lock(array[changes.table_name], 'access exclusive');
        -- PostgreSQL changes no column that one of these uses; its error names only one of them, in its second line.
        select string_agg(distinct pg_describe_object(d.classid, d.objid, d.objsubid), ', ') into again
        from pg_depend d left join pg_attrdef e on d.classid = 'pg_attrdef'::regclass and e.oid = d.objid
        where d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass('public.' || changes.table_name)
        and d.refobjsubid in (
            select attnum from pg_attribute
            where attrelid = d.refobjid and attname = any (changes.columns)
        )
        and (
            d.classid in (
                'pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,
                'pg_publication_rel'::regclass
            )
            or e.adnum <> d.refobjsubid
        )
        -- A column of another table that holds whole rows of this one.
        or d.classid = 'pg_class'::regclass and d.objsubid > 0 and d.refclassid = 'pg_type'::regclass and d.refobjid in (
            select unnest(array[oid, typarray]) from pg_type
            where typrelid = to_regclass('public.' || changes.table_name)
        );
        if again is not null then
            raise exception 'nothing was changed: % uses a column of public.%; drop it, and make it again afterwards',
                again, changes.table_name using errcode = 'dependent_objects_still_exist';
        end if;
        execute pg_catalog.format('alter table public.%I %s', changes.table_name, changes.actions);
    end loop;
end $$;

notify pgrst, 'reload schema';
