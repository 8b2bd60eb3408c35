"""What Supabase's database linter says of these tables: nothing, after all files and after each optional one.

A project's dashboard warns of what it finds. It is the linter itself (splinter), run by `supabase db advisors` on a
database like a hosted project's; each of its rules has a fault here that it must find. What its rules leave out comes
at the end, in SQL of our own, which also needs no npm: they do not see a partitioned table, only its partitions, and
do not ask about invalid indexes, autovacuum, or who may call a function that runs as its owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from supabase_lite import Driver, EmbeddedPostgres, SupabaseLite

from outbox import Outbox, Settings, SupabaseClient
from tests.integration.sql_bench import (
    OPTIONAL,
    Connection,
    PsqlRunner,
    column,
    like_hosted,
    new_database,
    new_template,
)
from tests.integration.supabase_cli import SupabaseCli

OPTIONAL_FILES = ["money_as_numeric", "partitions", "least_privilege"]


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database like a hosted project's, with all files applied, for copies."""

    def prepare(connection: Connection) -> None:
        like_hosted(connection)
        PsqlRunner(postgres).apply(connection)

    with new_template(postgres, prepare) as name:
        yield name


@pytest.fixture
def copy(postgres: EmbeddedPostgres, template: str) -> Iterator[Connection]:
    """A database of the test's own, for what the linter, another connection, is to see."""
    with new_database(postgres, template) as connection:
        yield connection


# ------------------------------------------------------------------------------------------------- the linter's rules

AUTH = """
create schema auth;
create table auth.users (id uuid primary key, email text unique);
create function auth.uid() returns uuid language sql stable set search_path = '' as 'select null::uuid';
create function auth.jwt() returns jsonb language sql stable set search_path = '' as 'select null::jsonb';
"""
# What each rule must find, and where. The one that is missing, extension_versions_outdated, needs an extension with
# an older version to install: this PostgreSQL has none, and the files install no extension.
FAULTS = {
    ("auth_rls_initplan", "events"): (
        "create policy mine on events for select to service_role using (id = auth.uid())"
    ),
    ("auth_users_exposed", "people"): (
        "create view people with (security_invoker = true) as select id from auth.users"
    ),
    ("duplicate_index", "trades"): "create index again on trades (session_id)",
    ("extension_in_public", "vector"): "create extension vector schema public",
    ("fkey_to_auth_unique", "profiles"): (
        "create table profiles (id int primary key, email text references auth.users (email))"
    ),
    ("foreign_table_in_api", "elsewhere"): (
        "create foreign data wrapper w; create server far foreign data wrapper w;"
        " create foreign table elsewhere (n int) server far"
    ),
    ("function_search_path_mutable", "outbox_keep_row"): "alter function outbox_keep_row() reset search_path",
    ("insecure_queue_exposed_in_api", "q_trades"): (
        "create schema pgmq; create table pgmq.q_trades (id int primary key); grant select on pgmq.q_trades to anon;"
        " do $$ begin execute format('alter database %I set pgrst.db_schemas = %L', current_database(),"
        " 'public, graphql_public, pgmq_public'); end $$"
    ),
    ("materialized_view_in_api", "ones"): "create materialized view ones as select 1 as one",
    ("multiple_permissive_policies", "trades"): (
        # None counts of a role that passes row-level security, as the server under other tests makes service_role.
        "create policy once on trades for insert to authenticated with check (id is not null);"
        " create policy again on trades for insert to authenticated with check (id is not null)"
    ),
    ("no_primary_key", "heap"): "create table heap (n int)",
    ("policy_exists_rls_disabled", "sessions"): "alter table sessions disable row level security",
    ("rls_disabled_in_public", "shown"): "create table shown (id int primary key)",
    ("rls_enabled_no_policy", "outbox_health"): "drop policy outbox_health_service on outbox_health",
    ("rls_policy_always_true", "trades"): "create policy open on trades for insert to anon with check (true)",
    ("rls_references_user_metadata", "events"): (
        "create policy claimed on events for select to service_role"
        " using ((select auth.jwt()) -> 'user_metadata' is null)"
    ),
    ("security_definer_view", "outbox_fleet"): (
        "alter view outbox_fleet reset (security_invoker); grant select on outbox_fleet to anon"
    ),
    ("sensitive_columns_exposed", "secrets"): "create table secrets (password text primary key)",
    ("table_bloat", "fat"): (  # 3,000 pages for one row, says the catalogue, which is where the rule looks
        "create table fat (n int primary key); insert into fat values (1); analyze fat;"
        " update pg_class set relpages = 3000 where relname = 'fat'"
    ),
    ("unindexed_foreign_keys", "fills"): ("create table fills (id int primary key, trade uuid references trades (id))"),
    ("unsupported_reg_types", "trades"): "alter table trades add column dictionary regdictionary",
    ("unused_index", "trades"): "create index needless on trades (comment)",
}


def test_nothing_is_found_but_indexes_that_nothing_has_read_yet(
    copy: Connection, postgres: EmbeddedPostgres, supabase: SupabaseCli
) -> None:
    assert lint(copy, postgres, supabase) == [
        ("unused_index", table, index)
        for table, index in (
            ("events", "idx_events_session"), ("events", "idx_events_timestamp"), ("events", "idx_events_type"),
            ("trades", "idx_trades_paper_timestamp"), ("trades", "idx_trades_session"),
            ("trades", "idx_trades_symbol_timestamp"), ("trades", "idx_trades_timestamp"),
        )
    ]  # fmt: skip


@pytest.mark.parametrize("file", OPTIONAL_FILES)
def test_nothing_more_is_found_after_an_optional_file(
    copy: Connection, postgres: EmbeddedPostgres, supabase: SupabaseCli, file: str
) -> None:
    copy.execute((OPTIONAL / f"{file}.sql").read_bytes())

    assert {rule for rule, _, _ in lint(copy, postgres, supabase)} == {"unused_index"}


def test_every_optional_file_is_among_them() -> None:
    assert {f"{name}.sql" for name in OPTIONAL_FILES} == {file.name for file in OPTIONAL.glob("*.sql")}


@pytest.fixture(scope="module")
def faulty(postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """What is found where all faults are planted at once: a run takes a second, and they do not hide each other."""
    supabase = SupabaseCli(SupabaseCli.install(), tmp_path_factory.mktemp("faulty"))
    with new_database(postgres, template) as connection:
        connection.execute(AUTH)
        for statements in FAULTS.values():
            connection.execute(statements)
        return {(found.rule, found.name) for found in supabase.findings(dsn_of(connection, postgres))}


@pytest.mark.parametrize(("rule", "name"), FAULTS)
def test_the_linter_finds_the_fault(faulty: set[tuple[str, str]], rule: str, name: str) -> None:
    """The control of the tests above: each rule is asked, and looks where the files make something."""
    assert (rule, name) in faulty


def dsn_of(connection: Connection, postgres: EmbeddedPostgres) -> str:
    return postgres.database(connection.info.dbname)


def lint(connection: Connection, postgres: EmbeddedPostgres, supabase: SupabaseCli) -> list[tuple[str, str, str]]:
    """Each finding's rule, table and, in its own words, what it is about: the first name between backticks."""
    # A session reports what it has read when it ends, at the latest; until then the statistics do not have it.
    connection.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    found = supabase.findings(dsn_of(connection, postgres))
    return sorted((each.rule, each.name, each.detail.split("`")[1]) for each in found)


# ----------------------------------------------------------------------------------------------------- unused indexes

# 20,000 trades and events of the last 140 days, with ids as the outbox makes them: UUIDv7, which begin with the time.
ROWS = """
create function pg_temp.id_at(moment timestamptz, n int) returns uuid language sql as $$
    select (lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0')
        || '7' || left(md5(n::text), 3) || '8' || right(md5(n::text), 15))::uuid
$$;
insert into trades (id, session_id, symbol, timestamp, is_paper)
    select pg_temp.id_at(moment, n), 's' || n % 200, 'SYM' || n % 100, moment, n % 1000 = 0
    from generate_series(1, 20000) n, lateral (select now() - make_interval(mins => 10 * n) as moment) as m;
insert into events (id, session_id, event_type, timestamp)
    select pg_temp.id_at(moment, n), 's' || n % 200, 'TYPE' || n % 100, moment
    from generate_series(1, 20000) n, lateral (select now() - make_interval(mins => 10 * n) as moment) as m;
insert into sessions (session_id, start_time) select 's' || n, now() from generate_series(1, 2000) n;
drop function pg_temp.id_at;
"""
NEEDLESS = "create index needless on trades (comment)"  # the control: no read asks for it
FILLED = (
    "select distinct tableoid::regclass::text from trades union select distinct tableoid::regclass::text from events"
)


@contextmanager
def project(postgres: EmbeddedPostgres) -> Iterator[tuple[SupabaseLite, Connection]]:
    """A REST server on a database of its own, for the library's reads, filled with `ROWS`."""
    with new_database(postgres) as connection:
        like_hosted(connection)
        with SupabaseLite(Driver.POSTGRES, dsn=dsn_of(connection, postgres)) as server:
            connection.execute(ROWS)
            yield server, connection


def read_everything(server: SupabaseLite, folder: Path) -> None:
    """Ask for rows in each way that an index is there for; each way must find some."""

    async def read() -> None:
        settings = Settings(path=folder / "bot.db", supabase_url=server.url, supabase_key=server.secret_key)
        async with Outbox.open(settings) as outbox:
            client = SupabaseClient(outbox)
            assert await client.get_trades()
            assert await client.get_trades(session_id="s7")
            assert await client.get_trades(symbol="SYM7")
            assert await client.get_trades(is_paper=True)
            assert await client.query("events", order="-timestamp", limit=100)
            assert await client.query("events", filters={"session_id": "s7"})
            assert await client.query("events", filters={"event_type": "TYPE7"})
            assert await client.query("sessions", filters={"session_id": "s7"})

    asyncio.run(read())


def test_after_the_librarys_reads_nothing_is_found_but_a_needless_index(
    postgres: EmbeddedPostgres, supabase: SupabaseCli, tmp_path: Path
) -> None:
    with project(postgres) as (server, connection):
        connection.execute(NEEDLESS)
        connection.execute("analyze")

        read_everything(server, tmp_path)

        assert lint(connection, postgres, supabase) == [("unused_index", "trades", "needless")]


def test_in_partitions_only_the_indexes_of_a_month_without_rows_stay_unused(
    postgres: EmbeddedPostgres, supabase: SupabaseCli, tmp_path: Path
) -> None:
    """They cannot be used: a month is made before its rows come, and an empty table is not looked up by an index."""
    with project(postgres) as (server, connection):
        connection.execute((OPTIONAL / "partitions.sql").read_bytes())
        # The old tables are nobody's but the operator's, who drops them.
        connection.execute("drop table outbox_partitions.trades_before, outbox_partitions.events_before")
        connection.execute(NEEDLESS)
        connection.execute("analyze")
        filled = {str(name).removeprefix("outbox_partitions.") for name in column(connection, FILLED)}
        assert len(filled) >= 8  # four months at the least, of trades and of events

        read_everything(server, tmp_path)

        found = lint(connection, postgres, supabase)
        assert {rule for rule, _, _ in found} == {"unused_index"}
        unused = {(table, index) for _, table, index in found if table in filled}
        assert unused == {(table, f"{table}_comment_idx") for table in filled if table.startswith("trades_")}


# ------------------------------------------------------------------------------------- what the linter does not ask

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
    "a policy lets everybody change everything": f"""
        select p.tablename || '.' || p.policyname from pg_policies p
        where p.schemaname::regnamespace in {OURS} and p.permissive = 'PERMISSIVE' and p.cmd <> 'SELECT'
        and p.roles && '{{public,anon,authenticated}}' and 'true' in (p.qual, p.with_check)""",
    "a function runs as its owner and the public may call it": f"""
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in {OURS} and p.prosecdef
        and (has_function_privilege('anon', p.oid, 'execute')
             or has_function_privilege('authenticated', p.oid, 'execute'))""",
    "an index is not valid": f"""
        select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indrelid
        where c.relnamespace in {OURS} and not i.indisvalid""",
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

QUESTION_FAULTS = {
    "row-level security is off on a table that PostgREST shows": "alter table trades disable row level security",
    "row-level security is on and no policy lets anybody in": "drop policy events_service on events",
    "a policy has no effect, row-level security is off": "alter table trades disable row level security",
    "several permissive policies for one role and command": (
        "create policy again on trades for insert to service_role with check (true)"
    ),
    "a policy lets everybody change everything": "create policy open on trades for insert to anon with check (true)",
    "a function runs as its owner and the public may call it": (
        "create function f() returns int language sql security definer set search_path = '' as 'select 1'"
    ),
    "an index is not valid": (
        "update pg_index set indisvalid = false where indexrelid = 'idx_trades_session'::regclass"
    ),
    "the public may read a column of a sensitive name": (
        "alter table trades disable row level security; grant select on trades to anon"
    ),
    "autovacuum is off for a table": "alter table sessions set (autovacuum_enabled = false)",
}


@pytest.fixture(scope="module")
def hosted(postgres: EmbeddedPostgres, template: str) -> Iterator[Connection]:
    """A copy that is shared: a test rolls back what it does."""
    with new_database(postgres, template) as connection:
        yield connection


def findings(connection: Connection) -> dict[str, list[object]]:
    asked = {question: column(connection, text) for question, text in QUESTIONS.items()}
    return {question: found for question, found in asked.items() if found}


def test_no_question_of_our_own_finds_anything(hosted: Connection) -> None:
    assert findings(hosted) == {}


@pytest.mark.parametrize("file", OPTIONAL_FILES)
def test_no_question_of_our_own_finds_anything_after_an_optional_file(hosted: Connection, file: str) -> None:
    with hosted.transaction(force_rollback=True):
        hosted.execute((OPTIONAL / f"{file}.sql").read_bytes())
        # The old tables are nobody's but the operator's, who drops them: they are as they were.
        assert findings(hosted) == {}


def test_every_question_has_a_fault_to_find() -> None:
    assert set(QUESTIONS) == set(QUESTION_FAULTS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_of_our_own_finds_the_fault(hosted: Connection, question: str) -> None:
    """The control of the tests above, on the table that the linter does not see: each sees what it asks for."""
    with hosted.transaction(force_rollback=True):
        hosted.execute((OPTIONAL / "partitions.sql").read_bytes())
        hosted.execute(QUESTION_FAULTS[question])
        assert question in findings(hosted)


def test_the_linter_finds_none_of_these_faults(
    copy: Connection, postgres: EmbeddedPostgres, supabase: SupabaseCli
) -> None:
    """Why they are asked here. Should a later version find one, its question can go."""
    copy.execute((OPTIONAL / "partitions.sql").read_bytes())
    # Last those that switch row-level security off: they might hide the others.
    for last in (False, True):
        faults = [text for text in QUESTION_FAULTS.values() if ("disable row level security" in text) is last]
        assert len(faults) >= 3
        for statements in faults:
            copy.execute(statements)

        assert {rule for rule, _, _ in lint(copy, postgres, supabase)} == {"unused_index"}
