"""What a put, a look and a verdict cost does not grow with the backlog or the history: SQLite counts its own steps."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings, snapshot
from outbox.prepare import mint_id
from outbox.store import queries
from tests.store.tools import entry, opened, schema, shell
from tests.support import run_async

MANY = 20_000
# A deeper B-tree costs a few steps more; the backlog is 20,000 times as long.
MORE = 40
A_LOOK = 13  # at an entry that waits for its next try
A_LANE = 150  # its oldest entry, twice, and what it is


def nothing(db: sqlite3.Connection) -> None:
    pass


def pending(db: sqlite3.Connection) -> None:
    db.execute(f"{SERIES} select 'trades', '{{}}', 1, null, 'pending', null from series")


def one_key(db: sqlite3.Connection) -> None:
    db.execute(f"{SERIES} select 'trades', '{{}}', 2, 'k', 'pending', null from series")


def delivered(db: sqlite3.Connection) -> None:
    db.execute(f"{SERIES} select 'trades', '{{}}', 1, null, 'delivered', n from series")


def unread(db: sqlite3.Connection) -> None:
    db.execute(f"{SERIES} select 'trades', '{{}}', null, null, 'pending', null from series")


def retrying(db: sqlite3.Connection) -> None:
    pending(db)
    db.execute("update outbox set waits = 'retry', next_attempt_at_ms = 9000 + seq where lane = 1")


def column_sets(db: sqlite3.Connection) -> None:
    """A bot whose rows keep changing their columns has thousands of lanes."""
    db.execute(
        f"{NUMBERS} insert into outbox_lanes (destination, operation, columns, ordered)"
        " select 'trades', 'insert', 'n' || n, 0 from series"
    )


NUMBERS = f"with recursive series (n) as (select 1 union all select n + 1 from series where n < {MANY})"
SERIES = f"{NUMBERS} insert into outbox (destination, payload, lane, key, state, settled_at_ms)"
LANE = "insert into outbox_lanes (destination, operation, columns, ordered) values (?, 'insert', 'n', ?)"
LANES = [("trades", 0), ("trades", 1), ("events", 0)]
BACKLOGS = [nothing, pending, one_key, delivered, unread, retrying, column_sets]
Work = Callable[[sqlite3.Connection], object]


@pytest.fixture(scope="module")
def files() -> Iterator[dict[str, sqlite3.Connection]]:
    """One file for each kind of backlog; each has a row of lane 3 besides, so that all have something to do."""
    with ExitStack() as stack:
        found = {fill.__name__: stack.enter_context(schema()) for fill in BACKLOGS}
        for fill, db in zip(BACKLOGS, found.values(), strict=True):
            db.executemany(LANE, LANES)
            db.execute("begin")
            fill(db)
            db.execute("commit")
            db.execute("insert into outbox (seq, destination, payload, lane) values (1000000, 'events', '{}', 3)")
        yield found


def steps(db: sqlite3.Connection, work: Work) -> int:
    """Count the steps of SQLite's machine that `work` takes; its changes are taken back."""
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    db.execute("begin")
    db.set_progress_handler(step, 1)
    try:
        work(db)
    finally:
        db.set_progress_handler(None, 1)
        db.execute("rollback")
    return taken


def put(db: sqlite3.Connection, key: str | None = None) -> None:
    made, _ = entry(1, id=mint_id(1, bytes(10)), key=key)
    db.execute(*queries.insert([made._replace(lane=2 if key else 1)])).fetchall()


def asks(query: queries.Query, *parameters: object) -> Work:
    return lambda db: db.execute(query.sql, parameters).fetchall()


def settles(db: sqlite3.Connection) -> None:
    db.execute(queries.SETTLE.sql, ("delivered", 1, 0, None, None, None, None, None, "[1000000]"))


def settles_the_first_of_its_key(db: sqlite3.Connection) -> None:
    put(db, "other")
    (seq,) = db.execute("select max(seq) from outbox").fetchone()
    db.execute(queries.SETTLE.sql, ("delivered", 1, 0, None, None, None, None, None, f"[{seq}]"))


def shows(db: sqlite3.Connection) -> None:
    snapshot.read(db, Path("no file"))


WORK: list[tuple[str, Work]] = [
    ("a put", put),
    ("a put behind a key", lambda db: put(db, "k")),
    ("READY of a lane", asks(queries.READY, 3, 0, 10)),
    ("READY_RUNS of another lane", asks(queries.READY_RUNS, 3, 0, 10)),
    ("READY_LANES", asks(queries.READY_LANES)),
    ("COUNTS", asks(queries.COUNTS)),
    ("NEXT_DUE", asks(queries.NEXT_DUE)),
    ("LAST_DUE", asks(queries.LAST_DUE)),
    ("DUE when nothing is", asks(queries.DUE, 5, 500)),
    ("TOO_LATE when nothing is", asks(queries.TOO_LATE, 1 << 60, 500)),
    ("OLDEST_PENDING", asks(queries.OLDEST_PENDING)),
    ("PRUNE when nothing is old", asks(queries.PRUNE, 0, 500)),
    ("what stats() shows", shows),
    ("SETTLE of one", settles),
    ("SETTLE of the first of a key", settles_the_first_of_its_key),
]


@pytest.mark.parametrize("backlog", [each.__name__ for each in BACKLOGS if each is not nothing])
@pytest.mark.parametrize("work", [pytest.param(work, id=name) for name, work in WORK])
def test_work_does_not_grow_with_what_is_stored(work: Work, backlog: str, files: dict[str, sqlite3.Connection]) -> None:
    empty = steps(files["nothing"], work)
    full = steps(files[backlog], work)
    most = 2 * empty + MORE + (10 * snapshot.MOST_POSTPONED if work is shows and backlog == "retrying" else 0)
    assert full <= most, f"{full} steps with {MANY} rows, {empty} with none"


@pytest.mark.parametrize(
    ("backlog", "sql"),
    [
        pytest.param("pending", "select count(*) from outbox where state = 'pending'", id="counting"),
        pytest.param(
            "pending", "select distinct lane from outbox where state = 'pending' and waits is null", id="lanes"
        ),
        pytest.param("one_key", "select min(created_at_ms) from outbox where state = 'pending'", id="the oldest"),
        pytest.param("delivered", "select * from outbox where settled_at_ms < 0 and state <> 'dead'", id="pruning"),
        pytest.param("column_sets", queries.LANES.sql, id="every column set"),
    ],
)
def test_control_work_that_grows_is_detected(backlog: str, sql: str, files: dict[str, sqlite3.Connection]) -> None:
    """The control: the plain way to ask the same."""

    def work(db: sqlite3.Connection) -> object:
        return db.execute(sql).fetchall()

    assert steps(files[backlog], work) > 2 * steps(files["nothing"], work) + MORE


@pytest.mark.parametrize("index", ["outbox_turns", "outbox_ready"])
def test_without_its_index_work_would_grow(index: str) -> None:
    """The control for the triggers, whose plans SQLite does not show."""
    work: Work = asks(queries.READY_LANES) if index == "outbox_ready" else lambda db: put(db, "new")
    with schema() as db:
        db.execute("begin")
        pending(db)
        db.execute("commit")
        with_index = steps(db, work)
        db.execute(f"drop index {index}")
        assert steps(db, work) > 10 * with_index


# ------------------------------------------------------------------------------------------ opening


@run_async
async def steps_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count what all connections of `Outbox.open` do until the outbox can be used."""
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_progress_handler(step, 1)
        return connection

    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", counted)
        outbox = await Outbox.open(Settings(path=path))
    to_open = taken
    await outbox.close()
    return to_open


@run_async
async def made(path: Path) -> None:
    async with opened(path):
        pass


def left_by_a_kill(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """A file with a backlog, part of it in the WAL, whose last process did not close it."""
    made(path)
    with shell(path) as db:
        db.executemany(LANE, LANES)
        fill(db)
        db.execute("pragma wal_checkpoint(truncate)")
        db.execute("insert into outbox (destination, payload, lane) values ('events', '{}', 3)")
        parts = {name: path.with_name(name).read_bytes() for name in (path.name, f"{path.name}-wal")}
    for name, content in parts.items():  # as it was before this connection closed it
        path.with_name(name).write_bytes(content)


def kept(db: sqlite3.Connection) -> None:
    """Delivered too lately to be pruned, which would be work of its own."""
    delivered(db)
    db.execute("update outbox set settled_at_ms = settled_at_ms + 4000000000000 where state = 'delivered'")


def a_lane_each(db: sqlite3.Connection) -> None:
    column_sets(db)
    db.execute("insert into outbox (destination, payload, lane) select 'trades', '{}', lane from outbox_lanes")


@pytest.mark.parametrize("backlog", [pending, one_key, kept, unread, retrying, a_lane_each])
def test_opening_reads_neither_backlog_nor_history(
    backlog: Callable[[sqlite3.Connection], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_kill(tmp_path / "empty.db", nothing)
    left_by_a_kill(tmp_path / "full.db", backlog)

    empty = steps_to_open(tmp_path / "empty.db", monkeypatch)
    full = steps_to_open(tmp_path / "full.db", monkeypatch)

    some = {"retrying": 500 * A_LOOK, "a_lane_each": 256 * A_LANE}  # which are looked at, of 20,000
    most = 2 * empty + MORE + some.get(backlog.__name__, 0)
    assert full <= most, f"{full} steps with {MANY} rows, {empty} with none"


def test_control_an_opening_that_counts_its_backlog_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    all_of_them = " where (select count(*) from outbox where state = 'pending') >= 0"
    monkeypatch.setattr(queries, "LANES", queries.LANES._replace(sql=queries.LANES.sql + all_of_them))
    left_by_a_kill(tmp_path / "empty.db", nothing)
    left_by_a_kill(tmp_path / "full.db", pending)

    empty = steps_to_open(tmp_path / "empty.db", monkeypatch)

    assert steps_to_open(tmp_path / "full.db", monkeypatch) > 2 * empty + MORE
