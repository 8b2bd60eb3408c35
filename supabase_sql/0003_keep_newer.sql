-- A session upsert that arrives late does not revert newer state.
--
-- Needs:   0001_tables.sql, 0002_access.sql; the owner of the tables.
-- Applies: as often as you like.
-- Locks:   none if the trigger exists; else SHARE ROW EXCLUSIVE on sessions for milliseconds.
--
-- A request whose answer was lost may still be on its way while the outbox sends the row again, delivers it, and goes
-- on to the next put of the same session. If the first request then arrives, its version is lower than the row's, and
-- the row stays as it is. Nothing is lost: the second request brought the same content.
--
-- The trigger keeps the row by returning old, not null. With null PostgreSQL would count no row, and an update would
-- look like "not there yet" and be sent for ever; with old it counts as done (2xx, one row), which is true.
-- A write without `version` leaves the version as it is and is applied; so is one with an equal version (a repetition).
--
-- For a table of your own: give it a column `version bigint not null default 0` and a trigger like the one below.

create or replace function public.outbox_keep_row() returns trigger
    language plpgsql
    set search_path = ''
as $$
begin
    return old;
end $$;

-- PostgreSQL lets everyone execute a new function, and Supabase grants that to its three roles, too. A trigger needs
-- no such right.
revoke all on function public.outbox_keep_row() from public, anon, authenticated, service_role;

do $$
begin
    if exists (
        select from pg_trigger where tgrelid = 'public.sessions'::regclass and tgname = 'outbox_keep_newer'
        and pg_get_triggerdef(oid) like '%WHEN ((new.version < old.version))%'
    ) then
        return;
    end if;
    perform public.outbox_lock('{sessions}', 'share row exclusive');
    create or replace trigger outbox_keep_newer
        before update on public.sessions
        for each row
        when (new.version < old.version)
        execute function public.outbox_keep_row();
end $$;
