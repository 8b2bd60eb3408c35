-- 0007 · trades by their id, and when they were settled.
-- Needs: 0001.  Rewrites: nothing.  Locks: one short write transaction.

drop view v_trades;
create view v_trades as
-- Trades that were put and are still here, the newest first, whatever became of them. Give it a limit.
-- Delivered ones are pruned after the retention (OUTBOX_RETENTION_DAYS): add up profit in the remote table.
select seq, state, datetime(created_at_ms / 1000, 'unixepoch') as put_utc,
       datetime(settled_at_ms / 1000, 'unixepoch') as settled_utc,
       coalesce(payload ->> 'trade_id', match ->> 'trade_id') as trade_id,
       coalesce(payload ->> 'session_id', match ->> 'session_id') as session_id,
       payload ->> 'timestamp' as timestamp, payload ->> 'symbol' as symbol, payload ->> 'action' as action,
       payload ->> 'direction' as direction, payload ->> 'volume' as volume, payload ->> 'entry_price' as entry_price,
       payload ->> 'exit_price' as exit_price, payload ->> 'pnl' as pnl, payload ->> 'pnl_pips' as pnl_pips,
       payload ->> 'is_paper' as is_paper, payload ->> 'comment' as comment, id
  from outbox where destination = 'trades' order by seq desc;
