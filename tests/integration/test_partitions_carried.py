"""What `partitions.sql` carries over to the new tables, and what it refuses by name before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from supabase_lite import EmbeddedPostgres

from tests.integration.sql_bench import (
    FILES,
    HOW,
    INSERTS,
    OPTIONAL,
    ROLES,
    TABLES,
    Connection,
    PsqlRunner,
    acting_as,
    allowed,
    column,
    new_database,
    new_template,
    run_files,
    statements,
)

PARTITIONS, SMALL_ROLE = OPTIONAL / "partitions.sql", OPTIONAL / "least_privilege.sql"
TRIGGER = (
    "create function f() returns trigger language plpgsql as 'begin return null; end'; create {} execute function f()"
)
NOW = "(overlay(outbox_partitions.first_id(now())::text placing '8123' from 20 for 4))::uuid"
HASHED = """drop table trades; create table trades (like events including all, symbol text) partition by hash (id);
    create table all_of_them partition of trades for values with (modulus 1, remainder 0)"""

# What is there, and how the refusal names it.
REFUSED = [
    pytest.param("create view winners as select * from trades where pnl > 0", "view winners", id="a view"),
    pytest.param("create materialized view many as select count(*) from trades", "view many", id="a view with rows"),
    pytest.param("create table fills (trade uuid references trades)", "fills_trade_fkey on public.fills", id="a key"),
    pytest.param("create rule loud as on insert to trades do also notify x", "rule loud on public.trades", id="a rule"),
    pytest.param("create table kid () inherits (trades)", "table public.kid", id="a child"),
    pytest.param(
        "create policy seen on events for select to authenticated using (exists (select from trades))",
        "policy seen on public.events", id="a policy of another table",
    ),
    pytest.param(
        "create function newest() returns timestamptz begin atomic select max(timestamp) from trades; end",
        "function public.newest()", id="a function with its own plan",
    ),
    pytest.param(
        "create function profit(trades) returns float language sql as 'select $1.pnl'",
        "function public.profit(public.trades)", id="a computed column",
    ),
    pytest.param("create table archive (n int, was trades)", "table column public.archive.was", id="a column of rows"),
    pytest.param("create table archive (n int, was trades[])", "public.archive.was", id="a column of many rows"),
    pytest.param("create publication live for table trades", "trades in publication live", id="Realtime"),
    pytest.param("create publication live for all tables", "publication live of all", id="a publication of all tables"),
    pytest.param("create publication live for tables in schema public", "publication live of all", id="of a schema"),
    pytest.param(
        "alter table trades add n bigint generated always as identity",
        "identity column n of public.trades", id="an identity",
    ),
    pytest.param(
        "alter table trades add twice float generated always as (pnl * 2) stored",
        "generated column twice of public.trades", id="a generated column",
    ),
    pytest.param("alter table trades add n bigserial", "sequence public.trades_n_seq", id="a sequence"),
    pytest.param("alter table trades disable trigger outbox_source", "trigger outbox_source of", id="a trigger is off"),
    pytest.param(
        TRIGGER.format("trigger t after insert on trades referencing new table as n for each row"),
        "trigger t of public.trades", id="a trigger that names rows",
    ),
    pytest.param("alter table trades add unique (trade_id)", "trades_trade_id_key of public.trades", id="another key"),
    pytest.param(
        "create unique index one on trades (trade_id) where pnl > 0", "index one of public.trades", id="a unique index"
    ),
    pytest.param(
        "alter table trades add constraint ex exclude (trade_id with =)", "index ex of public.trades", id="an exclusion"
    ),
    pytest.param(
        "alter table trades add constraint gains check (pnl > -9) not valid", "constraint gains of", id="not validated"
    ),
    pytest.param(
        "alter table trades set (fillfactor = 80, autovacuum_vacuum_threshold = 9)", "storage parameters of",
        id="storage parameters",
    ),
    pytest.param("alter table trades replica identity full", "replica identity of public.trades", id="whole old rows"),
    pytest.param("alter table trades force row level security", "forced row-level security of", id="forced security"),
    pytest.param(
        "create schema outbox_partitions; create table outbox_partitions.trades_before ()",
        "table outbox_partitions.trades_before", id="an old table of before",
    ),
    pytest.param(HASHED, "table public.trades, which is in partitions of another kind", id="partitions of one's own"),
]  # fmt: skip


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres) -> Iterator[str]:
    psql = PsqlRunner(postgres)
    with new_template(postgres, lambda connection: psql.apply(connection, [*FILES, SMALL_ROLE])) as name:
        yield name


@pytest.fixture
def ready(postgres: EmbeddedPostgres, template: str) -> Iterator[Connection]:
    """A database of the test's own, in which all files and the small role are applied."""
    with new_database(postgres, template) as connection:
        yield connection


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, template: str) -> Iterator[Connection]:
    """A copy for tests that roll back what they do."""
    with new_database(postgres, template) as connection:
        yield connection


@pytest.mark.parametrize(("there", "named"), REFUSED)
def test_what_cannot_be_carried_is_refused_by_the_first_statement_and_what_it_says_to_type_helps(
    shared: Connection, there: str, named: str
) -> None:
    with shared.transaction(force_rollback=True):
        shared.execute(there)

        refused = pytest.raises(psycopg.Error, match=rf"nothing was changed: .*{re.escape(named)}")
        with refused as caught, shared.transaction():
            shared.execute(statements(PARTITIONS)[0].encode(), prepare=False)

        said = re.search(r" \(((?:drop|alter) .*)\)\. Type", str(caught.value))
        assert said, caught.value
        shared.execute(said[1])
        run_files(shared, HOW[1], [*FILES, PARTITIONS] if there is HASHED else [PARTITIONS])
        shared.execute(INSERTS["trades"])
        parts = "select to_char(now() at time zone 'utc', 'YYYY_MM') = right(tableoid::regclass::text, 7) from trades"
        shared.execute(f"insert into trades (id, session_id, symbol, timestamp) values ({NOW}, 's', 'x', now())")
        assert column(shared, f"{parts} where id = {NOW}") == [True]


def test_a_refusal_waits_for_no_lock_and_names_everything_at_once(
    ready: Connection, postgres: EmbeddedPostgres
) -> None:
    ready.execute("create view winners as select * from trades; create publication live for table trades, events")
    with psycopg.connect(postgres.database(ready.info.dbname)) as other:
        other.execute("lock table trades, events in exclusive mode")  # all that a change of theirs takes
        ready.execute("set outbox.lock_wait_s = 0.001; set lock_timeout = '1ms'")
        with pytest.raises(psycopg.Error) as refused:
            ready.execute(PARTITIONS.read_bytes(), prepare=False)
    for command in ("drop view winners", "publication live drop table public.trades", "live drop table public.events"):
        assert command in str(refused.value)


# ---------------------------------------------------------------------------------------------------- carried over

MINE = """
insert into sessions (session_id, start_time) values ('s', now());
alter table trades add constraint of_a_session foreign key (session_id) references sessions (session_id),
    add constraint gains check (pnl > -9), add parent uuid references trades (id), alter symbol set statistics 777;
create index mine on trades (symbol desc) include (pnl) where pnl > 0;
create statistics together on symbol, is_paper from trades;
create function seen() returns trigger language plpgsql as 'begin new.comment := ''seen''; return new; end';
create trigger seen before insert on trades for each row when (new.pnl > 1) execute function seen();
create policy dash on trades as restrictive for select to dash, public using (symbol <> 'secret');
create policy adds on trades for insert to dash with check (symbol = 'X' and exists (select from trades));
grant select on trades to dash with grant option;
grant select (symbol), update (comment) on trades to anon;
comment on table trades is 'mine';
comment on column trades.pnl is 'in euros';
"""
# Each returns what the table `trades` has of it, whatever its number is.
CARRIED = {
    "policies": "select (to_jsonb(p) - 'tablename')::text from pg_policies p where tablename = 'trades'",
    "grants": """select (privilege_type, grantee::regrole, is_grantable)::text from pg_class
        cross join aclexplode(relacl) where oid = 'trades'::regclass and grantee <> relowner""",
    "grants on columns": """select (attname, privilege_type, grantee::regrole)::text from pg_attribute
        cross join aclexplode(attacl) where attrelid = 'trades'::regclass""",
    "constraints": """select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
        where conrelid = 'trades'::regclass and contype <> 'n' and conparentid = 0""",
    "indexes": """select replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') from pg_index
        where indrelid = 'trades'::regclass""",
    "triggers": "select pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'trades'::regclass and not tgisinternal",
    "statistics": "select stxkeys::text || stxkind::text from pg_statistic_ext where stxrelid = 'trades'::regclass",
    "columns": """select (attname, atttypid, attnotnull, attstattarget, pg_get_expr(adbin, adrelid),
        col_description(attrelid, attnum))::text from pg_attribute left join pg_attrdef on (adrelid, adnum) =
        (attrelid, attnum) where attrelid = 'trades'::regclass and attnum > 0""",
    "the table": """select (relowner::regrole, relrowsecurity, obj_description(oid, 'pg_class'))::text from pg_class
        where oid = 'trades'::regclass""",
}


def carried(connection: Connection) -> dict[str, list[str]]:
    return {what: sorted(map(str, column(connection, query))) for what, query in CARRIED.items()}


@pytest.fixture
def dash(ready: Connection) -> Iterator[None]:
    ready.execute("create role dash nologin")
    yield
    ready.execute("drop owned by dash; drop role dash")


@pytest.mark.usefixtures("dash")
def test_everything_that_depends_on_the_table_is_restored(ready: Connection, psql: PsqlRunner) -> None:
    bare = carried(ready)
    ready.execute(MINE)
    before = carried(ready)
    assert [what for what in CARRIED if before[what] == bare[what]] == []  # control: each query sees something

    psql.apply(ready, [PARTITIONS])

    assert carried(ready) == before


def test_the_small_role_may_do_afterwards_what_it_might_before(ready: Connection, psql: PsqlRunner) -> None:
    ready.execute("""set "request.jwt.claims" = '{"source": "mine"}'""")
    before = {(role, table): allowed(ready, role, table) for role in (*ROLES, "outbox_bot") for table in TABLES}
    assert before["outbox_bot", "trades"] == {"select", "insert"}
    ready.execute(INSERTS["events"].replace("event_type)", "event_type, source)").replace("'x')", "'x', 'other')"))

    psql.apply(ready, [PARTITIONS])

    assert {(role, table): allowed(ready, role, table) for role, table in before} == before
    with acting_as(ready, "outbox_bot"):
        assert column(ready, "select distinct source from public.events") == ["mine"]


def test_partitions_add_no_rights_where_a_project_opens_each_new_table(ready: Connection, psql: PsqlRunner) -> None:
    ready.execute("alter default privileges grant all on tables to public, anon")
    before = carried(ready)
    psql.apply(ready, [PARTITIONS])
    assert carried(ready)["grants"] == before["grants"]
    with acting_as(ready, "anon"), pytest.raises(errors.InsufficientPrivilege):
        ready.execute("select * from outbox_partitions.trades_other")


def test_an_owner_who_is_no_superuser_can_do_it(fresh: Connection) -> None:
    """As on Supabase: `postgres` owns the tables there and is none."""
    fresh.execute(f"create role boss nologin createrole; grant all on database {fresh.info.dbname} to boss")
    try:
        fresh.execute("alter schema public owner to boss; set role boss")
        run_files(fresh, HOW[1], [*FILES, SMALL_ROLE])
        fresh.execute(INSERTS["trades"])
        before = carried(fresh)

        run_files(fresh, HOW[1], [PARTITIONS, *FILES, SMALL_ROLE])

        assert carried(fresh) == before
        assert column(fresh, "select count(*) from trades") == [1]
        assert column(fresh, "select outbox_partitions.add_months(13)") == [2]
    finally:
        fresh.execute("reset role; reassign owned by boss to postgres; drop owned by boss; drop role boss")
