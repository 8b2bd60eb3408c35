-- events.data is a JSON object, or null.
--
-- Needs:   0001_tables.sql, 0002_access.sql; the owner of the tables.
-- Applies: again and again.
-- Locks:   none where the trigger is there; else SHARE ROW EXCLUSIVE on events for milliseconds.
--
-- The older module stored the object's text as one JSON string, in which `data ->> 'price'` finds nothing. From here on
-- such a string becomes the object that it holds, also when a bot that still runs that module inserts it. What holds no
-- object is kept whole under the name "value", so that nothing is refused or lost: [1, 2] becomes {"value": [1, 2]}.
-- 0006_event_objects_old_rows.sql does the same to the rows that are there already.

create or replace function public.outbox_event_object() returns trigger
    language plpgsql
    set search_path = ''
as $$
declare
    held jsonb;
begin
    if jsonb_typeof(new.data) = 'null' then
        new.data := null;
        return new;
    end if;
    if jsonb_typeof(new.data) = 'string' then
        begin
            held := (new.data #>> '{}')::jsonb;
        exception when data_exception or program_limit_exceeded then
            held := null; -- a text that is no JSON (NaN, say), or one nested beyond PostgreSQL's depth
        end;
    end if;
    new.data := case jsonb_typeof(held) when 'object' then held else jsonb_build_object('value', new.data) end;
    return new;
end $$;

revoke all on function public.outbox_event_object() from public, anon, authenticated, service_role;

do $$
begin
    if exists (
        select from pg_trigger where tgrelid = 'public.events'::regclass and tgname = 'outbox_event_object'
        and pg_get_triggerdef(oid) like '%WHEN ((jsonb_typeof(new.data) <> ''object''::text))%'
    ) then
        return;
    end if;
    perform public.outbox_lock('{events}', 'share row exclusive');
    create or replace trigger outbox_event_object
        before insert or update of data on public.events
        for each row
        when (jsonb_typeof(new.data) <> 'object')
        execute function public.outbox_event_object();
end $$;
