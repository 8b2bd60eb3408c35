-- The fleet's health in the words of `outbox status`: a damaged file, or one that lacks rows, shows up here, too.
--
-- Needs:   0004_health.sql; the owner of the tables.
-- Applies: as often as you like.
-- Locks:   none if nothing has to change; else ACCESS EXCLUSIVE on outbox_health and the view for milliseconds.
--
-- A bot of an older version reports no `health`; the view then derives it from the other figures, as before. A project
-- without the column still accepts the reports: the bot leaves it out.

do $$
declare
    has_column constant boolean := exists (
        select from pg_attribute where attrelid = 'public.outbox_health'::regclass and attname = 'health'
    );
begin
    if has_column and pg_get_viewdef('public.outbox_fleet'::regclass) like '%damaged%' then
        return;
    end if;
    perform public.outbox_lock('{outbox_fleet,outbox_health}', 'access exclusive');
    if not has_column then
        alter table public.outbox_health add column health text; -- the worst that applies
    end if;
    -- Damage comes before everything else: neither silence nor a clean stop cures it.
    create or replace view public.outbox_fleet with (security_invoker = true) as
    select
        h.source,
        case
            when h.health = 'damaged' then 'damaged'
            when h.stopped then 'stopped'
            when h.reported_at < now() - make_interval(secs => 3 * least(greatest(h.every_s, 0), 604800)) then 'silent'
            when h.health is not null then h.health
            when h.paused is not null then 'stalled'
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

-- Tells PostgREST about new columns and tables. Supabase does so by itself; other installations need it.
notify pgrst, 'reload schema';
