-- events.data is a JSON object, or null.
--
-- Needs:   0001_tables.sql, 0002_access.sql; the owner of the tables.
-- Applies: as often as you like.
-- Locks:   none if the trigger exists; else SHARE ROW EXCLUSIVE on events for milliseconds.
--
-- The older module stored the object's text as one JSON string, in which `data ->> 'price'` finds nothing. From now on
-- such a string becomes the object that it contains, also when a bot with the older module inserts it. Anything else is
-- kept under the name "value", so that nothing is refused or lost: [1, 2] becomes {"value": [1, 2]}.
-- 0006_event_objects_old_rows.sql does the same for existing rows.

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
            held := null; -- text that is not JSON (such as NaN), or is nested deeper than PostgreSQL allows
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
