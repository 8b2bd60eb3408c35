-- 0006 · v_health says what `outbox status` says, as far as the file itself knows.
-- Needs: 0001.  Rewrites: nothing.  Locks: one short write transaction.

drop view v_health;
create view v_health as
-- How things stand, in one row: sqlite3 -readonly -line bot.db "select * from v_health". Reads counters.
-- health: damaged (entries are missing, or a damaged file was set aside beside this one), stalled (paused, or something
-- pending for more than 5 minutes), hindered (a full disk, a reader that holds the WAL, files that went or have a second
-- name), dead letters, or healthy. What the file cannot know (no flusher runs, a damaged page) only `outbox status` says.
-- removed: deleted by a hand before they were settled; anything but 0 is a loss.
with recursive
ready (lane) as (
    select min(lane) from outbox where state = 'pending' and waits is null
    union all
    select (select min(lane) from outbox where state = 'pending' and waits is null and lane > ready.lane)
      from ready where ready.lane is not null
),
oldest (seq) as (
    select min(seq) from (
        select (select min(o.seq) from outbox as o
                 where o.state = 'pending' and o.waits is null and o.lane = ready.lane) as seq
          from ready where lane is not null
        union all
        select min(seq) from outbox where state = 'pending' and waits is null and lane is null
        union all
        select min(seq) from outbox where state = 'pending' and waits = 'retry')
),
facts as (
    select (select coalesce(sum(entries), 0) from outbox_counts where state = 'pending') as pending,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'dead') as dead,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'delivered') as delivered,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'discarded') as discarded,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'pruned') as pruned,
           (select coalesce(sum(entries), 0) from outbox_counts where state = 'removed') as removed,
           (select created_at_ms from outbox where seq = (select seq from oldest)) as oldest_ms,
           (select max(0, unixepoch() - created_at_ms / 1000) from outbox where seq = (select seq from oldest)) as s,
           exists (select 1 from outbox_meta where name in ('loss', 'quarantined')) as damaged,
           exists (select 1 from outbox_meta where name in ('reserve_released_ms', 'checkpoint_held_ms',
                                                            'files_lost_ms', 'second_name_ms')) as hindered,
           (select count(*) from outbox_pauses) as pauses,
           (select created_at_ms from outbox order by seq desc limit 1) as last_put_ms,
           (select settled_at_ms from outbox indexed by outbox_settled where state in ('delivered', 'discarded')
               and state = 'delivered' order by settled_at_ms desc limit 1) as last_delivery_ms
)
select case when damaged then 'damaged' when pauses > 0 or s > 300 then 'stalled' when hindered then 'hindered'
            when dead > 0 then 'dead letters' else 'healthy' end as health,
       pending, dead, delivered, discarded, pruned, removed,
       datetime(oldest_ms / 1000, 'unixepoch') as oldest_pending_utc,
       iif(s is null, null, printf('%d d %02d:%02d:%02d', s / 86400, s % 86400 / 3600, s % 3600 / 60, s % 60))
           as oldest_pending_age,
       pauses,
       (select reason from outbox_pauses order by since_ms limit 1) as paused_because,
       datetime(last_put_ms / 1000, 'unixepoch') as last_put_utc,
       datetime(last_delivery_ms / 1000, 'unixepoch') as last_delivery_utc
  from facts;
