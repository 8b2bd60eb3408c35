"""No query reads the backlog or the history: SQLite itself says how it would answer each one."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from outbox.store import database, queries
from outbox.store.queries import Query
from tests.store.tools import schema

# Tables that hold kinds of things, not entries. READY_LANES counts through its own recursive table.
# d: the dead entries, through an index that holds nothing else. pair: what the caller asks for.
SMALL = {
    "d",
    "outbox_meta",
    "outbox_lanes",
    "outbox_counts",
    "outbox_pauses",
    "outbox_refused_runs",
    "sqlite_sequence",
    "json_each",
    "c",
    "w",
    "pair",
    "ready",
}
SORTED = {"PAUSES", "CAUSES"}
# Asked for by a person who wants to see the backlog; it reads indexes, never the payloads of what is settled.
WHOLE = {"PENDING"}


@pytest.fixture(params=[pytest.param(False, id="new file"), pytest.param(True, id="analyzed file")])
def db(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    with schema() as connection:
        if request.param:  # `analyze` by anybody changes what SQLite's planner believes
            fill(connection)
            connection.execute("analyze")
        yield connection


def fill(db: sqlite3.Connection) -> None:
    lane = "insert into outbox_lanes (destination, operation, columns, ordered) values (?, 'insert', 'x', ?)"
    db.executemany(lane, [("trades", 0), ("trades", 1)])
    put = "insert into outbox (destination, payload, lane, key) values ('trades', '{}', ?, ?)"
    db.execute("begin")
    db.executemany(put, [(1 + n % 2, f"k{n % 50}" if n % 2 else None) for n in range(2000)])
    db.execute("update outbox set state = 'delivered', settled_at_ms = seq where seq % 3 = 0")
    db.execute("update outbox set waits = 'retry', next_attempt_at_ms = seq where seq % 31 = 1 and state = 'pending'")
    db.execute("commit")


def plan(db: sqlite3.Connection, sql: str) -> list[str]:
    return [row[3] for row in db.execute(f"explain query plan {sql}", [1] * sql.count("?"))]


def scanned(steps: list[str]) -> set[str]:
    return {match.group(1) for step in steps if (match := re.match(r"SCAN (\w+)", step))}


@pytest.mark.parametrize("name", queries.ALL)
def test_a_query_uses_the_index_that_it_names_and_reads_nothing_else(name: str, db: sqlite3.Connection) -> None:
    query: Query = queries.ALL[name]
    steps = plan(db, query.sql)

    for index in query.uses:
        assert any(step.endswith(index) for step in steps), f"{index} is not in {steps}"
    assert scanned(steps) <= SMALL or name in WHOLE
    assert not any(step == "SCAN outbox" for step in steps)
    assert name in SORTED | WHOLE or not any("TEMP B-TREE" in step for step in steps)
    assert query.purpose
    assert query.bound


@pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param(name, index, id=f"{name} without {index}")
        for name, query in queries.ALL.items()
        for index in sorted({use.split()[0] for use in query.uses if use.startswith("outbox_")})
    ],
)
def test_without_its_index_a_query_would_be_found_out(name: str, index: str) -> None:
    """The control of the test above."""
    with schema() as db:
        db.execute(f"drop index {index}")
        query = queries.ALL[name]
        try:
            steps = plan(db, query.sql)
        except database.SqliteError as error:
            assert "no such index" in str(error)  # `indexed by` is refused outright
            return
        assert not all(any(step.endswith(use) for step in steps) for use in query.uses)


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("select count(*) from outbox where payload = ?", id="no index at all"),
        pytest.param("select count(*) from outbox", id="a count"),
        pytest.param("select * from outbox where state = 'dead' order by settled_at_ms", id="a sort"),
    ],
)
def test_a_query_that_reads_everything_would_be_found_out(sql: str) -> None:
    """The control of what the test above allows."""
    with schema() as db:
        steps = plan(db, sql)
    assert not scanned(steps) <= SMALL or any("TEMP B-TREE" in step for step in steps)
