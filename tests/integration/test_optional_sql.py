"""The files of supabase_sql/optional: what each does, and that it takes nothing away. On a real PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from psycopg import errors
from supabase_lite import ROOT

from tests.integration.sql_bench import (
    FILES,
    INSERTS,
    OLD_ROWS,
    OLD_TABLES,
    OPTIONAL,
    TABLES,
    Connection,
    PsqlRunner,
    acting_as,
    allowed,
    column,
    rows,
)

MONEY, PARTITIONS, SMALL_ROLE = (
    OPTIONAL / f"{name}.sql" for name in ("money_as_numeric", "partitions", "least_privilege")
)


def test_no_optional_file_is_among_those_that_are_applied_by_default() -> None:
    assert not {file.name for file in FILES} & {file.name for file in OPTIONAL.glob("*.sql")}
    assert {MONEY, PARTITIONS, SMALL_ROLE} <= set(OPTIONAL.glob("*.sql"))


# ------------------------------------------------------------------------------------------------------- money

# Every float that PostgreSQL writes with 17 digits, halves of a cent, the ends of the range, and what is no number.
FLOATS = """insert into trades (session_id, symbol, timestamp, pnl, entry_price, exit_price, commission)
    select 's', 'x', now(), v, case when abs(v) > 1e-300 then v / 3 end, -v, null from (
        select n / 7.0 + n * n * 0.001 from generate_series(1, 2000) n
        union all select power(2, n) + power(2, n - 52) from generate_series(-300, 300) n
        union all select unnest('{0,-0,0.1,0.30000000000000004,1e308,5e-324,NaN,Infinity,-Infinity}'::float[])
    ) as floats (v)"""
BITS = "select id, float8send(pnl::float), float8send(entry_price::float), float8send(exit_price::float) from trades"


def test_money_keeps_every_value_to_the_last_bit(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    fresh.execute(FLOATS)
    # A NUMERIC has one zero and one NaN, without a sign.
    fresh.execute("update trades set pnl = 0, exit_price = 0, entry_price = 0 where pnl = 0")
    fresh.execute("update trades set exit_price = 'NaN' where exit_price = 'NaN'")
    before = fresh.execute(f"{BITS} order by id").fetchall()

    psql.apply(fresh, [MONEY, MONEY])

    assert fresh.execute(f"{BITS} order by id").fetchall() == before
    assert column(fresh, "select distinct commission from trades") == [None]
    types = "select data_type from information_schema.columns where column_name in ('pnl', 'volume', 'total_pnl')"
    assert column(fresh, types) == ["numeric"] * 3
    psql.apply(fresh)
    assert column(fresh, types) == ["numeric"] * 3


def test_a_plain_cast_would_have_changed_values(fresh: Connection, psql: PsqlRunner) -> None:
    """The control of the test above."""
    psql.apply(fresh)
    fresh.execute(FLOATS)
    before: dict[object, bytes] = dict(
        fresh.execute("select id, float8send(pnl) from trades where pnl > 0 and pnl < 1e300").fetchall()
    )
    fresh.execute("alter table trades alter column pnl type numeric")
    after: dict[object, bytes] = dict(fresh.execute("select id, float8send(pnl::float) from trades").fetchall())
    assert sum(after[each] != before[each] for each in before) > 100


# -------------------------------------------------------------------------------------------------- partitions

INSERT_ONCE = """insert into public.trades (id, session_id, symbol, timestamp) values (%s, 's', 'x', %s)
    on conflict (id) do nothing"""
V7 = "019b76da-a800-7000-8000-000000000001"  # of 2026-01-01T00:00:00Z
V4 = "d2c1a5be-3a55-4f0e-9a4e-0d6f3b1f2c11"


def test_partitions_keep_every_row_index_trigger_and_right(fresh: Connection, psql: PsqlRunner) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(OLD_ROWS)
    psql.apply(fresh)
    fresh.execute(INSERT_ONCE, (V7, "2026-01-01"))
    before = {table: rows(fresh, table) for table in TABLES[:3]}
    indexes = "select indexname from pg_indexes where schemaname = 'public' order by 1"
    there = column(fresh, indexes)

    psql.apply(fresh, [PARTITIONS, PARTITIONS])
    psql.apply(fresh)  # and the files that are applied by default still apply

    assert {table: rows(fresh, table) for table in TABLES[:3]} == before
    assert column(fresh, indexes) == there
    assert column(fresh, "select relname from pg_class where relkind = 'p' order by 1") == ["events", "trades"]
    for table in ("trades", "events"):
        assert allowed(fresh, "service_role", table) == {"select", "insert", "update"}
        assert allowed(fresh, "anon", table) == set()
    fresh.execute("insert into events (timestamp, event_type, data) values (now(), 'x', '[1]')")
    assert column(fresh, "select data from events where event_type = 'x' and data ? 'value'") == [{"value": [1]}]


@pytest.mark.parametrize("id", [V7, V4], ids=["an id of the outbox", "an id of another kind"])
def test_a_row_sent_twice_is_one_row_whatever_else_differs(fresh: Connection, psql: PsqlRunner, id: str) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [PARTITIONS])
    with acting_as(fresh, "service_role"):
        counts = [fresh.execute(INSERT_ONCE, (id, f"2026-0{month}-01")).rowcount for month in (1, 1, 5)]
    assert counts == [1, 0, 0]
    assert column(fresh, "select count(*) from trades") == [1]


def test_partitioned_by_time_the_same_id_would_be_two_rows(fresh: Connection, psql: PsqlRunner) -> None:
    """The control of the test above: what PostgreSQL makes of a key that holds the time."""
    psql.apply(fresh)
    fresh.execute("alter table trades drop constraint trades_pkey, add primary key (id, timestamp)")
    twice = INSERT_ONCE.replace("(id)", "(id, timestamp)")
    assert [fresh.execute(twice, (V7, f"2026-0{month}-01")).rowcount for month in (1, 1, 5)] == [1, 0, 1]


def test_ids_of_the_outbox_go_to_their_month_and_late_months_take_theirs_over(
    fresh: Connection, psql: PsqlRunner
) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [PARTITIONS])
    made = fresh.execute("select outbox_partitions.add_months(0, '2025-12-15T00:00:00Z')").fetchall()
    assert made[0][0] >= 2  # one a table, and more as time goes on
    fresh.execute(INSERT_ONCE, (V7, "2026-01-01"))
    fresh.execute(INSERT_ONCE, ("019b76da-a7ff-7fff-bfff-ffffffffffff", "2026-01-01"))  # the last of December
    fresh.execute(INSERT_ONCE, (V4, "2026-01-01"))
    fresh.execute(INSERT_ONCE, ("0199b000-0000-7000-8000-000000000000", "2025-10-04"))  # no partition yet
    where = "select tableoid::regclass::text from trades order by id"
    other = "outbox_partitions.trades_other"
    january, december, october = (f"outbox_partitions.trades_{m}" for m in ("2026_01", "2025_12", "2025_10"))
    assert column(fresh, where) == [other, december, january, other]

    fresh.execute("select outbox_partitions.add_months(0, '2025-10-15T00:00:00Z')")

    assert column(fresh, where) == [october, december, january, other]
    assert column(fresh, "select outbox_partitions.add_months(0, '2025-10-15T00:00:00Z')") == [0]


def test_the_public_may_not_call_what_makes_the_months(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [PARTITIONS])
    callable_ = """select proname from pg_proc where pronamespace = 'outbox_partitions'::regnamespace
        and has_function_privilege('anon', oid, 'execute')"""
    assert column(fresh, callable_) == []
    fresh.execute("grant execute on all functions in schema outbox_partitions to public")
    assert len(column(fresh, callable_)) == 2  # control: the query finds them


# ------------------------------------------------------------------------------------------------ the small role

UPSERT_AS_POSTGREST_DOES = """insert into public.sessions (session_id, start_time, status, version)
    select session_id, start_time, status, version from json_populate_recordset(null::public.sessions, %s)
    on conflict (session_id) do update set session_id = excluded.session_id, start_time = excluded.start_time,
    status = excluded.status, version = excluded.version returning 1"""


MATRIX: dict[str, dict[str, set[str]]] = {
    "anon": {table: set() for table in TABLES},
    "authenticated": {table: set() for table in TABLES},
    "service_role": {table: {"select", "insert", "update"} for table in TABLES},
    "outbox_bot": {
        "trades": {"select", "insert"},
        "events": {"select", "insert"},
        "sessions": {"select", "insert", "update"},
        "outbox_health": {"select", "update"},  # and inserts of its own source: INSERTS names another
    },
}


def claim(connection: Connection, source: str | None) -> None:
    """Go on as PostgREST does after a token with this claim, and a header that says something else."""
    claims = {"role": "outbox_bot"} | ({} if source is None else {"source": source})
    connection.execute("select set_config('request.jwt.claims', %s, false)", (json.dumps(claims),))
    connection.execute("select set_config('request.headers', %s, false)", ('{"x-outbox-source": "forged"}',))


@pytest.mark.parametrize("role", MATRIX)
def test_what_a_role_may_do_found_by_doing_it(fresh: Connection, psql: PsqlRunner, role: str) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [SMALL_ROLE, SMALL_ROLE])
    claim(fresh, "trend@desk")
    assert {table: allowed(fresh, role, table) for table in TABLES} == MATRIX[role]


# What else there is to be tried, and who may.
ELSE = {
    "select * from public.outbox_fleet": {"service_role"},
    "update public.outbox_fleet set pending = 0": set(),
    "delete from public.outbox_fleet": set(),
    "insert into public.outbox_fleet (source, pending, dead) values ('x', 0, 0)": set(),
    "select public.outbox_lock('{trades}', 'share')": set(),
    "select outbox_partitions.add_months(1)": set(),
    "select outbox_partitions.first_id(now())": set(),
    "select * from outbox_partitions.trades_other": set(),
    "insert into outbox_partitions.trades_other select * from public.trades": set(),
    "select * from outbox_partitions.trades_before": set(),
    "create table public.of_mine ()": set(),
    "alter table public.trades disable row level security": set(),
    "alter table public.sessions disable trigger outbox_keep_newer": set(),
    "create policy more on public.trades using (true)": set(),
    "drop trigger outbox_source on public.trades": set(),
    "truncate public.sessions, public.trades": set(),
}


def test_what_else_a_role_may_do_found_by_doing_it(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh, [*FILES, SMALL_ROLE, PARTITIONS])
    claim(fresh, "trend@desk")
    done: dict[str, set[str]] = {statement: set() for statement in ELSE}
    for role in MATRIX:
        for statement in ELSE:
            with fresh.transaction(force_rollback=True):
                fresh.execute(f"set local role {role}")
                with contextlib.suppress(errors.InsufficientPrivilege), fresh.transaction():
                    fresh.execute(statement)
                    done[statement].add(role)
    assert done == ELSE


def test_the_small_role_reaches_nothing_else(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    fresh.execute("create table public.of_another_program (session_id text)")
    fresh.execute("grant select on public.of_another_program to service_role")
    psql.apply(fresh, [SMALL_ROLE])

    refused = ("of_another_program", "outbox_fleet")
    kinds = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
    query = "select kind from unnest(%s::text[]) kind where has_table_privilege('outbox_bot', %s, kind)"
    for table in refused:
        assert fresh.execute(query, (list(kinds), f"public.{table}")).fetchall() == []
    callable_ = "select proname from pg_proc where pronamespace = 'public'::regnamespace and has_function_privilege"
    assert column(fresh, f"{callable_}('outbox_bot', oid, 'execute')") == []
    assert column(fresh, "select has_schema_privilege('outbox_bot', 'public', 'create')") == [False]
    roles = "select rolname from pg_roles where pg_has_role('outbox_bot', oid, 'member') and rolname <> 'outbox_bot'"
    assert column(fresh, roles) == []


OTHERS = """select set_config('outbox.source', 'other@desk', true);
insert into sessions (session_id, start_time, status, version, source) values ('theirs', now(), 'RUNNING', 1, 'other');
insert into trades (session_id, symbol, timestamp, source) values ('theirs', 'X', now(), 'other');
insert into events (event_type, timestamp, source) values ('x', now(), 'other');
insert into outbox_health (source, pending, dead, every_s) values ('other', 0, 0, 60);
"""


def test_of_other_bots_rows_the_small_role_sees_and_changes_none(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [SMALL_ROLE])
    fresh.execute(OTHERS)
    freeze = "update public.sessions set version = 4611686018427387903"
    health = "insert into public.outbox_health (source, pending, dead, every_s) values (%s, 7, 7, 60)"
    theirs = "insert into public.sessions (session_id, start_time, version) values ('theirs', now(), 9)"
    claim(fresh, "mine")
    with acting_as(fresh, "outbox_bot"):
        assert [column(fresh, f"select count(*) from public.{table}") for table in TABLES] == [[0]] * 4
        assert fresh.execute(freeze).rowcount == 0
        assert fresh.execute("update public.outbox_health set pending = 1").rowcount == 0
        for refused, values in (
            (f"{theirs} on conflict (session_id) do update set version = excluded.version", ()),
            (health, ("other",)),
            (f"{health} on conflict (source) do update set pending = excluded.pending", ("other",)),
            (INSERTS["trades"].replace("symbol)", "symbol, source)").replace("'EURUSD')", "'X', 'other')"), ()),
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                fresh.execute(refused, values)
        fresh.execute(health, ("mine",))
        fresh.execute(INSERTS["trades"])
        assert column(fresh, "select source from public.trades") == ["mine"]  # the header said something else
    with acting_as(fresh, "service_role"):
        assert fresh.execute(freeze).rowcount == 1  # control: the statement can change a row


def test_a_version_leaves_room_for_the_next_one(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [SMALL_ROLE])
    claim(fresh, "mine")
    insert = "insert into public.sessions (session_id, start_time, version) values ('s', now(), %s)"
    with acting_as(fresh, "outbox_bot"):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            fresh.execute(insert, (9223372036854775807,))
        fresh.execute(insert, (4611686018427387903,))


def test_a_token_without_the_claim_may_do_nothing(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [SMALL_ROLE])
    fresh.execute(INSERTS["trades"])
    claim(fresh, None)
    with acting_as(fresh, "outbox_bot"):
        assert column(fresh, "select id from public.trades") == []
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            fresh.execute(INSERTS["trades"])


def test_policies_of_an_earlier_version_are_replaced(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [SMALL_ROLE])
    made = psql.schema(fresh)
    for table in TABLES:
        fresh.execute(f"drop policy {table}_bot on {table}")
        fresh.execute(f"alter policy {table}_service on {table} to service_role, outbox_bot")
    assert psql.schema(fresh) != made

    psql.apply(fresh, [SMALL_ROLE])

    assert psql.schema(fresh) == made


@pytest.mark.parametrize("every_s", ["Infinity", "NaN", "1e300", "-1"])
def test_no_report_breaks_the_view_for_everybody(fresh: Connection, psql: PsqlRunner, every_s: str) -> None:
    psql.apply(fresh)
    report = f"insert into outbox_health (source, pending, dead, every_s) values ('bad', 0, 0, '{every_s}')"
    with pytest.raises(errors.CheckViolation):
        fresh.execute(report)
    fresh.execute("alter table outbox_health drop constraint outbox_health_every_s")
    fresh.execute(report)  # as it may stand there from before
    fresh.execute(INSERTS["outbox_health"])

    psql.apply(fresh)

    assert len(column(fresh, "select health from outbox_fleet")) == 2


def test_a_bot_that_is_gone_for_good_is_retired_as_the_page_says(fresh: Connection, psql: PsqlRunner) -> None:
    """By the tables' owner, who is no superuser on Supabase; by nobody else, not even for the bot's own row."""
    (sql,) = re.findall(
        r"^(delete from public\.outbox_health .*;)", (ROOT / "docs/supabase.md").read_text("utf-8"), re.MULTILINE
    )
    psql.apply(fresh, [*FILES, SMALL_ROLE])
    for source in ("trend@desk", "other"):
        fresh.execute("insert into outbox_health (source, pending, dead, every_s) values (%s, 0, 0, 60)", (source,))
    claim(fresh, "trend@desk")
    for role in MATRIX:
        with acting_as(fresh, role), pytest.raises(errors.InsufficientPrivilege):
            fresh.execute(sql)
    assert column(fresh, "select source from outbox_fleet order by 1") == ["other", "trend@desk"]

    with fresh.transaction(force_rollback=True):
        fresh.execute("create role owner_of_tables nologin")
        fresh.execute("grant usage on schema public to owner_of_tables")
        fresh.execute("alter table outbox_health owner to owner_of_tables")
        with acting_as(fresh, "owner_of_tables"):
            assert fresh.execute(sql).rowcount == 1
        assert column(fresh, "select source from outbox_fleet") == ["other"]


def test_the_outboxs_own_requests_pass_as_the_small_role(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    psql.apply(fresh, [SMALL_ROLE])
    claim(fresh, "mine")
    session = '[{"session_id": "s", "start_time": "2026-01-01", "status": "%s", "version": %s}]'
    with acting_as(fresh, "outbox_bot"):
        assert fresh.execute(INSERT_ONCE, (V7, "2026-01-01")).rowcount == 1
        assert fresh.execute(INSERT_ONCE, (V7, "2026-01-01")).rowcount == 0
        for status, version in (("RUNNING", 1), ("STOPPED", 2), ("RUNNING", 1)):
            fresh.execute(UPSERT_AS_POSTGREST_DOES, (session % (status, version),))
        fresh.execute("update public.sessions set end_reason = 'NORMAL' where session_id = 's'")
        fresh.execute(INSERTS["outbox_health"].replace("gen_random_uuid()::text", "'mine'"))
        fresh.execute("update public.outbox_health set pending = 1")
        assert column(fresh, "select status from public.sessions") == ["STOPPED"]
        for statement in (
            "update public.trades set pnl = 0",
            "delete from public.sessions",
            "create table public.t ()",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                fresh.execute(statement)
