-- Optional: trades and events in partitions of one month.
--
-- Needs:    the files of supabase_sql/; the owner of the tables.
-- Applies:  again and again; a table that is partitioned already only gets the months that it lacks.
-- Rewrites: trades and events, whole. The old tables stay, as outbox_partitions.trades_before and .events_before, for
--           you to drop.
-- Locks:    ACCESS EXCLUSIVE on a table while its rows are copied: nobody reads or writes it. Bots keep their rows and
--           send them afterwards. docs/supabase.md has the time for a million rows.
--
-- Why by id and not by time: a row must arrive once, whatever is sent twice, and what makes it so is that `id` is
-- unique alone. PostgreSQL keeps a key unique over partitions only if it holds the partition key; with
-- primary key (id, timestamp) the same id with another timestamp would be a second row. But the ids that the outbox
-- makes are UUIDv7: their first 48 bits are the time of the put in milliseconds. So a range of ids is a range of time,
-- and the requests stay what they were: on_conflict=id.
-- An id of another kind (the rows of the older module, a row written by hand) is in the default partition; one in about
-- 100,000 of those falls into a given month by chance. Before you drop a month, look at its timestamps.
--
-- The partitions are in a schema of their own that PostgREST does not show: the table decides who may reach a row.
-- Grants and policies of your own on the two tables are to be made again afterwards.
-- Once a month, or once a year: select outbox_partitions.add_months(12). Without that, rows go to the default
-- partition, and move to their month when it is made.

set client_min_messages = warning; -- "if not exists" would say so
create schema if not exists outbox_partitions;
reset client_min_messages;
revoke all on schema outbox_partitions from public;

-- The smallest UUIDv7 of a moment.
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
-- default partition is locked meanwhile: inserts into the months that are there go on.
create or replace function outbox_partitions.add_months(months int, since timestamptz default now()) returns int
    language plpgsql
    set search_path = ''
    set lock_timeout = '2s' -- whoever queues behind it waits no longer; call it again
as $$
declare
    parent text;
    lacking timestamp[]; -- each month's first moment, as a clock in UTC shows it
    begins timestamp;
    partition_name text;
    made int := 0;
begin
    foreach parent in array array['trades', 'events'] loop
        execute format('lock table public.%I in share update exclusive mode', parent); -- one of these at a time
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
            -- What has landed in the default partition moves, or the new one could not be attached.
            execute format(
                'with moved as (delete from outbox_partitions.%I where id >= %L and id < %L returning *)
                insert into outbox_partitions.%I select * from moved',
                parent || '_other', outbox_partitions.first_id(begins at time zone 'UTC'),
                outbox_partitions.first_id((begins + interval '1 month') at time zone 'UTC'), partition_name
            );
        end loop;

        -- Read once, it proves to each "attach" that the default partition has no such row; each would read it else.
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
    remake text[] := '{}'; -- what "like" leaves behind: keys, indexes, triggers
    commands text[];
    again text;
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
        -- These would go on speaking of the old table, and nobody would notice.
        select string_agg(distinct dependent, ', ') into again from (
            select conrelid::regclass::text from pg_constraint
            where contype = 'f' and confrelid = to_regclass('public.' || parent)
            union all
            select r.ev_class::regclass::text from pg_depend d join pg_rewrite r on r.oid = d.objid
            where d.classid = 'pg_rewrite'::regclass and d.refobjid = to_regclass('public.' || parent)
        ) as found (dependent);
        if again is not null then
            raise exception 'nothing was changed: % refers to public.%; drop it, and make it again afterwards',
                again, parent;
        end if;

        -- These would be lost in silence, or refuse every later row.
        select string_agg(what, '; ' order by what) into again from (
            select format('column %s is generated or an identity', attname) from pg_attribute
            where attrelid = to_regclass('public.' || parent) and (attidentity <> '' or attgenerated <> '')
            union all
            select format('it is in publication %s', p.pubname) from pg_publication_rel r
            join pg_publication p on p.oid = r.prpubid where r.prrelid = to_regclass('public.' || parent)
            union all
            select format('trigger %s is not in its ordinary state', tgname) from pg_trigger
            where tgrelid = to_regclass('public.' || parent) and not tgisinternal and tgenabled <> 'O'
            union all
            select distinct format('function %s speaks of it', d.objid::regprocedure) from pg_depend d
            where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_class'::regclass
            and d.refobjid = to_regclass('public.' || parent)
        ) as found (what);
        if again is not null then
            raise exception 'nothing was changed: public.% would lose this: %; undo it, and make it again afterwards',
                parent, again;
        end if;
    end loop;

    foreach parent in array coalesce(lacking, '{}') loop
        before := parent || '_before';
        select array_agg(command) into commands from (
            select format('alter table public.%I add constraint %I %s', parent, conname, pg_get_constraintdef(oid))
            from pg_constraint where conrelid = to_regclass('public.' || parent) and contype in ('p', 'u', 'f')
            union all
            select pg_get_indexdef(indexrelid) from pg_index i where indrelid = to_regclass('public.' || parent)
            and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
            union all
            select pg_get_triggerdef(oid) from pg_trigger
            where tgrelid = to_regclass('public.' || parent) and not tgisinternal
        ) as found (command);
        remake := remake || commands;

        execute format(
            'select to_timestamp((''x'' || left(replace(id::text, ''-'', ''''), 12))::bit(48)::bigint / 1000.0)
            from public.%I where substr(id::text, 15, 1) = ''7'' order by id limit 1', parent
        ) into oldest;
        since := least(since, oldest);
        execute format('alter table public.%I rename to %I', parent, before);
        execute format('alter table public.%I set schema outbox_partitions', before);
        execute format(
            'create table public.%I (like outbox_partitions.%I including defaults including constraints
                including comments including storage) partition by range (id)', parent, before
        );
        execute format('create table outbox_partitions.%I partition of public.%I default', parent || '_other', parent);
        execute format('alter table public.%I enable row level security', parent);
        execute format(
            'create policy %I on public.%I for all to service_role using (true) with check (true)',
            parent || '_service', parent
        );
        execute format('revoke all on table public.%I from public, anon, authenticated, service_role', parent);
        execute format('grant select, insert, update on table public.%I to service_role', parent);
    end loop;

    -- At the most ten years back: what is older is in the default partition.
    perform outbox_partitions.add_months(12, greatest(since, now() - interval '10 years'));
    foreach parent in array coalesce(lacking, '{}') loop
        execute format('insert into public.%I select * from outbox_partitions.%I', parent, parent || '_before');
    end loop;
    -- Last: an index is built faster than it is filled.
    foreach again in array remake loop
        execute again;
    end loop;
end $$;

notify pgrst, 'reload schema';
