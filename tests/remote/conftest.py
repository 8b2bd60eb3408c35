"""What only this room needs: databases of one test's own, and one that stands ready."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from supabase_lite import EmbeddedPostgres

from tests.remote.sql_bench import TABLES, PsqlRunner

_numbers = itertools.count(1)


@contextmanager
def _new_database(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    postgres.start()
    name = f"fresh_{next(_numbers)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute(f"create database {name}")
        with psycopg.connect(postgres.database(name), autocommit=True) as connection:
            yield connection
        server.execute(f"drop database {name} with (force)")


@pytest.fixture
def fresh(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a new, empty database; every statement commits by itself."""
    with _new_database(postgres) as connection:
        yield connection


@pytest.fixture(scope="module")
def _applied(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with _new_database(postgres) as connection:
        PsqlRunner(postgres).apply(connection)
        yield connection


@pytest.fixture
def applied(_applied: psycopg.Connection) -> psycopg.Connection:
    """One where all files are applied and the tables are empty; it is shared, so a test must not change its schema."""
    _applied.execute("reset all")
    _applied.execute(f"truncate {', '.join(TABLES)}")
    return _applied


@pytest.fixture
def psql(postgres: EmbeddedPostgres) -> PsqlRunner:
    return PsqlRunner(postgres)
