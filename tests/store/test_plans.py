"""No query reads the backlog or the history: SQLite itself says how it would answer each one."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox.bot import queries as bot
from outbox.doctor import queries as doctor
from outbox.forensics import queries as forensics
from outbox.reads import queries as reads
from outbox.store import database, queries
from outbox.store.queries import Query
from outbox.web import queries as web, questions
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
    "sqlite_schema",
    "sqlite_sequence",
    "json_each",
    "c",
    "w",
    "pair",
    "ready",
    "outbox_sessions",
    "strata",
    "CONSTANT",  # a row of nothing but subqueries
}
# Read from their newest row on, as far as the limit: a plan does not show that.
SMALL |= {"h", "outbox_pause_history", "outbox_lives", "v_outages"}
# A few rows.
SORTED = {"PAUSES", "CAUSES", "forensics.STORIES", "forensics.SESSIONS", "web.COUNTS", "web.GROUPS"}
ALL = dict(queries.ALL)
for room in (bot, doctor, forensics, reads, web):
    ALL |= {f"{room.__name__.split('.')[1]}.{name}": query for name, query in room.ALL.items()}
# Asked for by a person who wants to see the backlog; it reads indexes, never the payloads of what is settled.
WHOLE = {"PENDING", "reads.PENDING", "bot.SERIES", "doctor.PENDING_LANES"}


@pytest.fixture(
    scope="module", params=[pytest.param(False, id="new file"), pytest.param(True, id="analyzed file")]
)  # nothing is written to it
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
    values: Any = dict.fromkeys(re.findall(r":(\w+)", sql), 1) or [1] * sql.count("?")
    return [row[3] for row in db.execute(f"explain query plan {sql}", values)]


def scanned(steps: list[str]) -> set[str]:
    return {match.group(1) for step in steps if (match := re.match(r"SCAN (\w+)", step))}


@pytest.mark.parametrize("name", ALL)
def test_a_query_uses_the_index_that_it_names_and_reads_nothing_else(name: str, db: sqlite3.Connection) -> None:
    query: Query = ALL[name]
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
        for name, query in ALL.items()
        for index in sorted({use.split()[0] for use in query.uses if use.startswith("outbox_")})
    ],
)
def test_control_a_query_without_its_index_is_detected(name: str, index: str) -> None:
    """The control of the test above."""
    with schema() as db:
        db.execute(f"drop index {index}")
        query = ALL[name]
        try:
            steps = plan(db, query.sql)
        except database.SqliteError as error:
            assert "no such index" in str(error)  # `indexed by` is refused outright
            return
        assert not all(any(step.endswith(use) for step in steps) for use in query.uses)


@pytest.mark.parametrize("question", questions.QUESTIONS, ids=lambda question: question.name)
def test_no_question_of_the_site_reads_what_is_settled_row_by_row(question: questions.Question) -> None:
    with schema() as db:
        assert "SCAN outbox" not in plan(db, question.sql)


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("select count(*) from outbox where payload = ?", id="no index at all"),
        pytest.param("select count(*) from outbox", id="a count"),
        pytest.param("select * from outbox where state = 'dead' order by settled_at_ms", id="a sort"),
    ],
)
def test_control_a_query_that_reads_everything_is_detected(sql: str) -> None:
    """The control of what the test above allows."""
    with schema() as db:
        steps = plan(db, sql)
    assert not scanned(steps) <= SMALL or any("TEMP B-TREE" in step for step in steps)


PACKAGE = Path(database.__file__).parents[1]
# What asks files that may be no outbox, or no whole one; PostgreSQL; what Datasette offers by name; a trial's own file.
ELSEWHERE = {
    "recovery", "store/migrate.py", "store/migrations.py", "store/database.py", "remote_schema.py", "web/questions.py",
    "doctor/local.py", "forensics/backup.py",
}  # fmt: skip
STATEMENT = re.compile(r"\s*(select\b.*\bfrom|insert\b.*\binto|update\b.*\bset|delete from)\s", re.DOTALL)


def statements(path: Path) -> list[str]:
    texts = [node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and STATEMENT.match(text)]


def test_every_statement_has_a_name_in_a_queries_module() -> None:
    found = {
        name: texts
        for path in PACKAGE.rglob("*.py")
        if "queries" not in path.relative_to(PACKAGE).with_suffix("").parts and (texts := statements(path))
        if not {(name := path.relative_to(PACKAGE).as_posix()), name.split("/")[0]} & ELSEWHERE
    }
    assert not found


def test_control_a_statement_elsewhere_is_found() -> None:
    assert statements(PACKAGE / "store" / "queries" / "sending.py") and statements(PACKAGE / "recovery" / "salvage.py")
