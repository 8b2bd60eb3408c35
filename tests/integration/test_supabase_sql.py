"""The shipped SQL, file by file through psql as a person would run it, on a real PostgreSQL."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors
from supabase_lite import EmbeddedPostgres

from tests.integration.sql_bench import (
    FILES,
    INSERTS,
    OLD,
    OLD_ROWS,
    OLD_TABLES,
    ROLES,
    TABLES,
    Connection,
    PsqlRunner,
    acting_as,
    allowed,
    attempts,
    column,
    columns,
    like_hosted,
    rows,
)

UPSERT = """insert into public.sessions as s (session_id, start_time, status, version) values ('s', now(), %s, %s)
    on conflict (session_id) do update set status = excluded.status, version = excluded.version"""

DROP = "drop table sessions, trades, events, outbox_health cascade"

WITHOUT_ROW_SECURITY = (
    "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and not relrowsecurity"
)

FUNCTIONS = "select oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace order by 1"

WITHOUT_SEARCH_PATH = """select proname from pg_proc where pronamespace = 'public'::regnamespace
    and not coalesce('search_path=""' = any(proconfig), false)"""

# --------------------------------------------------------------------------------------------------- applying


def test_the_files_apply_again_and_again_and_change_nothing_more(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh, FILES[:1])
    after_the_first_file = psql.schema(fresh)
    psql.apply(fresh)
    first = psql.schema(fresh)

    psql.apply(fresh)
    psql.apply(fresh)

    assert psql.schema(fresh) == first
    assert first != after_the_first_file  # control: the comparison sees a difference


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
    before = {table: rows(fresh, table) for table in OLD}
    assert [len(before[table]) for table in OLD] == [50, 500, 500]

    psql.apply(fresh)
    psql.apply(fresh)

    after = {table: rows(fresh, table) for table in OLD}
    assert column(fresh, "select count(*) from events where jsonb_typeof(data) <> 'object'") == [0]
    for (row,) in before["events"]:
        row["data"] = json.loads(row["data"])
    assert after == before
    assert column(fresh, "select distinct version from sessions") == [0]
    fresh.execute("drop function uuid_generate_v4()")  # would be refused if a default still called it
    migrated = [found for found in columns(fresh) if found[1] != "note_of_mine"]
    indexes = "select indexname from pg_indexes where schemaname = 'public' order by 1"
    migrated_indexes = column(fresh, indexes)
    assert "idx_sessions_session_id" not in migrated_indexes
    fresh.execute(DROP)
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
    fresh.execute("alter table events drop column source, drop column data cascade")
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
        while not refusals:  # the test's own time limit bounds it
            time.sleep(0.01)
        fresh.execute("grant insert on public.events to service_role")


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
        wrote.wait()
        yield refusals
    finally:
        done.set()
        bot.join()
        connection.execute(f"drop role {role}")


# ----------------------------------------------------------------------------------------------------- access


def test_a_public_role_can_do_nothing_even_where_new_tables_are_open_to_it(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)  # makes the roles
    fresh.execute(DROP)
    like_hosted(fresh)

    psql.apply(fresh)

    for role in ("anon", "authenticated"):
        assert {table: allowed(fresh, role, table) for table in TABLES} == {table: set() for table in TABLES}


def test_a_public_role_could_do_everything_without_the_access_file(fresh: Connection, psql: PsqlRunner) -> None:
    """The control of the test above: the roles are able to, and the statements are right."""
    psql.apply(fresh)
    fresh.execute(DROP)
    like_hosted(fresh)

    psql.apply(fresh, FILES[:1])
    fresh.execute("alter table trades disable row level security")

    assert allowed(fresh, "anon", "trades") == set(attempts("trades"))


def test_between_the_first_file_and_the_second_a_public_role_sees_and_adds_no_row(
    fresh: Connection, psql: PsqlRunner
) -> None:
    psql.apply(fresh)
    fresh.execute(DROP)
    like_hosted(fresh)
    psql.apply(fresh, FILES[:1])
    fresh.execute(INSERTS["trades"])

    with acting_as(fresh, "anon"):
        assert column(fresh, "select id from public.trades") == []
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            fresh.execute(INSERTS["trades"])
    assert len(column(fresh, "select id from public.trades")) == 1


@pytest.mark.parametrize("table", TABLES)
def test_the_service_role_reads_inserts_and_updates_and_cannot_delete(applied: Connection, table: str) -> None:
    assert allowed(applied, "service_role", table) == {"select", "insert", "update"}


def test_row_level_security_is_on_with_one_policy_for_each_table(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    assert column(fresh, WITHOUT_ROW_SECURITY) == []
    policies = fresh.execute("select tablename, roles::text[] from pg_policies where schemaname = 'public' order by 1")
    assert policies.fetchall() == [(table, ["service_role"]) for table in sorted(TABLES)]
    fresh.execute("create table public.open_to_all (id int)")
    assert column(fresh, WITHOUT_ROW_SECURITY) == ["open_to_all"]  # control: the query finds one


def test_every_function_has_a_fixed_search_path_and_nobody_may_call_it(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    functions = column(fresh, FUNCTIONS)
    for function in functions:
        fresh.execute(f"drop function {function} cascade")
    like_hosted(fresh)
    psql.apply(fresh)

    assert column(fresh, FUNCTIONS) == functions
    assert len(functions) >= 3
    assert column(fresh, WITHOUT_SEARCH_PATH) == []
    callers = "select role from unnest(%s::text[]) as role where has_function_privilege(role, %s, 'execute')"
    for function in functions:
        assert fresh.execute(callers, (list(ROLES), function)).fetchall() == []
    fresh.execute("create function public.loose() returns int language sql as 'select 1'")
    assert column(fresh, WITHOUT_SEARCH_PATH) == ["loose"]  # control: the query finds one


# -------------------------------------------------------------------------------------------- events, and sources


@pytest.mark.parametrize(
    ("put", "stored"),
    [
        pytest.param('{"a": 1}', {"a": 1}, id="an object"),
        pytest.param('"{\\"a\\": 1}"', {"a": 1}, id="the text of one, as the old module sent it"),
        pytest.param('"{\\"a\\": NaN}"', {"value": '{"a": NaN}'}, id="a text that is no JSON"),
        pytest.param('"[1]"', {"value": "[1]"}, id="the text of a list"),
        pytest.param("[1, 2]", {"value": [1, 2]}, id="a list"),
        pytest.param("0", {"value": 0}, id="a number"),
        pytest.param("null", None, id="the JSON null"),
        pytest.param(None, None, id="null"),
    ],
)
def test_an_events_data_are_an_object_or_null_and_keep_what_was_put(
    applied: Connection, put: str | None, stored: object
) -> None:
    with acting_as(applied, "service_role"):
        applied.execute(
            "insert into public.events (timestamp, event_type, data) values (now(), 'x', %s::jsonb)", (put,)
        )
    assert column(applied, "select data from events") == [stored]

    applied.execute("set session_replication_role = replica")  # control: no trigger fires, and it stays what was put
    applied.execute("update events set data = %s::jsonb", (put,))
    assert column(applied, "select data from events") == [None if put is None else json.loads(put)]


def test_a_text_nested_beyond_the_databases_depth_is_kept_as_a_text(applied: Connection) -> None:
    deep = "[" * 100_000
    applied.execute("insert into events (timestamp, event_type, data) values (now(), 'x', to_jsonb(%s::text))", (deep,))
    assert column(applied, "select length(data ->> 'value') from events") == [100_000]


@pytest.mark.parametrize("table", OLD)
@pytest.mark.parametrize(
    ("headers", "source"),
    [
        pytest.param('{"x-outbox-source": "trend@desk"}', "trend@desk", id="sent by a bot"),
        pytest.param('{"user-agent": "curl"}', None, id="sent by something else"),
        pytest.param("", None, id="after a request on the same connection"),
        pytest.param(None, None, id="no PostgREST at all"),
    ],
)
def test_a_row_holds_the_source_that_its_request_names(
    applied: Connection, table: str, headers: str | None, source: str | None
) -> None:
    if headers is not None:  # as PostgREST does for each request
        applied.execute("select set_config('request.headers', %s, false)", (headers,))
    with acting_as(applied, "service_role"):
        applied.execute(INSERTS[table])
    assert column(applied, f"select source from {table}") == [source]


def test_a_merge_leaves_the_source_of_the_first_sender(applied: Connection) -> None:
    for version, source in ((1, "first"), (2, "second")):
        applied.execute("select set_config('request.headers', %s, false)", (json.dumps({"x-outbox-source": source}),))
        applied.execute(UPSERT, ("RUNNING", version))
    assert applied.execute("select version, source from sessions").fetchall() == [(2, "first")]


# ----------------------------------------------------------------------------------------------- newer state


def late_upsert(connection: Connection) -> tuple[object, int]:
    """Put RUNNING (1), STOPPED (2), and RUNNING (1) again, late. Return the status and the last one's row count."""
    with acting_as(connection, "service_role"):
        connection.execute(UPSERT, ("RUNNING", 1))
        connection.execute(UPSERT, ("STOPPED", 2))
        late = connection.execute(UPSERT, ("RUNNING", 1)).rowcount
        return column(connection, "select status || ' ' || version from public.sessions")[0], late


def test_an_older_upsert_that_arrives_late_counts_as_done_and_reverts_nothing(applied: Connection) -> None:
    assert late_upsert(applied) == ("STOPPED 2", 1)


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
def test_an_update_goes_through_unless_its_version_is_older(applied: Connection, statement: str, status: str) -> None:
    applied.execute(UPSERT, ("old", 2))

    assert applied.execute(statement).rowcount == 1

    assert column(applied, "select status || ' ' || version from public.sessions") == [status]
