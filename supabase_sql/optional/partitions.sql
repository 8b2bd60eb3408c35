-- Optional: trades and events in partitions of one month.
--
-- Needs:    the files of supabase_sql/; the owner of the tables.
-- Applies:  as often as you like; a table that is already partitioned only gets the months that it lacks.
-- Rewrites: trades and events as a whole. The old tables stay, as outbox_partitions.trades_before and .events_before,
--           until you drop them.
-- Locks:    ACCESS EXCLUSIVE on a table while its rows are copied: nobody can read or write it. Bots keep their rows
--           and send them afterwards. docs/supabase.md says how long a million rows take.
--
-- Why by id and not by time: a row must arrive once even if it is sent twice, and that rests on `id` alone being
-- unique. PostgreSQL keeps a key unique across partitions only if it contains the partition key; with primary key (id,
-- timestamp) the same id with another timestamp would be a second row. The ids that the outbox makes are UUIDv7: their
-- first 48 bits are the time of the put in milliseconds. So a range of ids is a range of time, and the requests stay
-- the same: on_conflict=id.
-- Rows with other ids (of the older module, or inserted by hand) are in the default partition; about one in 100,000 of
-- them falls into a given month by chance. Before you drop a month, look at its timestamps.
--
-- The partitions are in a schema of their own that PostgREST does not expose: the policies of the table decide who may
-- access a row. Once a month, or once a year, run: select outbox_partitions.add_months(12). Until then new rows go to
-- the default partition; they move to their month when it is made.
--
-- Carried over: rows, indexes, constraints, defaults, triggers, statistics, owner, comments, policies and grants. What
-- cannot be carried over is refused by name, before anything changes and without waiting for a lock, with what to type.

do $$
declare
    wrong text;
begin
    with tables (oid, name, place, row_type) as (
        select c.oid, c.relname, format('public.%I', c.relname), c.reltype from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relname in ('trades', 'events') and c.relkind <> 'p'
    ), others as (
        -- What depends on the table or its row type without being a part of it: it would stay with the old table.
        select distinct t.place, t.oid, d.classid, d.objid, d.objsubid, o.type, o.identity
        from tables t cross join lateral (values
            ('pg_class'::regclass, t.oid), ('pg_type', row_type),
            ('pg_type', (select typarray from pg_type where oid = row_type))
        ) as it (class, oid)
        join pg_depend d on d.refclassid = it.class and d.refobjid = it.oid
        cross join pg_identify_object(d.classid, d.objid, d.objsubid) as o
        where d.deptype <> 'i' and t.oid is distinct from case d.classid
            when 'pg_class'::regclass then (select indrelid from pg_index where indexrelid = d.objid)
            when 'pg_attrdef'::regclass then (select adrelid from pg_attrdef where oid = d.objid)
            when 'pg_constraint'::regclass then (select conrelid from pg_constraint where oid = d.objid)
            when 'pg_trigger'::regclass then (
                select case when tgisinternal then t.oid else tgrelid end from pg_trigger where oid = d.objid
            )
            when 'pg_policy'::regclass then (select polrelid from pg_policy where oid = d.objid)
            when 'pg_statistic_ext'::regclass then (select stxrelid from pg_statistic_ext where oid = d.objid)
        end
    ), found (what, command) as (
        select coalesce('view ' || v.view, o.type || ' ' || o.identity), case
            when v.view is not null then format('drop %s %s', v.kind, v.view)
            when o.type = 'publication relation' then (
                select format('alter publication %I drop table %s', p.pubname, o.place)
                from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where r.oid = o.objid
            )
            when o.type = 'sequence' then format('alter sequence %s owned by none', o.identity)
            when o.type = 'table' then format('alter table %s no inherit %s', o.identity, o.place)
            when o.type = 'table column' then (
                select format('alter table %s drop column %I', attrelid::regclass, attname) from pg_attribute
                where attrelid = o.objid and attnum = o.objsubid
            )
            when o.type = 'table constraint' then (
                select format('alter table %s drop constraint %I', conrelid::regclass, conname) from pg_constraint
                where oid = o.objid
            )
            else format('drop %s %s', o.type, o.identity)
        end
        from others o left join lateral (
            select c.oid::regclass as view, case c.relkind when 'm' then 'materialized view' else 'view' end as kind
            from pg_rewrite r join pg_class c on c.oid = r.ev_class
            where o.classid = 'pg_rewrite'::regclass and r.oid = o.objid and c.oid <> o.oid
        ) as v on true
        union all
        select format('%s column %s of %s', case attidentity when '' then 'generated' else 'identity' end,
                attname, place),
            format('alter table %s %s', place, case attgenerated
                when '' then format('alter %1$I drop identity, alter %1$I drop not null', attname)
                when 's' then format('alter %I drop expression', attname)
                else format('drop column %I', attname)
            end)
        from tables t join pg_attribute on attrelid = t.oid where attidentity <> '' or attgenerated <> ''
        union all
        select format('trigger %s of %s, which is switched off or not like others', tgname, place),
            format('alter table %s enable trigger %I', place, tgname)
        from tables t join pg_trigger on tgrelid = t.oid where not tgisinternal and tgenabled <> 'O'
        union all
        select format('trigger %s of %s, which names the rows it changed', tgname, place),
            format('drop trigger %I on %s', tgname, place)
        from tables t join pg_trigger on tgrelid = t.oid
        where tgtype & 1 = 1 and (tgoldtable is not null or tgnewtable is not null)
        union all
        select format('constraint %s of %s, which old rows need not meet', conname, place),
            format('alter table %s validate constraint %I', place, conname)
        from tables t join pg_constraint on conrelid = t.oid where not convalidated
        union all
        select format('index %s of %s, which holds over all months', indexrelid::regclass, place),
            case when conname is null then format('drop index %s', indexrelid::regclass)
                else format('alter table %s drop constraint %I', place, conname) end
        from tables t join pg_index i on indrelid = t.oid
        left join pg_constraint on conindid = indexrelid and conrelid = t.oid
        where indisexclusion or indisunique and not exists (
            select from pg_attribute where attrelid = t.oid and attname = 'id' and attnum = any (i.indkey)
        )
        union all
        select format('storage parameters of %s', place), format('alter table %s reset (%s)', place, (
            select string_agg(split_part(option, '=', 1), ', ') from unnest(reloptions) as option
        ))
        from tables t join pg_class c on c.oid = t.oid where reloptions is not null
        union all
        select format('forced row-level security of %s, which would hide rows from its owner', place),
            format('alter table %s no force row level security', place)
        from tables t join pg_class c on c.oid = t.oid where relforcerowsecurity
        union all
        select format('replica identity of %s', place), format('alter table %s replica identity default', place)
        from tables t join pg_class c on c.oid = t.oid where relreplident <> 'd'
        union all
        select format('publication %s of all tables, or of all in the schema', pubname),
            format('drop publication %I', pubname)
        from pg_publication p where exists (
            select from pg_publication_tables pt join tables t on pt.schemaname = 'public' and pt.tablename = t.name
            where pt.pubname = p.pubname
            and not exists (select from pg_publication_rel where prpubid = p.oid and prrelid = t.oid)
        )
        union all
        select format('table %s, which has a name that is needed', c.oid::regclass),
            format('alter table %s rename to %I', c.oid::regclass, 'old_' || c.relname)
        from tables t join pg_class c on c.relname in (t.name || '_before', t.name || '_other')
        where c.relnamespace = to_regnamespace('outbox_partitions')
        union all
        select format('table public.%I, which is in partitions of another kind', relname),
            format('alter table public.%I rename to %I', relname, 'old_' || relname)
        from pg_class c
        where relnamespace = 'public'::regnamespace and relname in ('trades', 'events') and relkind = 'p'
        and not exists (
            select from pg_inherits
            where inhparent = c.oid and inhrelid = to_regclass('outbox_partitions.' || relname || '_other')
        )
    )
    select string_agg(format('%s (%s)', what, command), '; ' order by what) into wrong from found;
    if wrong is not null then
        raise exception 'nothing was changed: partitions would break or lose %. Type what stands in brackets,'
            ' apply this file again, and make again what you took away', wrong
            using errcode = 'object_not_in_prerequisite_state';
    end if;
end $$;

set client_min_messages = warning; -- no notice from "if not exists"
create schema if not exists outbox_partitions;
reset client_min_messages;
revoke all on schema outbox_partitions from public;

-- The smallest UUIDv7 of a point in time.
create or replace function outbox_partitions.first_id(moment timestamptz) returns uuid
    language sql
    immutable
    set search_path = ''
as $$
    select (
        lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || '70008000000000000000'
    )::uuid
$$;

-- Makes the partitions from the month of `since` to `months` months from now, and returns how many are new. Only the
-- default partition is locked meanwhile: inserts into existing months go on.
create or replace function outbox_partitions.add_months(months int, since timestamptz default now()) returns int
    language plpgsql
    set search_path = ''
    set lock_timeout = '2s' -- nobody waits longer behind it; if it fails, call it again
as $$
declare
    parent text;
    lacking timestamp[]; -- the beginning of each month, in UTC
    begins timestamp;
    partition_name text;
    made int := 0;
begin
    foreach parent in array array['trades', 'events'] loop
        execute format('lock table public.%I in share update exclusive mode', parent); -- one call at a time
        select array_agg(each order by each) into lacking from generate_series(
            date_trunc('month', since at time zone 'UTC'),
            date_trunc('month', now() at time zone 'UTC') + make_interval(months => months),
            interval '1 month'
        ) as each
        where to_regclass(format('outbox_partitions.%I', parent || to_char(each, '_YYYY_MM'))) is null;
        continue when lacking is null;

        execute format('lock table outbox_partitions.%I in access exclusive mode', parent || '_other');
        foreach begins in array lacking loop
            partition_name := parent || to_char(begins, '_YYYY_MM');
            execute format(
                'create table outbox_partitions.%I (like public.%I including defaults including constraints)',
                partition_name, parent
            );
            -- Rows of the month that are in the default partition move first, or the new one could not be attached.
            execute format(
                'with moved as (delete from outbox_partitions.%I where id >= %L and id < %L returning *)
                insert into outbox_partitions.%I select * from moved',
                parent || '_other', outbox_partitions.first_id(begins at time zone 'UTC'),
                outbox_partitions.first_id((begins + interval '1 month') at time zone 'UTC'), partition_name
            );
        end loop;

        -- Checked once, it proves to each "attach" that the default partition has no such row; else each would scan it.
        execute format(
            'alter table outbox_partitions.%I add constraint outbox_moved check (id < %L or id >= %L)',
            parent || '_other', outbox_partitions.first_id(lacking[1] at time zone 'UTC'),
            outbox_partitions.first_id((lacking[array_length(lacking, 1)] + interval '1 month') at time zone 'UTC')
        );
        foreach begins in array lacking loop
            execute format(
                'alter table public.%I attach partition outbox_partitions.%I for values from (%L) to (%L)',
                parent, parent || to_char(begins, '_YYYY_MM'),
                outbox_partitions.first_id(begins at time zone 'UTC'),
                outbox_partitions.first_id((begins + interval '1 month') at time zone 'UTC')
            );
            made := made + 1;
        end loop;
        execute format('alter table outbox_partitions.%I drop constraint outbox_moved', parent || '_other');
    end loop;
    return made;
end $$;

revoke all on function outbox_partitions.first_id(timestamptz), outbox_partitions.add_months(int, timestamptz)
    from public;

do $$
declare
    parent text;
    before text; -- the old table's name from now on
    remake text[] := '{}'; -- what "like" does not copy
    steps text[];
    step text;
    lacking text[]; -- tables that are not partitioned yet
    since timestamptz := now();
    oldest timestamptz;
begin
    select array_agg(c.relname::text order by c.relname) into lacking from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname in ('trades', 'events') and c.relkind <> 'p';
    if lacking is not null then
        perform public.outbox_lock(lacking, 'access exclusive');
    end if;

    foreach parent in array coalesce(lacking, '{}') loop
        before := parent || '_before';
        with old as (
            select c.oid, c.relacl, c.relowner from pg_class c where c.oid = to_regclass('public.' || parent)
        ), granted (what, grantee, grantable) as (
            select privilege_type, grantee, is_grantable from old cross join aclexplode(relacl)
            where grantee <> relowner
            union all
            select format('%s (%I)', privilege_type, attname), grantee, is_grantable
            from old join pg_attribute on attrelid = old.oid cross join aclexplode(attacl) where not attisdropped
        )
        select array_agg(sql order by turn) into steps from (
            select 1, format('grant %s on table public.%I to %s%s', what, parent,
                case grantee when 0 then 'public' else grantee::regrole::text end,
                case when grantable then ' with grant option' else '' end)
            from granted
            union all
            select 2, format('create policy %I on public.%I as %s for %s to %s%s%s', policyname, parent,
                permissive, cmd, (
                    select string_agg(case role when 'public' then 'public' else quote_ident(role) end, ', ')
                    from unnest(roles) as role
                ),
                ' using (' || qual || ')', ' with check (' || with_check || ')')
            from pg_policies where schemaname = 'public' and tablename = parent
            union all
            select case contype when 'f' then 4 else 3 end,
                format('alter table public.%I add constraint %I %s', parent, conname, pg_get_constraintdef(c.oid))
            from old join pg_constraint c on conrelid = old.oid where contype in ('p', 'u', 'f')
            union all
            select 5, pg_get_indexdef(indexrelid) from old join pg_index i on indrelid = old.oid
            where not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.conrelid = old.oid)
            union all
            select 6, pg_get_triggerdef(t.oid) from old join pg_trigger t on tgrelid = old.oid where not tgisinternal
            union all
            select 7, format('comment on table public.%I is %L', parent, obj_description(oid, 'pg_class')) from old
            union all
            select 8, format('alter table public.%I alter %I set statistics %s', parent, attname, attstattarget)
            from old join pg_attribute on attrelid = old.oid where attstattarget >= 0 and attnum > 0
            union all
            select 9, format('alter table public.%I owner to %s', parent, relowner::regrole) from old
        ) as found (turn, sql);
        remake := remake || steps;

        execute format(
            'select to_timestamp((''x'' || left(replace(id::text, ''-'', ''''), 12))::bit(48)::bigint / 1000.0)
            from public.%I where substr(id::text, 15, 1) = ''7'' order by id limit 1', parent
        ) into oldest;
        since := least(since, oldest);
        execute format('alter table public.%I rename to %I', parent, before);
        execute format('alter table public.%I set schema outbox_partitions', before);
        execute format(
            'create table public.%I (like outbox_partitions.%I including defaults including constraints
                including comments including storage including compression including statistics)
            partition by range (id)', parent, before
        );
        execute format('create table outbox_partitions.%I partition of public.%I default', parent || '_other', parent);
        execute format('alter table public.%I enable row level security', parent);
        -- The privileges that the project grants on each new table by default.
        for step in
            select distinct case grantee when 0 then 'public' else grantee::regrole::text end
            from pg_class cross join aclexplode(relacl)
            where oid = to_regclass('public.' || parent) and grantee <> relowner
        loop
            execute format('revoke all on table public.%I from %s', parent, step);
        end loop;
    end loop;

    -- At most ten years back; older rows are in the default partition.
    perform outbox_partitions.add_months(12, greatest(since, now() - interval '10 years'));
    foreach parent in array coalesce(lacking, '{}') loop
        execute format('insert into public.%I select * from outbox_partitions.%I', parent, parent || '_before');
    end loop;
    -- Last: building an index is faster than adding each row to it.
    foreach step in array remake loop
        execute step;
    end loop;
end $$;

notify pgrst, 'reload schema';
