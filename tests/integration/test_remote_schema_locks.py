"""Applying the files does not disturb running bots: who waits, how long, and what is refused. On a real PostgreSQL."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import errors
from supabase_lite import EmbeddedPostgres
from typer.testing import CliRunner

from outbox.cli.app import app
from tests.integration.sql_bench import (
    FILES,
    HOW,
    INSERTS,
    OLD,
    OLD_ROWS,
    OLD_TABLES,
    TABLES,
    Connection,
    PsqlRunner,
    column,
    new_database,
    run_files,
)


@pytest.fixture(scope="module")
def done(postgres: EmbeddedPostgres) -> Iterator[Connection]:
    with new_database(postgres) as connection:
        PsqlRunner(postgres).apply(connection)
        yield connection


@contextmanager
def held(postgres: EmbeddedPostgres, connection: Connection, table: str) -> Iterator[None]:
    """A dashboard's transaction that has read a table and is left open."""
    with psycopg.connect(postgres.database(connection.info.dbname)) as other:
        other.execute(f"select count(*) from public.{table}")
        yield


@pytest.mark.parametrize("how", HOW)
def test_where_all_is_as_wanted_a_file_takes_no_lock_that_a_reader_or_a_writer_meets(
    done: Connection, postgres: EmbeddedPostgres, how: str
) -> None:
    done.execute("set outbox.lock_wait_s = 0.001")
    with psycopg.connect(postgres.database(done.info.dbname)) as other:
        for table in TABLES:
            other.execute(INSERTS[table])
        other.execute("select count(*) from public.outbox_fleet")
        run_files(done, how)
        # Control: what the files would have waited for is really held.
        done.execute("set lock_timeout = '50ms'")
        for table in TABLES:
            with pytest.raises(errors.LockNotAvailable):
                done.execute(f"alter table public.{table} enable row level security")
        done.execute("reset lock_timeout")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("busy", OLD)
def test_behind_a_reader_inserts_go_on_while_the_files_wait_for_it(
    fresh: Connection, postgres: EmbeddedPostgres, how: str, busy: str
) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(OLD_ROWS)
    fresh.execute("set outbox.lock_wait_s = 0.01")
    with held(postgres, fresh, busy):
        with pytest.raises(errors.LockNotAvailable, match=rf"public\.{busy} was in use for 0.01 s; nothing of this"):
            run_files(fresh, how)

        fresh.execute("set outbox.lock_wait_s = 200")
        applying = threading.Thread(target=run_files, args=(fresh, how))
        assert inserts_go_on(postgres, fresh, applying)
    applying.join()  # the reader is gone
    assert column(fresh, "select count(*) from pg_policies where schemaname = 'public'") == [4]


def test_without_the_files_own_limit_the_inserts_would_have_waited_for_the_reader(
    fresh: Connection, postgres: EmbeddedPostgres
) -> None:
    """The control of the test above: a plain statement queues, and all inserts behind it."""
    fresh.execute(OLD_TABLES)
    fresh.execute("set lock_timeout = '3s'")

    def alter() -> None:
        with pytest.raises(errors.LockNotAvailable):
            fresh.execute("alter table trades enable row level security")

    with held(postgres, fresh, "trades"):
        assert not inserts_go_on(postgres, fresh, threading.Thread(target=alter))


def inserts_go_on(postgres: EmbeddedPostgres, connection: Connection, changing: threading.Thread) -> bool:
    """Start `changing`; return whether bots insert into each table between two moments at which it waits for a lock.

    False: it has ended before that.
    """
    inserted = dict.fromkeys(OLD, 0)
    stop = threading.Event()

    def insert(table: str) -> None:
        with psycopg.connect(postgres.database(connection.info.dbname), autocommit=True) as own:
            while not stop.wait(0.01):
                own.execute(INSERTS[table])
                inserted[table] += 1

    bots = [threading.Thread(target=insert, args=(table,)) for table in OLD]
    changing.start()
    waiting(postgres, connection, connection.info.backend_pid)
    for bot in bots:
        bot.start()
    try:
        with psycopg.connect(postgres.dsn, autocommit=True) as admin:
            while changing.is_alive():
                everywhere = all(inserted.values())
                if is_waiting(admin, connection, connection.info.backend_pid) and everywhere:
                    return True
                time.sleep(0.01)
        return False
    finally:
        stop.set()
        for bot in bots:
            bot.join()


def test_a_dashboard_that_reads_two_tables_is_never_the_victim_of_a_deadlock(
    fresh: Connection, postgres: EmbeddedPostgres
) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute("set outbox.lock_wait_s = 200")
    failed: list[psycopg.Error] = []

    def apply() -> None:
        try:
            run_files(fresh, "in one transaction")
        except psycopg.Error as error:
            failed.append(error)

    with psycopg.connect(postgres.database(fresh.info.dbname)) as dashboard:
        dashboard.execute("select count(*) from trades")
        applying = threading.Thread(target=apply)
        applying.start()
        for _ in range(3):
            for table in ("events", "sessions"):
                dashboard.execute(f"select count(*) from {table}")
                waiting(postgres, fresh)
        dashboard.commit()
        applying.join()
    assert failed == []
    assert column(fresh, "select count(*) from pg_policies where schemaname = 'public'") == [4]


def waiting(postgres: EmbeddedPostgres, connection: Connection, pid: int | None = None) -> None:
    """Return once somebody in the database waits for a lock; pid: that one."""
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        while not is_waiting(admin, connection, pid):
            time.sleep(0.01)


def is_waiting(admin: Connection, connection: Connection, pid: int | None) -> bool:
    query = """select exists (select from pg_locks where not granted and pid = coalesce(%s, pid)
        and database = (select oid from pg_database where datname = %s))"""
    return admin.execute(query, (pid, connection.info.dbname)).fetchone() == (True,)


def test_a_projects_time_limit_does_not_end_the_rewrite_of_old_events(fresh: Connection, psql: PsqlRunner) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(OLD_ROWS)
    psql.apply(fresh, FILES[:5])
    fresh.execute("create function slowly() returns trigger language plpgsql as"
                  " $$ begin perform pg_sleep(0.005); return new; end $$;"
                  "create trigger slowly before update on events for each row execute function slowly()")  # fmt: skip
    fresh.execute(f"alter database {fresh.info.dbname} set statement_timeout = '1500ms'")

    psql.apply(fresh, FILES[5:6])

    assert column(fresh, "select count(*) from events where jsonb_typeof(data) <> 'object'") == [0]
    fresh.execute("set statement_timeout = '1500ms'")
    with pytest.raises(errors.QueryCanceled):  # control: it is more than the limit allows
        fresh.execute("update events set data = data")
    fresh.execute("reset statement_timeout")


# ------------------------------------------------------------------------------------------- tables of other shapes

SHAPES = [
    pytest.param("alter table sessions add version text", r"public\.sessions\.version is text where bigint", id="text"),
    pytest.param("alter table sessions add version int", r"sessions\.version is integer where bigint", id="int"),
    pytest.param(
        "alter table trades drop column id; alter table trades add id bigserial primary key",
        r"public\.trades\.id is bigint where uuid", id="bigint ids",
    ),
    pytest.param("alter table events alter data type json", r"events\.data is json where jsonb", id="json"),
    pytest.param("alter table events alter data type text", r"events\.data is text where jsonb", id="text data"),
    pytest.param("alter table sessions drop constraint sessions_session_id_key",
                 r"public\.sessions has no unique constraint on \(session_id\) alone", id="session_id not unique"),
    pytest.param("alter table trades drop constraint trades_pkey",
                 r"public\.trades has no unique constraint on \(id\) alone", id="no primary key"),
    pytest.param("alter table trades drop constraint trades_pkey, add primary key (id, timestamp)",
                 r"public\.trades has no unique constraint on \(id\) alone", id="a wider primary key"),
    pytest.param("alter table trades alter timestamp type timestamp",
                 r"trades\.timestamp is timestamp without time zone where timestamptz", id="no time zone"),
    pytest.param("alter table events rename session_id to session; alter table trades drop column symbol",
                 r"public\.trades has no column symbol", id="a missing column"),
    pytest.param("alter table trades alter pnl type text", r"trades\.pnl is text where float", id="money as text"),
    pytest.param("drop table events; create view events as select 1 as id", r"public\.events is no table", id="a view"),
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("shape", "said"), SHAPES)
def test_an_old_table_of_another_shape_is_refused_by_name_before_anything_is_changed(
    fresh: Connection, psql: PsqlRunner, how: str, shape: str, said: str
) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(shape)
    before = psql.schema(fresh)

    with pytest.raises(psycopg.Error, match=rf"nothing was changed: .*{said}"):
        run_files(fresh, how)

    assert psql.schema(fresh) == before


def test_all_that_is_wrong_is_named_at_once(fresh: Connection, postgres: EmbeddedPostgres) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute("alter table sessions add version text; alter table events alter data type json")

    dsn = postgres.database(fresh.info.dbname)
    said = json.loads(CliRunner().invoke(app, ["schema", "apply", "--json", dsn]).output)

    assert said["applied"] == []
    assert "sessions.version is text" in said["error"] and "events.data is json" in said["error"]
    assert "docs/supabase.md" in said["error"]


@pytest.mark.parametrize("shape", [
    "alter table trades alter pnl type numeric",
    "alter table sessions add version bigint not null default 0",
    "alter table trades alter symbol type varchar(20)",
    "alter table trades alter direction type bigint",
    "alter table sessions drop column total_pnl",
    "alter table trades add note_of_mine json",
])  # fmt: skip
def test_a_shape_that_serves_as_well_is_taken(fresh: Connection, shape: str) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(shape)
    run_files(fresh, "in one transaction")
    for table in TABLES:
        fresh.execute(INSERTS[table])
