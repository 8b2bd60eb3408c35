"""Measures what the shipped SQL costs on tables that are full: the figures of docs/supabase.md. `scripts/test --slow`.

usage: python -m tests.integration.measure_sql [ROWS]        (1,000,000 trades and as many events)

The older module's tables are brought up to date file by file on a real PostgreSQL that syncs to the disk, under a
statement_timeout of 2 s, while a bot inserts an event every few milliseconds. Exits 1 if a row is lost or changed, or
if the bot's insert fails.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from supabase_lite import EmbeddedPostgres

from tests.integration.sql_bench import FILES, INSERTS, OLD, OLD_TABLES, OPTIONAL, Connection, column

FILL = """
insert into sessions (session_id, start_time, initial_balance, total_pnl)
    select 's' || n, now(), 10000, n / 3.0 from generate_series(1, %(rows)s / 100) n;
insert into trades (session_id, trade_id, timestamp, symbol, direction, volume, entry_price, exit_price, pnl, pnl_pips,
        commission, is_paper, comment)
    select 's' || n %% 1000, n::text, now() - make_interval(secs => n),
        case when n > 0.99 * %(rows)s then 'OLD' else 'SYM' || n %% 20 end, 1,
        0.1, 1.07 + n / 1e7, 1.08 + n / 1e7, n / 7.0, n / 70.0, 0.35, n > 0.9 * %(rows)s, 'a comment of some length'
    from generate_series(1, %(rows)s) n;
insert into events (session_id, timestamp, event_type, data)
    select 's' || n %% 1000, now() - make_interval(secs => n), 'TYPE' || n %% 20,
        to_jsonb(jsonb_build_object('n', n, 'reason', 'a text of some length', 'price', n / 7.0)::text)
    from generate_series(1, %(rows)s) n;
"""
STRENGTH = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
            "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")  # fmt: skip
# Of every value that the files leave alone, in whatever order the rows are.
FINGERPRINT = """select count(*), sum(hashtextextended((to_jsonb(t) - 'data' - 'version' - 'source' - 'extra')::text, 0)
    ::numeric) from {table} t where to_jsonb(t) ->> 'event_type' is distinct from 'x'"""  # x: the bot's own
NO_OBJECTS = "select count(*) from events where jsonb_typeof(data) <> 'object'"
LOCKS = """select c.relname, l.mode from pg_locks l join pg_class c on c.oid = l.relation
    where l.pid = pg_backend_pid() and c.relname in ('sessions', 'trades', 'events', 'outbox_health')"""
SIZES = (
    "select sum(pg_total_relation_size(oid))::float from pg_class where relkind = 'r' and relname ~ '^(trades|events)'"
)
READS = {
    "newest trades of a symbol of last year": "trades where symbol = 'OLD'",
    "newest of last year's paper trades": "trades where is_paper",
    "newest events": "events where true",
}
A_TRADE = """insert into trades (id, session_id, symbol, timestamp, pnl)
    select {id}, 's' || n, 'SYM' || n % 20, now(), n / 7.0 from generate_series(1, {rows}) n"""
OF_THIS_MONTH = "(substr(outbox_partitions.first_id(now())::text, 1, 24) || lpad(to_hex(n), 12, '0'))::uuid"


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with EmbeddedPostgres() as server, filled(server, rows) as (connection, dsn):
        version = column(connection, "select split_part(version(), ',', 1)")[0]
        say(f"{version}; {rows:,} trades and as many events")
        reads(connection, "the older module's indexes")
        say("| file | s | WAL, MB | tables grow by, MB | the bot's longest insert, ms | strongest lock |")
        say("| --- | --- | --- | --- | --- | --- |")
        before = fingerprints(connection)
        for file in FILES:
            measure(connection, dsn, file)
        assert column(connection, NO_OBJECTS) == [0], "an event is no object"
        for file in FILES:
            measure(connection, dsn, file, again=True)
        assert fingerprints(connection) == before, "a row has changed"
        connection.execute("vacuum analyze")
        reads(connection, "these files' indexes")
        measure(connection, dsn, OPTIONAL / "money_as_numeric.sql")
        counts = [column(connection, f"select count(*) from {table}") for table in OLD]
        measure(connection, dsn, OPTIONAL / "partitions.sql")
        after = [column(connection, f"select count(*) from {table}") for table in OLD]
        assert all(now >= then for now, then in zip(after, counts, strict=True)), "a row is lost"
        partitions(connection, dsn, rows)


@contextmanager
def filled(server: EmbeddedPostgres, rows: int) -> Iterator[tuple[Connection, str]]:
    """The older tables, each with `rows` rows (sessions: a hundredth), on a server that syncs."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for setting in ("fsync = on", "max_wal_size = '4GB'"):
            connection.execute(f"alter system set {setting}")
        connection.execute("select pg_reload_conf()")
        connection.execute(OLD_TABLES)
        for statement in FILL.split(";\n")[:3]:
            connection.execute(statement, {"rows": rows})
        connection.execute("vacuum analyze")
        yield connection, server.dsn


def measure(connection: Connection, dsn: str, file: Path, *, again: bool = False) -> None:
    """Apply one file in a transaction and print what it cost."""

    def work() -> str:
        with connection.transaction():
            # As a project has it, but shorter; for an optional file `outbox schema apply` lifts it.
            connection.execute(f"set local statement_timeout = {0 if file.parent == OPTIONAL else 2000}")
            connection.execute(file.read_bytes(), prepare=False)
            found = connection.execute(LOCKS).fetchall()
        held: dict[str, str] = dict(sorted(found, key=lambda row: STRENGTH.index(row[1])))
        return ", ".join(f"{table} {mode.removesuffix('Lock')}" for table, mode in sorted(held.items())) or "none"

    size = column(connection, SIZES)[0]
    seconds, wal, wait, locks = timed(connection, dsn, work)
    grown = (column(connection, SIZES)[0] - size) / 1e6  # type: ignore[operator]
    name = f"{file.stem} again" if again else file.stem
    say(f"| {name} | {seconds:.2f} | {wal / 1e6:,.1f} | {grown:,.0f} | {wait * 1000:.0f} | {locks} |")


def timed(connection: Connection, dsn: str, work: Callable[[], str]) -> tuple[float, int, float, str]:
    """Return the seconds of `work`, the bytes of WAL meanwhile, the bot's longest wait, and what `work` says."""
    with bot(dsn) as waits:
        begins = column(connection, "select pg_current_wal_insert_lsn()")[0]
        started_s = time.perf_counter()
        said = work()
        seconds = time.perf_counter() - started_s
        wal = connection.execute("select pg_current_wal_insert_lsn() - %s::pg_lsn", (begins,)).fetchone()
    assert wal is not None
    return seconds, int(wal[0]), max(waits), said


@contextmanager
def bot(dsn: str) -> Iterator[list[float]]:
    """Insert an event every few milliseconds, and collect how long each one took, in seconds."""
    waits: list[float] = []
    failed: list[psycopg.Error] = []
    first, done = threading.Event(), threading.Event()

    def work() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as own:
                while not done.wait(0.005):
                    started_s = time.perf_counter()
                    own.execute(INSERTS["events"])
                    waits.append(time.perf_counter() - started_s)
                    first.set()
        except psycopg.Error as error:
            failed.append(error)
            first.set()

    thread = threading.Thread(target=work)
    thread.start()
    first.wait()
    try:
        yield waits
    finally:
        done.set()
        thread.join()
    assert not failed, f"the bot's insert failed: {failed}"


def fingerprints(connection: Connection) -> list[object]:
    return [connection.execute(FINGERPRINT.format(table=table)).fetchone() for table in OLD]


def reads(connection: Connection, indexes: str) -> None:
    """Print what the three reads cost, and the WAL of a trade."""
    for name, wanted in READS.items():
        ms = milliseconds(connection, f"select * from {wanted} order by timestamp desc limit 100")
        say(f"{indexes}: {name}, {ms[-1]:.2f} ms")
    # The first change of a page after a checkpoint is the whole page: left out, it would hide the rest.
    connection.execute("alter system set full_page_writes = off")
    connection.execute("select pg_reload_conf()")
    connection.execute("checkpoint")
    begins = column(connection, "select pg_current_wal_insert_lsn()")[0]
    connection.execute("begin")
    connection.execute(A_TRADE.format(id="gen_random_uuid()", rows=1000))
    wal = connection.execute("select pg_current_wal_insert_lsn() - %s::pg_lsn", (begins,)).fetchone()
    connection.execute("rollback")
    connection.execute("alter system reset full_page_writes")
    connection.execute("select pg_reload_conf()")
    assert wal is not None
    say(f"{indexes}: {int(wal[0]) / 1000:,.0f} bytes of WAL a trade")


def milliseconds(connection: Connection, query: str) -> Sequence[float]:
    """Return how long planning and execution of `query` take, the second time."""
    connection.execute(query)
    plan = "\n".join(map(str, column(connection, f"explain analyze {query}")))
    return [float(each) for each in re.findall(r"(?:Planning|Execution) Time: ([\d.]+) ms", plan)]


def partitions(connection: Connection, dsn: str, rows: int) -> None:
    """Print what months cost: made beside a full default partition, a hundred of them to a query, and dropped."""
    read = "select * from trades order by timestamp desc limit 100"
    for since in ("now()", "now() - interval '87 months'"):  # 88 before and 12 after
        seconds, _, wait, made = timed(
            connection,
            dsn,
            lambda since=since: str(column(connection, f"select outbox_partitions.add_months(12, {since})")),  # type: ignore[misc]
        )
        say(f"add_months: {made} made in {seconds:.2f} s; the bot's longest insert {wait * 1000:.0f} ms")
        with connection.transaction():
            planning, execution = milliseconds(connection, read)
            locks = column(
                connection, "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'relation'"
            )
        say(f"newest trades: planning {planning:.2f} ms, execution {execution:.2f} ms, {locks[0]} locks")
    connection.execute(A_TRADE.format(id=OF_THIS_MONTH, rows=rows // 10))
    month = column(connection, "select to_char(now() at time zone 'UTC', 'YYYY_MM')")[0]
    for what, sql in (
        ("delete of a month's rows", "delete from outbox_partitions.trades_{month} where symbol = 'SYM1'"),
        ("drop of a month", "drop table outbox_partitions.trades_{month}"),
    ):
        seconds, wal, wait, _ = timed(connection, dsn, lambda sql=sql: str(connection.execute(sql.format(month=month))))  # type: ignore[misc]
        say(f"{what}: {seconds:.3f} s, {wal / 1e6:.1f} MB of WAL, the bot's longest insert {wait * 1000:.0f} ms")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
