-- The fleet at a glance: which bots report, which are silent, and what waits where.
--
-- Needs:   0001_tables.sql, 0002_access.sql; the owner of the tables.
-- Applies: again and again.
-- Locks:   SHARE ROW EXCLUSIVE on outbox_health for milliseconds.
--
-- Each running flusher writes its one row of outbox_health every OUTBOX_HEALTH_S seconds (60), and once more when it
-- stops in good order. The time is the server's: a bot whose clock is wrong is still seen alive.

create or replace function public.outbox_stamp_report() returns trigger
    language plpgsql
    set search_path = ''
as $$
begin
    new.reported_at := pg_catalog.now();
    return new;
end $$;

revoke all on function public.outbox_stamp_report() from public, anon, authenticated, service_role;

create or replace trigger outbox_stamp_report
    before insert or update on public.outbox_health
    for each row
    execute function public.outbox_stamp_report();

-- silent: three reports are missing, and the bot has not said that it stops. Health is the worst that holds.
-- security_invoker: whoever reads the view needs the right to read the table.
create or replace view public.outbox_fleet with (security_invoker = true) as
select
    h.source,
    case
        when h.stopped then 'stopped'
        when h.reported_at < now() - make_interval(secs => 3 * h.every_s) then 'silent'
        when h.paused is not null then 'paused'
        when h.dead > 0 then 'dead letters'
        else 'healthy'
    end as health,
    not h.stopped and h.reported_at < now() - make_interval(secs => 3 * h.every_s) as silent,
    extract(epoch from now() - h.reported_at)::float as reported_s_ago,
    h.pending,
    h.oldest_pending_s,
    h.dead,
    h.paused,
    h.last_success_at,
    h.version,
    h.reported_at
from public.outbox_health h;

do $$
begin
    revoke all on table public.outbox_fleet from public, anon, authenticated, service_role;
    grant select on table public.outbox_fleet to service_role;
end $$;
