-- The fleet at a glance: which bots report, which are silent, and how much is pending where.
--
-- Needs:   0001_tables.sql, 0002_access.sql; the owner of the tables.
-- Applies: as often as you like.
-- Locks:   none if nothing has to change; else ACCESS EXCLUSIVE on outbox_health and the view for milliseconds.
--
-- Each running flusher updates its own row of outbox_health every OUTBOX_HEALTH_S seconds (60), and once more when it
-- stops cleanly. The time is the server's, so a bot whose clock is wrong still counts as alive.

create or replace function public.outbox_stamp_report() returns trigger
    language plpgsql
    set search_path = ''
as $$
begin
    new.reported_at := pg_catalog.now();
    return new;
end $$;

revoke all on function public.outbox_stamp_report() from public, anon, authenticated, service_role;

do $$
begin
    if exists (
        select from pg_trigger where tgrelid = 'public.outbox_health'::regclass and tgname = 'outbox_stamp_report'
    ) and exists (
        select from pg_constraint
        where conname = 'outbox_health_every_s' and conrelid = 'public.outbox_health'::regclass
    ) then
        return;
    end if;
    perform public.outbox_lock('{outbox_health}', 'access exclusive');
    create or replace trigger outbox_stamp_report
        before insert or update on public.outbox_health
        for each row
        execute function public.outbox_stamp_report();
    -- Infinity, NaN or 1e300 are no intervals: a week at most. An existing row is left as it is.
    if not exists (
        select from pg_constraint
        where conname = 'outbox_health_every_s' and conrelid = 'public.outbox_health'::regclass
    ) then
        alter table public.outbox_health
            add constraint outbox_health_every_s check (every_s >= 0 and every_s <= 604800) not valid;
    end if;
end $$;

-- silent: three reports are missing, and the bot did not report that it stops. health: the worst that applies.
-- every_s is limited to a week here, too: one wrong row must not break the view for everybody.
-- security_invoker: whoever reads the view needs the right to read the table.
do $$
begin
    if to_regclass('public.outbox_fleet') is not null then
        if pg_get_viewdef('public.outbox_fleet'::regclass) like '%LEAST(%' then
            return;
        end if;
        perform public.outbox_lock('{outbox_fleet}', 'access exclusive');
    end if;
    create or replace view public.outbox_fleet with (security_invoker = true) as
    select
        h.source,
        case
            when h.stopped then 'stopped'
            when h.reported_at < now() - make_interval(secs => 3 * least(greatest(h.every_s, 0), 604800)) then 'silent'
            when h.paused is not null then 'paused'
            when h.dead > 0 then 'dead letters'
            else 'healthy'
        end as health,
        not h.stopped
            and h.reported_at < now() - make_interval(secs => 3 * least(greatest(h.every_s, 0), 604800)) as silent,
        extract(epoch from now() - h.reported_at)::float as reported_s_ago,
        h.pending,
        h.oldest_pending_s,
        h.dead,
        h.paused,
        h.last_success_at,
        h.version,
        h.reported_at
    from public.outbox_health h;
end $$;

do $$
begin
    revoke all on table public.outbox_fleet from public, anon, authenticated, service_role;
    grant select on table public.outbox_fleet to service_role;
end $$;
