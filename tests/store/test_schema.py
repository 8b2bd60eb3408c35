"""What the file itself holds true, whoever writes to it."""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox.clock import SystemClock
from outbox.entry import MOVES, Operation, State
from outbox.postgrest.verdicts import Scope
from tests.store.tools import opened, schema, shell
from tests.support import run_async


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with schema() as connection:
        yield connection


def put(db: sqlite3.Connection, **columns: Any) -> int:
    values = {"destination": "trades", "payload": "{}", **columns}
    marks = ", ".join("?" * len(values))
    cursor = db.execute(f"insert into outbox ({', '.join(values)}) values ({marks})", tuple(values.values()))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"id": ""}, id="an empty id"),
        pytest.param({"id": "x" * 201}, id="an endless id"),
        pytest.param({"id": None}, id="no id"),
        pytest.param({"destination": ""}, id="no destination"),
        pytest.param({"destination": "1trades"}, id="a destination that starts with a digit"),
        pytest.param({"destination": "trades; drop table trades"}, id="a destination with SQL in it"),
        pytest.param({"destination": "trädes"}, id="a destination that is no ASCII"),
        pytest.param({"destination": "t" * 64}, id="a destination longer than PostgreSQL's names"),
        pytest.param({"operation": "delete"}, id="an operation that is none"),
        pytest.param({"operation": None}, id="no operation"),
        pytest.param({"state": "leased"}, id="a state that is none"),
        pytest.param({"payload": "{"}, id="broken JSON"),
        pytest.param({"payload": "[]"}, id="an array"),
        pytest.param({"payload": "1"}, id="a number"),
        pytest.param({"payload": "null"}, id="null"),
        pytest.param({"payload": None}, id="no payload"),
        pytest.param({"payload": b"{}"}, id="a payload in bytes"),
        pytest.param({"match": "{"}, id="a broken match"),
        pytest.param({"waits": "lease"}, id="waiting for nothing known"),
        pytest.param({"attempts": "many"}, id="attempts that are no number"),
        pytest.param({"attempts": None}, id="no attempts"),
        pytest.param({"created_at_ms": 1.5}, id="a fraction of a millisecond"),
    ],
)
def test_a_bad_row_is_refused_by_the_schema(columns: dict[str, Any], db: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        put(db, **columns)
    assert db.execute("select count(*) from outbox").fetchone() == (0,)


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({}, id="nothing but destination and payload"),
        pytest.param({"payload": ' \n\t{"a": 1}'}, id="space before the payload"),
        pytest.param({"destination": "T_" + "9" * 61}, id="the longest destination"),
        pytest.param({"id": "x" * 200}, id="the longest id"),
        pytest.param({"key": "k", "match": '{"a": 1}', "operation": "update"}, id="an update"),
    ],
)
def test_a_good_row_is_taken(columns: dict[str, Any], db: sqlite3.Connection) -> None:
    put(db, **columns)


def test_an_id_is_taken_once_per_destination(db: sqlite3.Connection) -> None:
    put(db, id="a")
    put(db, id="a", destination="events")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        put(db, id="a")


def test_a_number_is_never_used_twice(db: sqlite3.Connection) -> None:
    last = [put(db) for _ in range(3)][-1]
    db.execute("delete from outbox")
    assert put(db) == last + 1


def checked(db: sqlite3.Connection, table: str, column: str) -> set[str]:
    """The values that a `check (column in (…))` allows."""
    (sql,) = db.execute("select sql from sqlite_schema where name = ?", (table,)).fetchone()
    found = re.search(rf"check \({column} in \(([^)]*)\)\)", sql)
    assert found, column
    return {value.strip().strip("'") for value in found.group(1).split(",")}


def test_the_schema_and_the_code_name_the_same_states(db: sqlite3.Connection) -> None:
    assert checked(db, "outbox", "state") == {state.value for state in State} == set(MOVES)
    assert {after for targets in MOVES.values() for after in targets} <= set(State)
    assert checked(db, "outbox", "operation") == {operation.value for operation in Operation}
    assert checked(db, "outbox_pauses", "scope") == {scope.value for scope in Scope}


def counts(db: sqlite3.Connection) -> dict[tuple[str, str], int]:
    rows = db.execute("select destination, state, entries from outbox_counts").fetchall()
    return {(destination, state): entries for destination, state, entries in rows if entries}


def test_counters_follow_what_a_shell_does(db: sqlite3.Connection) -> None:
    seqs = [put(db) for _ in range(6)]
    put(db, destination="events", state="delivered")
    db.execute("update outbox set state = 'delivered' where seq in (?, ?)", seqs[:2])
    db.execute("update outbox set state = 'dead' where seq = ?", seqs[2:3])
    db.execute("update outbox set state = 'discarded' where seq = ?", seqs[2:3])
    db.execute("update outbox set state = 'pending' where seq = ?", seqs[3:4])  # no move at all
    db.execute("delete from outbox where seq in (?, ?)", (seqs[0], seqs[5]))

    assert counts(db) == {
        ("trades", "pending"): 2,
        ("trades", "delivered"): 1,
        ("trades", "discarded"): 1,
        ("trades", "pruned"): 1,
        ("trades", "removed"): 1,
        ("events", "delivered"): 1,
    }
    assert sum(counts(db).values()) == 7  # conservation: all that was ever put


def test_what_was_rolled_back_was_never_counted(db: sqlite3.Connection) -> None:
    db.execute("begin")
    put(db)
    db.execute("rollback")
    assert counts(db) == {}


def test_without_its_trigger_a_counter_goes_wrong(db: sqlite3.Connection) -> None:
    """The control of the tests above: it is the triggers that count."""
    db.execute("drop trigger outbox_counts_gone")
    put(db)
    db.execute("delete from outbox")
    assert counts(db) == {("trades", "pending"): 1}


@run_async
async def test_a_plain_insert_from_a_shell_is_a_valid_put(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        before_ms = SystemClock().now_ms()
        with shell(path) as connection:
            for n in range(50):
                connection.execute(
                    "insert into outbox(destination, payload) values ('events', json_object('n', ?))", (n,)
                )
        after_ms = int(time.time() * 1000) + 1

        unread = await store.unread(100)
        table = await store.read("select id, created_at_ms, state, lane, waits, digest from outbox")
        stats = await store.counts()

    assert [json.loads(each.payload)["n"] for each in unread] == list(range(50))
    assert stats == {"events": {"pending": 50}}
    for text, created_at_ms, *rest in table:
        number = uuid.UUID(text)
        assert (str(number), number.version, number.variant) == (text, 7, uuid.RFC_4122)
        assert before_ms - 1 <= created_at_ms <= after_ms
        assert abs((number.int >> 80) - created_at_ms) <= 1
        assert rest == ["pending", None, None, None]
    assert len({row[0] for row in table}) == 50


@run_async
async def test_a_shell_cannot_let_an_entry_wait_for_no_time(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as connection:
            put(connection)
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute("update outbox set waits = 'retry'")
            connection.execute("update outbox set waits = 'retry', next_attempt_at_ms = 7")
            assert (await store.look_for_work()).due_ms == 7
