"""The remote end for every room that asks for it: one PostgreSQL and one REST server for the whole run.

Nothing is started before a test names a fixture. `clean_remote` is the one to use: it is up and empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from supabase_lite import SQL, Driver, EmbeddedPostgres, SupabaseLite

from tests.secrets import MARK, leaks

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

FAULTS = Path(__file__).parent / "remote" / "faults.sql"


@pytest.fixture(autouse=True)
def no_key_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no file of the outbox, nothing beside it and no line of the log holds a key."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    caplog = request.getfixturevalue("caplog")
    yield
    if folder is not None:
        assert leaks(folder) == [], "a key stands in a file"
    assert MARK.decode() not in caplog.text, "a key stands in the log"


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that a test may stop or kill; the next test that asks finds it up."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def remote(postgres: EmbeddedPostgres) -> Iterator[SupabaseLite]:
    """The REST server on `postgres`, with `supabase_sql` and the injected faults of `tests/remote/faults.sql`."""
    with SupabaseLite(Driver.POSTGRES, dsn=postgres.dsn, extra_sql=[FAULTS]) as server:
        yield server


@pytest.fixture
def sql(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection[TupleRow]]:
    """A superuser's connection to the database behind `remote`; every statement commits by itself."""
    import psycopg

    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def clean_remote(remote: SupabaseLite, sql: psycopg.Connection[TupleRow]) -> SupabaseLite:
    """`remote`, up again whatever the test before did to it, with its tables empty and the shipped privileges."""
    remote.start()
    sql.execute("set lock_timeout = '10s'")  # a slow request of the test before may still hold a table
    # Supabase Lite, each time it starts, grants everything on every table to all three roles.
    sql.execute((SQL / "0002_access.sql").read_bytes())
    sql.execute("truncate public.sessions, public.trades, public.events, public.outbox_health")
    return remote
