-- TEST ONLY: the database itself fails, so that the failure crosses the real wire with the real status and headers.
--
-- A row asks for its fault in one text column: events.event_type, trades.comment, sessions.end_reason.
--   raise:<SQLSTATE>           the statement fails with it; PTnnn answers with HTTP status nnn (raise:PT544)
--   http:<status>:<seconds>    the statement fails with this HTTP status and the header Retry-After
--   sleep:<seconds>            the row is stored, late
-- Any other value does nothing.

create function public.test_fault() returns trigger
    language plpgsql
    set search_path = ''
as $$
declare
    wish text[] := pg_catalog.string_to_array(pg_catalog.to_jsonb(new) ->> tg_argv[0], ':');
begin
    case wish[1]
        when 'raise' then
            raise exception 'injected' using errcode = wish[2];
        when 'http' then
            raise sqlstate 'PGRST' using
                message = pg_catalog.json_build_object('code', 'INJECTED', 'message', 'injected'),
                detail = pg_catalog.json_build_object(
                    'status', wish[2]::int, 'headers', pg_catalog.json_build_object('Retry-After', wish[3])
                );
        when 'sleep' then
            perform pg_catalog.pg_sleep(wish[2]::float);
        else
            null;
    end case;
    return new;
end $$;

create trigger test_fault before insert or update on public.events
    for each row execute function public.test_fault('event_type');
create trigger test_fault before insert or update on public.trades
    for each row execute function public.test_fault('comment');
create trigger test_fault before insert or update on public.sessions
    for each row execute function public.test_fault('end_reason');
