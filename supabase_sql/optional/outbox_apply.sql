-- Optional: a mixed batch in one request, applied in the order of the puts, with a verdict for each row.
--
-- Needs:   PostgreSQL 14 or newer; a role that may create functions in schema public; the role service_role.
-- Applies: again and again. Remove it with: drop function public.outbox_apply(json, boolean);
-- Locks:   nothing.
--
--     POST /rest/v1/rpc/outbox_apply
--     {"entries": [{"operation": "insert", "table": "trades", "conflict": ["id"], "row": {…}},
--                  {"operation": "upsert", "table": "sessions", "conflict": ["session_id"], "row": {…}, "key": "s-1"},
--                  {"operation": "update", "table": "sessions", "match": {"session_id": "s-1"}, "row": {…}, "key": "s-1"}]}
--
-- Each entry is a statement of its own, in a savepoint of its own: what one row's refusal undoes is that row. Sent a
-- second time it changes nothing, as with the plain tables: an insert ignores what is there, an upsert merges the same
-- values again, an update sets them again.
--
-- Order: entries are applied as they stand. When one may be sent again (its parent is not there, no row matches, its
-- table is missing), those behind it with the same table and key wait too (applied = false, code = 'HELD'); with
-- strict = true also behind one that is refused for good, as by a constraint or for a value that is no number.
--
-- What is not a row's own fault is raised and ends the request as a whole, nothing applied: out of connections,
-- deadlock, statement timeout, a disk that is full.
--
-- Who may do what stays the caller's business: SECURITY INVOKER. The privileges and the row-level security of the
-- tables hold as they do for the plain paths, and only tables (no view, no catalogue) of schema public are written. A
-- column whose type is a domain that forbids null must be in every row: the others are refused here.
--
-- The price: a savepoint for each row. More than 64 in one transaction make snapshots of other sessions slower while
-- it runs (PostgreSQL's "subtransaction overflow"); a standby feels it most.

create or replace function public.outbox_apply(entries json, strict boolean default false)
    returns table (n integer, applied boolean, code text, message text, details text, hint text)
    language plpgsql
    volatile
    security invoker
    -- Fixed, so that no caller's setting changes what is meant. Not empty: a table's own triggers run under it too.
    set search_path = pg_catalog, public, extensions, pg_temp
as $$
declare
    entry json;
    target text;
    held text[] := array[]::text[];
    line text;
begin
    if json_typeof(entries) = 'string' then
        entries := (entries #>> '{}')::json;  -- some gateways pass a parameter of type json on as a text
    end if;
    if json_typeof(entries) is distinct from 'array' then
        raise exception 'entries must be an array' using errcode = '22023';
    end if;
    n := 0;
    for entry in select value from json_array_elements(entries) loop
        n := n + 1;
        applied := false;
        code := null; message := null; details := null; hint := null;
        line := null;
        begin
            -- In here: an entry with a text that PostgreSQL cannot hold, such as \u0000, is refused and no other one.
            line := (entry ->> 'table') || chr(31) || (entry ->> 'key');  -- null without a key
            if line = any (held) then
                code := 'HELD';
                message := 'an earlier entry of its key waits';
            else
                target := public.outbox_apply_target(entry ->> 'table');
                applied := public.outbox_apply_one(entry, target);
                if not applied then
                    code := 'NOROW';
                    message := 'no row matched: it is not there yet';
                end if;
            end if;
        exception when others then
            get stacked diagnostics
                code = returned_sqlstate, message = message_text, details = pg_exception_detail, hint = pg_exception_hint;
            -- The server's own trouble: contention, resources, shutdown, and what only the gateway can judge.
            if left(code, 2) in ('08', '25', '26', '40', '53', '55', '57', '58', '72', 'XX') then
                raise;
            end if;
        end;
        -- Refused for good, and out of the way of those behind it, is only what the classes of a row's own faults say.
        if line is not null and not applied and code <> 'HELD' and (
            strict or code = '23503' or not (left(code, 2) in ('21', '22', '23', '54', 'P0') or code = '42804')
        ) then
            held := held || line;
        end if;
        return next;
    end loop;
end $$;

-- The table of that name in schema public, quoted; anything else does not exist, as far as a batch goes.
create or replace function public.outbox_apply_target(table_name text)
    returns text
    language plpgsql
    stable
    security invoker
    set search_path = pg_catalog, public, extensions, pg_temp
as $$
begin
    if not exists (
        select from pg_class as c join pg_namespace as s on s.oid = c.relnamespace
        where s.nspname = 'public' and c.relname = table_name and c.relkind in ('r', 'p')
    ) then
        raise exception 'relation "public.%" does not exist', table_name using errcode = '42P01';
    end if;
    return format('public.%I', table_name);
end $$;

-- One entry. False: an update that no row matched.
create or replace function public.outbox_apply_one(entry json, target text)
    returns boolean
    language plpgsql
    volatile
    security invoker
    set search_path = pg_catalog, public, extensions, pg_temp
as $$
declare
    given json := entry -> 'row';
    columns text;
    conflict text;
    changes text;
    wanted text;
    rows_matched bigint;
begin
    select string_agg(format('%I', name), ', ' order by name) into columns
        from (select distinct name from json_object_keys(given) as name) as each;  -- JSON may say a name twice
    if columns is null then
        raise exception 'an empty row' using errcode = '22023';
    end if;
    if entry ->> 'operation' = 'update' then
        -- "is null" and "=", each of which an index serves; "is not distinct from" would find no index.
        select string_agg(
                   case when value = 'null' then format('t.%I is null', name) else format('t.%I = m.%I', name, name) end,
                   ' and ')
            into wanted
            from (select key as name, value::text as value from json_each(entry -> 'match')) as each;
        if wanted is null then
            raise exception 'an update needs to say which rows' using errcode = '22023';
        end if;
        execute format(
            'update %s as t set (%s) = (select %s from json_populate_record(null::%s, $1))'
            ' from json_populate_record(null::%s, $2) as m where %s', target, columns, columns, target, target, wanted
        ) using given, entry -> 'match';
        get diagnostics rows_matched = row_count;
        return rows_matched > 0;
    end if;
    select string_agg(format('%I', name), ', ') into conflict from json_array_elements_text(entry -> 'conflict') as name;
    if conflict is null then
        raise exception 'the columns that decide are missing' using errcode = '22023';
    end if;
    if entry ->> 'operation' = 'upsert' then
        select 'do update set ' || string_agg(format('%I = excluded.%I', name, name), ', ') into changes
            from (select distinct name from json_object_keys(given) as name) as each;
    elsif entry ->> 'operation' = 'insert' then
        changes := 'do nothing';
    else
        raise exception 'operation must be insert, upsert or update' using errcode = '22023';
    end if;
    execute format(
        'insert into %s (%s) select %s from json_populate_record(null::%s, $1) on conflict (%s) %s',
        target, columns, columns, target, conflict, changes
    ) using given;
    return true;
end $$;

do $$
declare
    signature text;
begin
    foreach signature in array array[
        'public.outbox_apply(json, boolean)', 'public.outbox_apply_target(text)', 'public.outbox_apply_one(json, text)'
    ] loop
        -- PostgreSQL lets everyone execute a new function, Supabase its three roles as well.
        execute format('revoke all on function %s from public, anon, authenticated, service_role', signature);
        execute format('grant execute on function %s to service_role', signature);
    end loop;
end $$;

notify pgrst, 'reload schema';
