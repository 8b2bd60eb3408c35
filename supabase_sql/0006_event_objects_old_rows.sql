-- Existing events: their data becomes a JSON object, too.
--
-- Needs:    0005_event_objects.sql, whose trigger does the work.
-- Applies:  as often as you like; the second time it finds nothing to do, and only reads the table.
-- Rewrites: each row whose data is not an object, once. Vacuum removes the old versions of these rows later.
-- Locks:    the rows that it changes, until it ends; bots go on inserting. It is a file of its own because in one
--           transaction with 0005 it would hold that file's lock all the time.

-- The project's limit for a statement (Supabase: 2 minutes) would cancel it halfway; each new try would start over and
-- leave as many dead row versions behind.
set statement_timeout = 0;

update public.events set data = data where jsonb_typeof(data) <> 'object';

reset statement_timeout;

-- Tells PostgREST about new columns and tables. Supabase does so by itself; other installations need it.
notify pgrst, 'reload schema';
