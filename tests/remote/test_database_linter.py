"""What Supabase's database linter looks for, asked in our own words: nothing is found, and each question can find.

A project's dashboard warns of these. The questions are about the schemas that hold what the files make, as a hosted
project has it: every new table and function of `public` is open to the three roles by default.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from supabase_lite import EmbeddedPostgres

from tests.remote.sql_bench import OPTIONAL, Connection, PsqlRunner, column, like_hosted

OURS = "('public'::regnamespace, to_regnamespace('outbox_partitions'))"
OPEN = "(has_table_privilege('anon', c.oid, 'select') or has_table_privilege('authenticated', c.oid, 'select'))"

# Each returns the names of what it finds.
QUESTIONS = {
    "row-level security is off on a table that PostgREST shows": """
        select c.oid::regclass::text from pg_class c
        where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace and not c.relrowsecurity""",
    "row-level security is on and no policy lets anybody in": f"""
        select c.oid::regclass::text from pg_class c
        where c.relkind in ('r', 'p') and c.relnamespace in {OURS} and c.relrowsecurity
        and not exists (select from pg_policy p where p.polrelid = c.oid)""",
    "a policy has no effect, row-level security is off": f"""
        select distinct c.oid::regclass::text from pg_policy p join pg_class c on c.oid = p.polrelid
        where c.relnamespace in {OURS} and not c.relrowsecurity""",
    "several permissive policies for one role and command": f"""
        select distinct c.oid::regclass::text
        from pg_policy a join pg_policy b on a.polrelid = b.polrelid and a.oid < b.oid
        join pg_class c on c.oid = a.polrelid
        where c.relnamespace in {OURS} and a.polpermissive and b.polpermissive
        and (a.polcmd = b.polcmd or '*' in (a.polcmd, b.polcmd))
        and (a.polroles && b.polroles or 0 = any (a.polroles || b.polroles))""",
    "a policy calls a function for each row that would do once": f"""
        select p.schemaname || '.' || p.policyname from pg_policies p
        where p.schemaname::regnamespace in {OURS}
        and concat(p.qual, ' ', p.with_check) ~ '(auth\\.[a-z]+|current_setting)\\('
        and concat(p.qual, ' ', p.with_check) !~* 'select\\s+(auth\\.[a-z]+|current_setting)\\('""",
    "a policy lets everybody change everything": f"""
        select p.tablename || '.' || p.policyname from pg_policies p
        where p.schemaname::regnamespace in {OURS} and p.permissive = 'PERMISSIVE' and p.cmd <> 'SELECT'
        and p.roles && '{{public,anon,authenticated}}' and 'true' in (p.qual, p.with_check)""",
    "a function's search path is the caller's": f"""
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS}
        and not exists (select from unnest(p.proconfig) setting where setting like 'search_path=%')""",
    "a function runs as its owner and the public may call it": f"""
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS} and p.prosecdef
        and (has_function_privilege('anon', p.oid, 'execute')
             or has_function_privilege('authenticated', p.oid, 'execute'))""",
    "an extension is in public": """
        select extname::text from pg_extension where extnamespace = 'public'::regnamespace""",
    "two indexes on the same columns": f"""
        select a.indexrelid::regclass::text from pg_index a join pg_index b
            on a.indrelid = b.indrelid and a.indexrelid < b.indexrelid
            and a.indkey::text = b.indkey::text and a.indclass::text = b.indclass::text
            and a.indoption::text = b.indoption::text
            and coalesce(pg_get_expr(a.indpred, a.indrelid), '') = coalesce(pg_get_expr(b.indpred, b.indrelid), '')
            and coalesce(pg_get_expr(a.indexprs, a.indrelid), '') = coalesce(pg_get_expr(b.indexprs, b.indrelid), '')
        join pg_class c on c.oid = a.indrelid where c.relnamespace in {OURS}""",
    "a foreign key has no index behind it": f"""
        select k.conname::text from pg_constraint k
        where k.contype = 'f' and k.connamespace in {OURS} and not exists (
            select from pg_index i where i.indrelid = k.conrelid
            and (i.indkey::smallint[])[0:cardinality(k.conkey) - 1] @> k.conkey)""",
    "a table has no primary key": f"""
        select c.oid::regclass::text from pg_class c
        where c.relkind in ('r', 'p') and c.relnamespace in {OURS}
        and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)""",
    "an index is not valid": f"""
        select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indrelid
        where c.relnamespace in {OURS} and not i.indisvalid""",
    "a view reads with its owner's rights": f"""
        select c.oid::regclass::text from pg_class c
        where c.relkind = 'v' and c.relnamespace in {OURS}
        and not coalesce('security_invoker=true' = any (c.reloptions), false)""",
    "the public may read a materialized view or a foreign table": f"""
        select c.oid::regclass::text from pg_class c
        where c.relkind in ('m', 'f') and c.relnamespace in {OURS} and {OPEN}""",
    "the public may read a column of a sensitive name": f"""
        select c.oid::regclass || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relkind in ('r', 'p', 'v') and c.relnamespace in {OURS} and {OPEN} and not c.relrowsecurity
        and a.attname in ('session_id', 'token', 'secret', 'password', 'api_key', 'account_number')""",
    "autovacuum is off for a table": f"""
        select c.oid::regclass::text from pg_class c
        where c.relnamespace in {OURS} and exists (
            select from unnest(c.reloptions) setting where setting like 'autovacuum_enabled=%'
            and setting <> 'autovacuum_enabled=true')""",
}

FAULTS = {
    "row-level security is off on a table that PostgREST shows": "alter table trades disable row level security",
    "row-level security is on and no policy lets anybody in": "drop policy trades_service on trades",
    "a policy has no effect, row-level security is off": "alter table events disable row level security",
    "several permissive policies for one role and command": (
        "create policy again on trades for insert to service_role with check (true)"
    ),
    "a policy calls a function for each row that would do once": (
        "alter policy trades_service on trades using (current_setting('a.b', true) is null)"
    ),
    "a policy lets everybody change everything": "create policy open on trades for insert to anon with check (true)",
    "a function's search path is the caller's": "alter function outbox_keep_row() reset search_path",
    "a function runs as its owner and the public may call it": (
        "create function f() returns int language sql security definer set search_path = '' as 'select 1'"
    ),
    "an extension is in public": "create extension vector schema public",
    "two indexes on the same columns": "create index again on trades (symbol)",
    "a foreign key has no index behind it": (
        "create table fills (id int primary key, trade uuid references trades (id))"
    ),
    "a table has no primary key": "alter table trades drop constraint trades_pkey",
    "an index is not valid": (
        "update pg_index set indisvalid = false where indexrelid = 'idx_trades_symbol'::regclass"
    ),
    "a view reads with its owner's rights": "alter view outbox_fleet reset (security_invoker)",
    "the public may read a materialized view or a foreign table": "create materialized view m as select 1 as one",
    "the public may read a column of a sensitive name": (
        "alter table sessions disable row level security; grant select on sessions to anon"
    ),
    "autovacuum is off for a table": "alter table trades set (autovacuum_enabled = false)",
}


@pytest.fixture(scope="module")
def hosted(postgres: EmbeddedPostgres) -> Iterator[Connection]:
    """A database like a hosted project's, with all files applied."""
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute("create database hosted")
        with psycopg.connect(postgres.database("hosted"), autocommit=True) as connection:
            PsqlRunner(postgres).apply(connection)  # makes the roles
            connection.execute("drop schema public cascade; create schema public")
            like_hosted(connection)
            PsqlRunner(postgres).apply(connection)
            yield connection
        server.execute("drop database hosted with (force)")


def findings(connection: Connection) -> dict[str, list[object]]:
    asked = {question: column(connection, text) for question, text in QUESTIONS.items()}
    return {question: found for question, found in asked.items() if found}


def test_nothing_is_found(hosted: Connection) -> None:
    assert findings(hosted) == {}


@pytest.mark.parametrize("file", ["money_as_numeric", "partitions", "least_privilege"])
def test_nothing_is_found_after_an_optional_file(hosted: Connection, file: str) -> None:
    with hosted.transaction(force_rollback=True):
        hosted.execute((OPTIONAL / f"{file}.sql").read_bytes())
        # The old tables are nobody's but the operator's, who drops them: they are as they were.
        assert findings(hosted) == {}


def test_every_question_has_a_fault_to_find() -> None:
    assert set(QUESTIONS) == set(FAULTS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_fault_is_found(hosted: Connection, question: str) -> None:
    """The control of the tests above: each question sees what it asks for."""
    with hosted.transaction(force_rollback=True):
        hosted.execute(FAULTS[question])
        assert question in findings(hosted)


# ------------------------------------------------------------------------------------------------ unused indexes

ROWS = """
insert into trades (session_id, symbol, timestamp, is_paper)
    select 's' || n % 200, 'SYM' || n % 100, now() - make_interval(mins => n), n % 1000 = 0
    from generate_series(1, 20000) n;
insert into events (session_id, event_type, timestamp)
    select 's' || n % 200, 'TYPE' || n % 100, now() from generate_series(1, 20000) n;
insert into sessions (session_id, start_time) select 's' || n, now() from generate_series(1, 2000) n;
analyze trades, events, sessions;
"""
# What get_trades and query ask, and an upsert's look for its row; by the index that must serve it.
READS = {
    "idx_trades_session": "select * from trades where session_id = 's7' order by timestamp desc limit 100",
    "idx_trades_symbol": "select * from trades where symbol = 'SYM7'",
    "idx_trades_is_paper": "select * from trades where is_paper",
    "idx_trades_timestamp": "select * from trades order by timestamp desc limit 100",
    "idx_events_session": "select * from events where session_id = 's7'",
    "idx_events_type": "select * from events where event_type = 'TYPE7'",
    "sessions_session_id_key": "select * from sessions where session_id = 's7'",
    "trades_pkey": "select * from trades where id = '01940000-0000-7000-8000-000000000000'",
}


def test_every_index_serves_a_read_and_a_needless_one_serves_none(hosted: Connection) -> None:
    with hosted.transaction(force_rollback=True):
        hosted.execute("create index needless on trades (comment)")
        hosted.execute(ROWS)
        plans = {index: "".join(map(str, column(hosted, f"explain {read}"))) for index, read in READS.items()}
        indexes = column(hosted, "select indexname from pg_indexes where tablename in ('trades', 'events', 'sessions')")

        unused = {index for index in indexes if not any(f" {index} " in f"{plan} " for plan in plans.values())}

    # A primary key that no read asks for decides what becomes of a row that is sent twice.
    assert unused == {"needless", "events_pkey", "sessions_pkey"}
