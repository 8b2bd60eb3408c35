"""What the optional files do to tables in use: months that are made while bots write, columns that others use."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from supabase_lite import EmbeddedPostgres

from tests.integration.sql_bench import FILES, INSERTS, OPTIONAL, Connection, PsqlRunner, column

MONEY, PARTITIONS = OPTIONAL / "money_as_numeric.sql", OPTIONAL / "partitions.sql"
OF_THIS_MONTH = """insert into trades (id, session_id, symbol, timestamp) values (
    overlay(outbox_partitions.first_id(now())::text placing '8123' from 20 for 4)::uuid, 's', 'x', now())"""
MANY = 1000
# No month has these ids; a random one would fall into one of 24 by chance, once in some hundred.
FILL = f"""insert into trades (id, session_id, symbol, timestamp)
    select ('ffffffff-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 's', 'x', now()
    from generate_series(1, {MANY}) n"""


def read_rows(connection: Connection) -> int:
    """How many rows of the default partition have been read one by one since some moment before this transaction."""
    query = "select coalesce(sum(seq_tup_read), 0)::int from pg_stat_xact_all_tables where relname = 'trades_other'"
    (found,) = column(connection, query)
    assert isinstance(found, int)
    return found


@pytest.fixture
def partitioned(fresh: Connection, psql: PsqlRunner) -> Connection:
    psql.apply(fresh, [*FILES, PARTITIONS])
    return fresh


def test_making_many_months_reads_the_default_partition_once(partitioned: Connection) -> None:
    partitioned.execute(FILL)
    partitioned.execute("set enable_seqscan = off")  # what moves is found through the primary key

    with partitioned.transaction():
        before = read_rows(partitioned)
        assert column(partitioned, "select outbox_partitions.add_months(36)") == [2 * 24]
        assert read_rows(partitioned) - before == MANY
    assert column(partitioned, "select conname from pg_constraint where conname = 'outbox_moved'") == []

    with partitioned.transaction():  # control: without the proof, each month reads all of it
        before = read_rows(partitioned)
        for year in (2001, 2002, 2003):
            bounds = f"('{year:08x}-0000-7000-8000-000000000000') to ('{year:08x}-0001-7000-8000-000000000000')"
            partitioned.execute(f"create table m{year} partition of trades for values from {bounds}")
        assert read_rows(partitioned) - before == 3 * MANY


def test_bots_go_on_writing_while_months_are_made(partitioned: Connection, postgres: EmbeddedPostgres) -> None:
    dsn = postgres.database(partitioned.info.dbname)
    with psycopg.connect(dsn, autocommit=True) as bot, partitioned.transaction():
        bot.execute("set lock_timeout = '300ms'")
        partitioned.execute("select outbox_partitions.add_months(24)")
        assert bot.execute(OF_THIS_MONTH).rowcount == 1
        with pytest.raises(errors.LockNotAvailable):  # control: what belongs into the default partition waits
            bot.execute(INSERTS["trades"])


def test_months_are_not_made_behind_a_long_transaction(partitioned: Connection, postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.database(partitioned.info.dbname)) as reader:
        reader.execute("select count(*) from outbox_partitions.trades_other")
        with pytest.raises(errors.LockNotAvailable):
            partitioned.execute("select outbox_partitions.add_months(24)")
    assert column(partitioned, "select outbox_partitions.add_months(24)") == [2 * 12]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("create view winners as select symbol from trades where pnl > 0", r"rule _RETURN on view winners"),
        ("alter table trades add twice float generated always as (pnl * 2) stored", "column twice of table trades"),
        ("create policy rich on trades for select using (volume > 1)", "policy rich on table trades"),
        (
            "create function best() returns float begin atomic select max(pnl) from trades; end",
            r"function best\(\)",
        ),
        ("create publication live for table trades (id, pnl)", "table trades in publication live"),
        ("create table archive (n int, was trades)", "column was of table archive"),
    ],
)
def test_money_that_others_use_is_refused_by_their_names(
    fresh: Connection, psql: PsqlRunner, there: str, said: str
) -> None:
    psql.apply(fresh)
    fresh.execute(there)
    with pytest.raises(errors.DependentObjectsStillExist, match=rf"nothing was changed: .*{said} uses a column of"):
        fresh.execute(MONEY.read_bytes())
    types = "select distinct data_type from information_schema.columns where column_name in ('pnl', 'total_pnl')"
    assert column(fresh, types) == ["double precision"]


def test_money_waits_for_locks_no_longer_than_the_other_files(
    fresh: Connection, psql: PsqlRunner, postgres: EmbeddedPostgres
) -> None:
    psql.apply(fresh)
    fresh.execute("set outbox.lock_wait_s = 0.01")
    with psycopg.connect(postgres.database(fresh.info.dbname)) as reader:
        reader.execute("select count(*) from trades")
        for file in (MONEY, PARTITIONS):
            with pytest.raises(errors.LockNotAvailable, match=r"public\.trades was in use"):
                fresh.execute(file.read_bytes())
