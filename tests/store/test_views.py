"""The views of migration 0004 tell people the truth, and none of them reads the backlog to do so."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from tests.store.test_plans import fill, plan
from tests.store.tools import schema

VIEWS = ("health", "pauses", "pending", "dead", "recent", "history", "trades", "events", "sessions", "daily",
         "outages", "lives")  # fmt: skip
# Newest first by the number itself: SQLite stops at the limit.
BY_NUMBER = ("recent", "trades", "events", "sessions")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with schema() as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def put(db: sqlite3.Connection, payload: str = '{"session_id": "s-1"}', **columns: Any) -> int:
    values = {"destination": "trades", "payload": payload, **columns}
    marks = ", ".join("?" * len(values))
    cursor = db.execute(f"insert into outbox ({', '.join(values)}) values ({marks})", tuple(values.values()))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def one(db: sqlite3.Connection, sql: str) -> dict[str, Any]:
    (row,) = db.execute(sql).fetchall()
    return dict(row)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_can_be_asked_of_an_empty_file(name: str, db: sqlite3.Connection) -> None:
    assert len(db.execute(f"select * from v_{name}").fetchall()) == (1 if name == "health" else 0)


@pytest.mark.parametrize("analyzed", [False, True], ids=["new file", "analyzed file"])
@pytest.mark.parametrize("name", [name for name in VIEWS if name not in (*BY_NUMBER, "daily")])
def test_a_view_reads_no_more_than_it_shows(name: str, analyzed: bool) -> None:
    with schema() as db:
        if analyzed:
            fill(db)
            db.execute("analyze")
        steps = plan(db, f"select * from v_{name} limit 5")
    # "order by seq desc limit 1" walks the table from its end; SQLite calls that a scan, too.
    scans = [step for step in steps if re.match(r"SCAN outbox( AS \w+)?$", step)]
    assert len(scans) <= (1 if name == "health" else 0), steps
    assert name in ("health", "pauses") or not any("TEMP B-TREE" in step for step in steps)


@pytest.mark.parametrize("name", BY_NUMBER)
def test_a_view_of_everything_walks_from_the_newest_on_and_sorts_nothing(name: str, db: sqlite3.Connection) -> None:
    assert plan(db, f"select * from v_{name} limit 5") == ["SCAN outbox"]
    control = plan(db, f"select * from v_{name} order by put_utc limit 5")
    assert any("TEMP B-TREE" in step for step in control)


def test_an_entry_is_found_by_its_id(db: sqlite3.Connection) -> None:
    assert any("sqlite_autoindex_outbox_1 (id=?)" in step for step in plan(db, "select * from v_recent where id = 'x'"))


def test_health_counts_and_finds_the_oldest_whatever_it_waits_for(db: sqlite3.Connection) -> None:
    put(db, created_at_ms=1_767_225_600_000, waits="retry", next_attempt_at_ms=1)
    put(db)
    put(db, state="delivered", settled_at_ms=1_767_225_661_000, created_at_ms=1_767_225_660_000)
    put(db, state="dead", settled_at_ms=1)
    put(db)
    db.execute("delete from outbox where seq = 5")

    found = one(db, "select * from v_health")

    assert found["health"] == "stalled"
    counted = [found[name] for name in ("pending", "dead", "delivered", "discarded", "pruned", "removed")]
    assert counted == [2, 1, 1, 0, 0, 1]
    assert found["oldest_pending_utc"] == "2026-01-01 00:00:00"
    assert re.fullmatch(r"\d+ d \d\d:\d\d:\d\d", found["oldest_pending_age"])
    assert found["last_delivery_utc"] == "2026-01-01 00:01:01"
    db.execute("delete from outbox where seq = 1")
    assert one(db, "select health from v_health") == {"health": "dead letters"}
    db.execute("update outbox set state = 'discarded' where state = 'dead'")
    assert one(db, "select health from v_health") == {"health": "healthy"}


def test_a_pause_is_stalled_and_told_by_what_it_stops(db: sqlite3.Connection) -> None:
    db.execute("insert into outbox_lanes values (7, 'trades', 'insert', 'id', 'id,pnl', 0)")
    db.execute("insert into outbox_pauses values ('lane', '7', 'schema_wrong', 400, 'PGRST204', 'no pnl', 3, 1, 2)")

    assert one(db, "select health, pauses, paused_because from v_health") == {
        "health": "stalled", "pauses": 1, "paused_because": "schema_wrong",
    }  # fmt: skip
    found = one(db, "select what, why, it_said from v_pauses")
    assert found == {"what": "trades: insert of id,pnl", "why": "schema wrong", "it_said": "400 PGRST204 no pnl"}


def test_pending_says_what_each_entry_waits_for(db: sqlite3.Connection) -> None:
    db.execute("insert into outbox_lanes values (1, 'trades', 'insert', 'id', 'id,pnl', 0)")
    put(db, id="unread")
    put(db, id="ready", lane=1)
    put(db, id="first", lane=1, key="k")
    put(db, id="second", lane=1, key="k")
    put(db, id="later", waits="retry", next_attempt_at_ms=1_767_225_600_000, lane=1)

    def waits() -> dict[str, str]:
        return {row["id"]: row["waits_for"] for row in db.execute("select id, waits_for from v_pending")}

    assert waits() == {
        "unread": "a flusher that reads it: a shell put it",
        "ready": "a flusher that sends it",
        "first": "a flusher that sends it",
        "second": "behind first",
        "later": "a try at 2026-01-01 00:00:00",
    }
    db.execute("insert into outbox_pauses values ('destination', 'trades', 'not_granted', 403, null, null, 1, 1, 2)")
    assert waits()["ready"] == "the end of a pause: not granted"


def test_the_payloads_fields_are_columns(db: sqlite3.Connection) -> None:
    put(db, '{"session_id": "s-1", "symbol": "EURUSD", "pnl": 12.5}')
    put(db, '{"status": "STOPPED"}', destination="sessions", operation="update", match='{"session_id": "s-2"}')
    put(db, '{"event_type": "TICK", "data": {"a": 1}}', destination="events")

    assert one(db, "select session_id, symbol, pnl, trade_id, settled_utc from v_trades") == {
        "session_id": "s-1", "symbol": "EURUSD", "pnl": 12.5, "trade_id": None, "settled_utc": None,
    }  # fmt: skip
    assert one(db, "select session_id, status from v_sessions") == {"session_id": "s-2", "status": "STOPPED"}
    assert one(db, "select event_type, data from v_events") == {"event_type": "TICK", "data": '{"a":1}'}
    assert [row["destination"] for row in db.execute("select destination from v_recent")] == [
        "events", "sessions", "trades",
    ]  # fmt: skip


def test_a_day_adds_up_the_same_before_and_after_the_pruning(db: sqlite3.Connection) -> None:
    day = 1_767_225_600_000
    for n in range(3):
        put(db, state="delivered", created_at_ms=day, settled_at_ms=day + 1500 * n)
    put(db, state="discarded", created_at_ms=day, settled_at_ms=day)
    put(db, state="dead", created_at_ms=day, settled_at_ms=day)
    before = one(db, "select * from v_daily")
    assert before == {
        "day": "2026-01-01", "destination": "trades", "delivered": 3, "dead": 1, "discarded": 1,
        "pruned": 0, "removed": 0, "slowest_s": 3.0,
    }  # fmt: skip

    db.execute("delete from outbox where state in ('delivered', 'discarded')")

    assert one(db, "select * from v_daily") == {**before, "pruned": 4}
    db.execute("delete from outbox")
    assert one(db, "select * from v_daily") == {**before, "pruned": 4, "dead": 0, "removed": 1}


def test_what_an_edit_replaced_goes_with_its_entry_and_is_bounded(db: sqlite3.Connection) -> None:
    seq = put(db)
    for number in range(30):
        db.execute("insert into outbox_edits (seq, at_ms, payload) values (?, ?, '{}')", (seq, number))

    kept = [row["at_ms"] for row in db.execute("select at_ms from outbox_edits order by number")]
    assert kept == [0, *range(11, 30)]
    db.execute("delete from outbox")
    assert db.execute("select * from outbox_edits").fetchall() == []


def test_the_schema_explains_the_views(db: sqlite3.Connection) -> None:
    views = db.execute("select name, sql from sqlite_schema where type = 'view'").fetchall()
    assert {row["name"] for row in views} == {f"v_{name}" for name in VIEWS}
    assert all("\n-- " in row["sql"] for row in views)
