"""Measures what the shipped SQL costs on tables that are full: the figures of docs/supabase.md.

usage: python -m tests.integration.measure_sql [UPGRADE_ROWS [OPTIONAL_ROWS]]        (100,000 and 1,000,000)

The older module's tables are filled with rows and brought up to date file by file, on a real PostgreSQL, while a bot
inserts an event every few milliseconds. For each file: its seconds, the strongest lock that it held on each table until
it was in, and the longest that the bot waited for an insert meanwhile. "durable": PostgreSQL syncs to the disk.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from supabase_lite import EmbeddedPostgres

from tests.integration.sql_bench import FILES, INSERTS, OLD, OLD_TABLES, OPTIONAL, Connection

FILL = """
insert into sessions (session_id, start_time, initial_balance, total_pnl)
    select 's' || n, now(), 10000, n / 3.0 from generate_series(1, %(rows)s / 100) n;
insert into trades (session_id, trade_id, timestamp, symbol, direction, volume, entry_price, exit_price, pnl, pnl_pips,
        commission, is_paper, comment)
    select 's' || n %% 1000, n::text, now() - make_interval(secs => n), 'SYM' || n %% 20, 1, 0.1, 1.07 + n / 1e7,
        1.08 + n / 1e7, n / 7.0, n / 70.0, 0.35, n %% 2 = 0, 'a comment of some length'
    from generate_series(1, %(rows)s) n;
insert into events (session_id, timestamp, event_type, data)
    select 's' || n %% 1000, now() - make_interval(secs => n), 'TYPE' || n %% 20,
        to_jsonb(jsonb_build_object('n', n, 'reason', 'a text of some length', 'price', n / 7.0)::text)
    from generate_series(1, %(rows)s) n;
"""
STRENGTH = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
            "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")  # fmt: skip
# Of every value that the files leave alone, in whatever order the rows are.
FINGERPRINT = """select count(*), sum(hashtextextended((to_jsonb(t) - 'data' - 'version' - 'source')::text, 0)::numeric)
    from {table} t where to_jsonb(t) ->> 'event_type' is distinct from 'x'"""  # x: the bot's own
LOCKS = """select c.relname, l.mode from pg_locks l join pg_class c on c.oid = l.relation
    where l.pid = pg_backend_pid() and c.relname in ('sessions', 'trades', 'events', 'outbox_health')"""

_numbers = itertools.count(1)


@contextmanager
def database(server: EmbeddedPostgres, rows: int) -> Iterator[tuple[Connection, str]]:
    """A database with the older tables, each with `rows` rows (sessions: a hundredth)."""
    name = f"measured_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        with psycopg.connect(server.database(name), autocommit=True) as connection:
            connection.execute(OLD_TABLES)
            for statement in FILL.split(";\n")[:3]:
                connection.execute(statement, {"rows": rows})
            connection.execute("vacuum analyze")
            yield connection, server.database(name)
        admin.execute(f"drop database {name} with (force)")


@contextmanager
def bot(dsn: str) -> Iterator[list[float]]:
    """Insert an event every few milliseconds, and collect how long each one took, in seconds."""
    waits: list[float] = []
    done = threading.Event()

    def work() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            while not done.wait(0.005):
                started_s = time.perf_counter()
                own.execute(INSERTS["events"])
                waits.append(time.perf_counter() - started_s)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()


def fingerprints(connection: Connection) -> list[object]:
    return [connection.execute(FINGERPRINT.format(table=table)).fetchone() for table in OLD]


def measure(connection: Connection, dsn: str, file: Path) -> None:
    """Apply one file in a transaction, as `outbox schema apply` does, and print what it cost."""
    with bot(dsn) as waits:
        while not waits:
            time.sleep(0.01)
        started_s = time.perf_counter()
        with connection.transaction():
            connection.execute(file.read_bytes(), prepare=False)
            found = connection.execute(LOCKS).fetchall()
        seconds = time.perf_counter() - started_s
    held: dict[str, str] = {}
    for table, mode in sorted(found, key=lambda row: STRENGTH.index(row[1])):
        held[table] = mode.removesuffix("Lock")
    locks = ", ".join(f"{table} {mode}" for table, mode in sorted(held.items())) or "none"
    say(f"| {file.name} | {seconds:.2f} | {max(waits) * 1000:.0f} | {locks} |")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    upgrade, optional = given + [100_000, 1_000_000][len(given) :]
    with EmbeddedPostgres() as server:
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute("alter system set fsync = on")
            admin.execute("select pg_reload_conf()")
        say("| file | s | longest wait, ms | strongest lock |\n| --- | --- | --- | --- |")
        say(f"{upgrade:,} trades and events")
        with database(server, upgrade) as (connection, dsn):
            before = fingerprints(connection)
            for file in (*FILES, *FILES[-1:]):
                measure(connection, dsn, file)
            assert fingerprints(connection) == before, "a row has changed"
        for name in ("money_as_numeric", "partitions"):
            with database(server, optional) as (connection, dsn):
                for file in FILES:
                    connection.execute(file.read_bytes(), prepare=False)
                say(f"{optional:,} trades and events")
                measure(connection, dsn, OPTIONAL / f"{name}.sql")


if __name__ == "__main__":
    main()
