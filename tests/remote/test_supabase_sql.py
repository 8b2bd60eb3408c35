"""The shipped SQL, file by file through psql as a person would run it, on a real PostgreSQL."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import TupleRow
from supabase_lite import SQL, EmbeddedPostgres

FILES = sorted(SQL.glob("*.sql"))
TABLES = ("sessions", "trades", "events")
ROLES = ("anon", "authenticated", "service_role")

# The tables as the module before this one had them, as its specification gives them. uuid-ossp is not in the wheel:
# a function of the same name stands in for it.
OLD_TABLES = """
create function uuid_generate_v4() returns uuid language sql set search_path = '' as 'select gen_random_uuid()';
create table sessions (id uuid primary key default uuid_generate_v4(), session_id text unique not null,
    start_time timestamptz not null, end_time timestamptz, initial_balance float, final_balance float,
    total_trades int default 0, total_pnl float default 0, symbols text[], status text default 'RUNNING',
    end_reason text, created_at timestamptz default now());
create table trades (id uuid primary key default uuid_generate_v4(), session_id text not null, trade_id text,
    timestamp timestamptz not null, symbol text not null, direction int, intensity int, action text, volume float,
    entry_price float, exit_price float, pnl float, pnl_pips float, commission float default 0, hmm_state int,
    is_paper boolean default false, comment text, created_at timestamptz default now());
create table events (id uuid primary key default uuid_generate_v4(), session_id text,
    timestamp timestamptz not null, event_type text not null, data jsonb, created_at timestamptz default now());
create index idx_sessions_session_id on sessions(session_id);
create index idx_trades_session on trades(session_id);
create index idx_trades_symbol on trades(symbol);
create index idx_trades_is_paper on trades(is_paper);
create index idx_trades_timestamp on trades(timestamp);
create index idx_events_session on events(session_id);
create index idx_events_type on events(event_type);
"""
OLD_ROWS = """
insert into sessions (session_id, start_time, symbols, status)
    select 's' || n, now(), array['EURUSD', 'x'], 'STOPPED' from generate_series(1, 50) n;
insert into trades (session_id, timestamp, symbol, pnl)
    select 's1', now(), 'EURUSD', n / 3.0 from generate_series(1, 500) n;
insert into events (session_id, timestamp, event_type, data)
    select 's1', now(), 'x', to_jsonb('{"a": 1}'::text) from generate_series(1, 500) n;
"""

INSERTS = {
    "sessions": "insert into public.sessions (session_id, start_time) values (gen_random_uuid()::text, now())",
    "trades": "insert into public.trades (session_id, timestamp, symbol) values ('s', now(), 'EURUSD')",
    "events": "insert into public.events (timestamp, event_type) values (now(), 'x')",
}

UPSERT = """insert into public.sessions as s (session_id, start_time, status, version) values ('s', now(), %s, %s)
    on conflict (session_id) do update set status = excluded.status, version = excluded.version"""

WITHOUT_ROW_SECURITY = (
    "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and not relrowsecurity"
)

WITHOUT_SEARCH_PATH = """select proname from pg_proc where pronamespace = 'public'::regnamespace
    and not coalesce('search_path=""' = any(proconfig), false)"""

Connection = psycopg.Connection[TupleRow]


@pytest.fixture
def psql(postgres: EmbeddedPostgres) -> PsqlRunner:
    return PsqlRunner(postgres)


class PsqlRunner:
    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server

    def apply(self, connection: Connection, files: list[Path] = FILES) -> None:
        for file in files:
            self._run("psql", connection, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file))

    def schema(self, connection: Connection) -> str:
        """The whole schema as text, without the random token that pg_dump puts around it."""
        dump = self._run("pg_dump", connection, "--schema-only")
        return re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)

    def _run(self, program: str, connection: Connection, *arguments: str) -> str:
        dsn = self.server.database(connection.info.dbname)
        command = [str(self.server.bin / program), *arguments, dsn]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout


def like_hosted(connection: Connection) -> None:
    """Supabase opens every new table and function of schema public to its three roles."""
    for kind in ("tables", "functions"):
        connection.execute(f"alter default privileges in schema public grant all on {kind} to {', '.join(ROLES)}")
    connection.execute(f"grant usage on schema public to {', '.join(ROLES)}")


@contextmanager
def acting_as(connection: Connection, role: str) -> Iterator[None]:
    connection.execute(f"set role {role}")
    try:
        yield
    finally:
        connection.execute("reset role")


def attempts(table: str) -> dict[str, str]:
    return {
        "select": f"select * from public.{table}",
        "insert": INSERTS[table],
        "update": f"update public.{table} set session_id = session_id",
        "delete": f"delete from public.{table}",
        "truncate": f"truncate public.{table}",
    }


def allowed(connection: Connection, role: str, table: str) -> set[str]:
    """What `role` may do with `table`, found by doing it."""
    done = set()
    for verb, statement in attempts(table).items():
        with acting_as(connection, role):
            try:
                connection.execute(statement)
            except errors.InsufficientPrivilege:
                continue
            done.add(verb)
    return done


def columns(connection: Connection) -> list[TupleRow]:
    return connection.execute(
        """select table_name, column_name, data_type, is_nullable, column_default
        from information_schema.columns where table_schema = 'public' order by 1, 2"""
    ).fetchall()


def rows(connection: Connection, table: str) -> list[TupleRow]:
    """Every row as JSON, without the column that the files add."""
    return connection.execute(f"select to_jsonb(t) - 'version' from public.{table} t order by id").fetchall()


def column(connection: Connection, query: str) -> list[object]:
    return [row[0] for row in connection.execute(query).fetchall()]


# --------------------------------------------------------------------------------------------------- applying


def test_the_files_apply_again_and_again_and_change_nothing_more(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh, FILES[:-1])
    before_the_last_file = psql.schema(fresh)
    psql.apply(fresh)
    first = psql.schema(fresh)

    psql.apply(fresh)
    psql.apply(fresh)

    assert psql.schema(fresh) == first
    assert first != before_the_last_file  # control: the comparison sees a difference


def test_the_files_apply_to_a_postgresql_that_has_none_of_supabases_roles() -> None:
    with EmbeddedPostgres() as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        there = "select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role')"
        assert column(connection, there) == []

        PsqlRunner(server).apply(connection)

        assert len(column(connection, there)) == 3
        assert allowed(connection, "service_role", "trades") == {"select", "insert", "update"}


def test_the_old_modules_tables_keep_every_row_and_end_like_new_ones(
    fresh: Connection, psql: PsqlRunner, postgres: EmbeddedPostgres
) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(OLD_ROWS)
    fresh.execute("alter table trades add column note_of_mine text default 'keep me'")
    before = {table: rows(fresh, table) for table in TABLES}
    assert [len(before[table]) for table in TABLES] == [50, 500, 500]

    psql.apply(fresh)
    psql.apply(fresh)

    assert {table: rows(fresh, table) for table in TABLES} == before
    assert column(fresh, "select distinct version from sessions") == [0]
    fresh.execute("drop function uuid_generate_v4()")  # would be refused if a default still called it
    migrated = [found for found in columns(fresh) if found[1] != "note_of_mine"]
    indexes = "select indexname from pg_indexes where schemaname = 'public' order by 1"
    migrated_indexes = column(fresh, indexes)
    assert "idx_sessions_session_id" not in migrated_indexes
    fresh.execute("drop table sessions, trades, events")
    psql.apply(fresh)
    assert (migrated, migrated_indexes) == (columns(fresh), column(fresh, indexes))


def test_an_old_table_still_calls_the_extension_without_the_files(fresh: Connection) -> None:
    """The control of the test above: what it asks for is not there before."""
    fresh.execute(OLD_TABLES)
    with pytest.raises(errors.DependentObjectsStillExist):
        fresh.execute("drop function uuid_generate_v4()")
    assert "version" not in column(
        fresh, "select column_name from information_schema.columns where table_name = 'sessions'"
    )


def test_columns_that_a_still_older_table_lacks_are_added(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    whole = columns(fresh)
    fresh.execute("alter table sessions drop column symbols, drop column version cascade")
    fresh.execute("alter table trades drop column is_paper, drop column commission")
    fresh.execute("alter table events drop column data")
    assert columns(fresh) != whole

    psql.apply(fresh)

    assert columns(fresh) == whole


def test_a_bot_that_writes_while_the_files_run_again_is_never_refused(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    with writing_bot(psql.server, fresh) as refusals:
        for _ in range(5):
            psql.apply(fresh)
    assert refusals == []


def test_the_writing_bot_notices_a_moment_without_its_grant(fresh: Connection, psql: PsqlRunner) -> None:
    """The control of the test above: with revoke and grant apart, it would have seen the gap."""
    psql.apply(fresh)
    with writing_bot(psql.server, fresh) as refusals:
        fresh.execute("revoke insert on public.events from service_role")
        deadline = time.monotonic() + 10
        while not refusals and time.monotonic() < deadline:
            time.sleep(0.01)
        fresh.execute("grant insert on public.events to service_role")
    assert refusals


@contextmanager
def writing_bot(server: EmbeddedPostgres, connection: Connection) -> Iterator[list[str]]:
    """Insert into events as a service_role that row-level security applies to, and collect what was refused."""
    refusals: list[str] = []
    wrote, done = threading.Event(), threading.Event()
    role = f"bot_{uuid4().hex[:8]}"
    connection.execute(f"create role {role} in role service_role")

    def write() -> None:
        with psycopg.connect(server.database(connection.info.dbname), autocommit=True) as own:
            own.execute(f"set role {role}")
            while not done.is_set():
                try:
                    own.execute(INSERTS["events"])
                except errors.InsufficientPrivilege as error:
                    refusals.append(str(error))
                wrote.set()

    bot = threading.Thread(target=write)
    bot.start()
    try:
        assert wrote.wait(10)
        yield refusals
    finally:
        done.set()
        bot.join(10)
        connection.execute(f"drop role {role}")


# ----------------------------------------------------------------------------------------------------- access


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_a_public_role_can_do_nothing_even_where_new_tables_are_open_to_it(
    fresh: Connection, psql: PsqlRunner, role: str, table: str
) -> None:
    psql.apply(fresh)  # makes the roles
    fresh.execute("drop table sessions, trades, events")
    like_hosted(fresh)

    psql.apply(fresh)

    assert allowed(fresh, role, table) == set()


def test_a_public_role_could_do_everything_without_the_access_file(fresh: Connection, psql: PsqlRunner) -> None:
    """The control of the test above: the roles are able to, and the statements are right."""
    psql.apply(fresh)
    fresh.execute("drop table sessions, trades, events")
    like_hosted(fresh)

    psql.apply(fresh, FILES[:1])
    fresh.execute("alter table trades disable row level security")

    assert allowed(fresh, "anon", "trades") == set(attempts("trades"))


def test_between_the_first_file_and_the_second_a_public_role_sees_and_adds_no_row(
    fresh: Connection, psql: PsqlRunner
) -> None:
    psql.apply(fresh)
    fresh.execute("drop table sessions, trades, events")
    like_hosted(fresh)
    psql.apply(fresh, FILES[:1])
    fresh.execute(INSERTS["trades"])

    with acting_as(fresh, "anon"):
        assert column(fresh, "select id from public.trades") == []
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            fresh.execute(INSERTS["trades"])
    assert len(column(fresh, "select id from public.trades")) == 1


@pytest.mark.parametrize("table", TABLES)
def test_the_service_role_reads_inserts_and_updates_and_cannot_delete(
    fresh: Connection, psql: PsqlRunner, table: str
) -> None:
    psql.apply(fresh)
    assert allowed(fresh, "service_role", table) == {"select", "insert", "update"}


def test_row_level_security_is_on_with_one_policy_for_each_table(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    assert column(fresh, WITHOUT_ROW_SECURITY) == []
    policies = fresh.execute("select tablename, roles::text[] from pg_policies where schemaname = 'public' order by 1")
    assert policies.fetchall() == [(table, ["service_role"]) for table in sorted(TABLES)]
    fresh.execute("create table public.open_to_all (id int)")
    assert column(fresh, WITHOUT_ROW_SECURITY) == ["open_to_all"]  # control: the query finds one


def test_every_function_has_a_fixed_search_path_and_nobody_may_call_it(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    fresh.execute("drop function public.outbox_keep_row() cascade")
    like_hosted(fresh)
    psql.apply(fresh)

    assert column(fresh, "select proname from pg_proc where pronamespace = 'public'::regnamespace") == [
        "outbox_keep_row"
    ]
    assert column(fresh, WITHOUT_SEARCH_PATH) == []
    callers = "select unnest(%s::text[]) as role"
    query = f"select role from ({callers}) r where has_function_privilege(role, 'public.outbox_keep_row()', 'execute')"
    assert fresh.execute(query, (list(ROLES),)).fetchall() == []
    fresh.execute("create function public.loose() returns int language sql as 'select 1'")
    assert column(fresh, WITHOUT_SEARCH_PATH) == ["loose"]  # control: the query finds one


# ----------------------------------------------------------------------------------------------- newer state


def late_upsert(connection: Connection) -> tuple[object, int]:
    """Put RUNNING (1), STOPPED (2), and RUNNING (1) again, late. Return the status and the last one's row count."""
    with acting_as(connection, "service_role"):
        connection.execute(UPSERT, ("RUNNING", 1))
        connection.execute(UPSERT, ("STOPPED", 2))
        late = connection.execute(UPSERT, ("RUNNING", 1)).rowcount
        return column(connection, "select status || ' ' || version from public.sessions")[0], late


def test_an_older_upsert_that_arrives_late_counts_as_done_and_reverts_nothing(
    fresh: Connection, psql: PsqlRunner
) -> None:
    psql.apply(fresh)
    assert late_upsert(fresh) == ("STOPPED 2", 1)


def test_an_older_upsert_that_arrives_late_reverts_without_the_trigger(fresh: Connection, psql: PsqlRunner) -> None:
    """The control of the test above."""
    psql.apply(fresh)
    fresh.execute("drop trigger outbox_keep_newer on public.sessions")
    assert late_upsert(fresh) == ("RUNNING 1", 1)


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        pytest.param("update public.sessions set status = 'new', version = 3", "new 3", id="newer"),
        pytest.param("update public.sessions set status = 'new', version = 2", "new 2", id="equal, a repetition"),
        pytest.param("update public.sessions set status = 'new'", "new 2", id="version not named"),
        pytest.param("update public.sessions set status = 'new', version = 1", "old 2", id="older"),
    ],
)
def test_an_update_goes_through_unless_its_version_is_older(
    fresh: Connection, psql: PsqlRunner, statement: str, status: str
) -> None:
    psql.apply(fresh)
    fresh.execute(UPSERT, ("old", 2))

    assert fresh.execute(statement).rowcount == 1

    assert column(fresh, "select status || ' ' || version from public.sessions") == [status]
