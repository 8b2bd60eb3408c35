-- The events that are there already: their data become JSON objects too.
--
-- Needs:    0005_event_objects.sql, whose trigger does the work.
-- Applies:  again and again; the second time it finds nothing to do, and only reads the table.
-- Rewrites: each row whose data are no object, once. The old versions of these rows are vacuumed later.
-- Locks:    the rows that it changes, until it ends; bots insert meanwhile as always. That is why it is a file of its
--           own: in one transaction with 0005 it would hold that file's lock all the while.

-- A project's own limit (Supabase: 2 minutes) would end it in the middle, and each further try would begin anew and
-- leave as many dead versions behind.
set statement_timeout = 0;

update public.events set data = data where jsonb_typeof(data) <> 'object';

reset statement_timeout;

-- PostgREST learns of new columns and tables; Supabase tells it by itself, others need the word.
notify pgrst, 'reload schema';
