-- 0003 · what a put means whose id is stored already.
-- Needs: 0001.  Rewrites: nothing (the new column is null everywhere).  Locks: one short write transaction.

-- null: the same id with other data is an error (IdConflict).  keep: whatever stands under it stays, here and remotely.
alter table outbox add column if_exists text check (if_exists in ('keep'));
