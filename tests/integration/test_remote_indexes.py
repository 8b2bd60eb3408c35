"""What the reads of the remote tables go by, and what `source` costs: on a real PostgreSQL, by what it says itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from supabase_lite import EmbeddedPostgres

from tests.integration.sql_bench import FILES, OLD_TABLES, Connection, PsqlRunner, column, new_database

# 40,000 rows of two months; a rare symbol, few paper trades, and what is asked for is not what came last.
ROWS = """
insert into trades (session_id, symbol, timestamp, is_paper)
    select 's' || n / 100, 'SYM' || n % 8, now() - make_interval(mins => 2 * n), n % 500 = 499
    from generate_series(1, 40000) n;
insert into trades (session_id, symbol, timestamp)
    select 'rare', 'RARE', now() - make_interval(days => 60, mins => n) from generate_series(1, 500) n;
insert into events (session_id, event_type, timestamp)
    select 's' || n / 100, 'TYPE' || n % 400, now() - make_interval(mins => 2 * n) from generate_series(1, 40000) n;
analyze trades, events;
"""
NEWEST = "order by timestamp desc, id desc limit 100"
# What a read asks for, and the index that serves it.
READS = [
    pytest.param("trades where symbol = 'RARE'", "idx_trades_symbol_timestamp", id="a symbol that is rarely traded"),
    pytest.param("trades where is_paper", "idx_trades_paper_timestamp", id="paper trades"),
    pytest.param("trades where is_paper = true", "idx_trades_paper_timestamp", id="paper trades, as PostgREST asks"),
    pytest.param("trades where session_id = 's7'", "idx_trades_session", id="a session's trades"),
    pytest.param("trades where true", "idx_trades_timestamp", id="the newest trades"),
    pytest.param("events where true", "idx_events_timestamp", id="the newest events"),
    pytest.param("events where session_id = 's7'", "idx_events_session", id="a session's events"),
    pytest.param("events where event_type = 'TYPE7'", "idx_events_type", id="events of a kind"),
]


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[Connection]:
    """All files applied to the old module's tables, and many rows: a test rolls back what it changes."""
    with new_database(postgres) as connection:
        connection.execute(OLD_TABLES)
        PsqlRunner(postgres).apply(connection)
        connection.execute(ROWS)
        connection.execute("vacuum (analyze) trades, events")
        yield connection


def plan(connection: Connection, asked: str) -> str:
    lines = connection.execute(f"explain (analyze, buffers, timing off) select * from {asked} {NEWEST}").fetchall()
    return "\n".join(line for (line,) in lines)


def pages(found: str) -> int:
    """How many pages of 8 kB the read touched."""
    return sum(int(n) for n in re.findall(r"(?:hit|read)=(\d+)", found.partition("\n  ")[0] + found.split("\n")[1]))


@pytest.mark.parametrize(("asked", "index"), READS)
def test_a_read_goes_by_an_index_and_touches_few_pages(filled: Connection, asked: str, index: str) -> None:
    found = plan(filled, asked)
    assert index in found, found
    assert pages(found) < 350, found  # 100 rows, each on a page of its own at the worst, or a session's


@pytest.mark.parametrize(("asked", "index"), READS)
def test_without_that_index_it_is_another_read(filled: Connection, asked: str, index: str) -> None:
    """The control of the test above."""
    with filled.transaction(force_rollback=True):
        filled.execute(f"drop index {index}")
        assert index not in plan(filled, asked)


@pytest.mark.parametrize("asked", ["trades where symbol = 'RARE'", "events where true"])
def test_the_old_modules_indexes_would_have_read_much_more(fresh: Connection, asked: str) -> None:
    """What the new ones replace, and why: it is a multiple of the pages also at this size."""
    fresh.execute(OLD_TABLES)
    fresh.execute(ROWS)
    assert pages(plan(fresh, asked)) > 350


def test_the_replaced_indexes_are_gone_and_ones_own_of_that_name_stays(fresh: Connection, psql: PsqlRunner) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute("drop index idx_trades_is_paper")
    fresh.execute("create index idx_trades_is_paper on trades (is_paper, pnl)")

    psql.apply(fresh)

    indexes = "select indexname from pg_indexes where schemaname = 'public' and indexname like 'idx%' order by 1"
    assert column(fresh, indexes) == [
        "idx_events_session", "idx_events_timestamp", "idx_events_type",
        "idx_trades_is_paper", "idx_trades_paper_timestamp", "idx_trades_session", "idx_trades_symbol_timestamp",
        "idx_trades_timestamp",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- source

MANY = "insert into public.events (timestamp, event_type) select now(), 'x' from generate_series(1, %s)"
CALLS = "select calls from pg_stat_xact_user_functions where funcname = 'outbox_source'"


def test_a_requests_headers_are_read_once_however_many_rows_it_brings(fresh: Connection, psql: PsqlRunner) -> None:
    psql.apply(fresh)
    fresh.execute("set track_functions = 'all'")
    with fresh.transaction():
        headers = {"x-outbox-source": "trend@desk", "cookie": "c" * 4000}
        fresh.execute("select set_config('request.headers', %s, true)", (json.dumps(headers),))
        fresh.execute(MANY, (5000,))
        assert column(fresh, CALLS) == [1]
        fresh.execute(MANY, (5000,))
        assert column(fresh, CALLS) == [2]  # control: the count goes up with each statement
    assert fresh.execute("select source, count(*) from events group by 1").fetchall() == [("trend@desk", 10_000)]


def test_no_default_is_left_that_reads_the_headers_for_each_row(fresh: Connection, psql: PsqlRunner) -> None:
    fresh.execute(OLD_TABLES)
    per_row = "default (nullif(current_setting('request.headers', true), '')::json ->> 'x-outbox-source')"
    for table in ("sessions", "trades", "events"):  # as an earlier version of the files made it
        fresh.execute(f"alter table {table} add column source text {per_row}")
    costly = "select count(*) from pg_attrdef where pg_get_expr(adbin, adrelid) like '%request.headers%'"
    assert column(fresh, costly) == [3]

    psql.apply(fresh)

    assert column(fresh, costly) == [0]


def test_a_source_does_not_outlast_its_request(fresh: Connection, psql: PsqlRunner) -> None:
    """A pooled connection serves one bot after the other, and people's own statements."""
    psql.apply(fresh, FILES)
    with fresh.transaction():
        fresh.execute("select set_config('request.headers', %s, true)", ('{"x-outbox-source": "first"}',))
        fresh.execute(MANY, (1,))
    fresh.execute(MANY, (1,))
    with fresh.transaction():
        fresh.execute("select set_config('request.headers', %s, true)", ('{"x-outbox-source": "second"}',))
        fresh.execute("copy events (timestamp, event_type) from program 'echo 2026-01-01,x' with (format csv)")
        fresh.execute("select set_config('request.headers', '', true)")
        fresh.execute(MANY, (1,))
    assert fresh.execute("select source, count(*) from events group by 1 order by 1").fetchall() == [
        ("first", 1), ("second", 1), (None, 2),
    ]  # fmt: skip
