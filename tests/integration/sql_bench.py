"""What the tests of the shipped SQL share: psql as a person would run it, the old tables, and who may do what."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow
from supabase_lite import SQL, EmbeddedPostgres

FILES = sorted(SQL.glob("*.sql"))
OPTIONAL = SQL / "optional"
OLD = ("sessions", "trades", "events")
TABLES = (*OLD, "outbox_health")
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
    select 's1', now(), 'x', to_jsonb(jsonb_build_object('n', n, 'é"\', array[n / 3.0])::text)
    from generate_series(1, 500) n;
"""

INSERTS = {
    "sessions": "insert into public.sessions (session_id, start_time) values (gen_random_uuid()::text, now())",
    "trades": "insert into public.trades (session_id, timestamp, symbol) values ('s', now(), 'EURUSD')",
    "events": "insert into public.events (timestamp, event_type) values (now(), 'x')",
    "outbox_health": "insert into public.outbox_health (source, pending, dead, every_s)"
    " values (gen_random_uuid()::text, 0, 0, 60)",
}

# The files as the three ways run them: statement by statement, or each file as one transaction.
HOW = ["statement by statement", "in one transaction"]

Connection = psycopg.Connection[TupleRow]

_numbers = itertools.count(1)


@contextmanager
def new_database(server: EmbeddedPostgres, template: str = "template1") -> Iterator[Connection]:
    """A superuser's connection to a database of its own, a copy of `template`, to which nobody may be connected."""
    server.start()
    name = f"fresh_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as postgres:
        postgres.execute(f"create database {name} template {template}")
        with psycopg.connect(server.database(name), autocommit=True) as connection:
            yield connection
        postgres.execute(f"drop database {name} with (force)")


@contextmanager
def new_template(server: EmbeddedPostgres, prepare: Callable[[Connection], None]) -> Iterator[str]:
    """The name of a database that `prepare` has filled, for `new_database` to copy."""
    with new_database(server) as connection:
        prepare(connection)
        name = connection.info.dbname
        connection.close()
        yield name


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout


def run_files(connection: Connection, how: str, files: list[Path] = FILES) -> None:
    for file in files:
        if how == "in one transaction":
            with connection.transaction():
                connection.execute(file.read_bytes(), prepare=False)
        else:
            for statement in statements(file):
                connection.execute(statement.encode(), prepare=False)


def statements(file: Path) -> list[str]:
    """Each ends with a semicolon at a line's end that no $$ encloses."""
    found, begun, within = [], "", False
    for line in file.read_text("utf-8").splitlines(keepends=True):
        begun += line
        within ^= line.count("$$") % 2 == 1
        if line.split("--")[0].rstrip().endswith(";") and not within:
            found.append(begun)
            begun = ""
    return found


def like_hosted(connection: Connection) -> None:
    """Supabase has three roles and opens every new table and function of schema public to them."""
    for role in ROLES:
        if not column(connection, f"select rolname from pg_roles where rolname = '{role}'"):
            connection.execute(f"create role {role} nologin noinherit")
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
    column = "source" if table == "outbox_health" else "session_id"
    return {
        "select": f"select * from public.{table}",
        "insert": INSERTS[table],
        "update": f"update public.{table} set {column} = {column}",
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
    """Every row as JSON, without the columns that the files add."""
    query = f"select to_jsonb(t) - 'version' - 'source' - 'extra' from public.{table} t order by id"
    return connection.execute(query).fetchall()


def column(connection: Connection, query: str) -> list[object]:
    return [row[0] for row in connection.execute(query).fetchall()]
