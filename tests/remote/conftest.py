"""What only this room needs: databases of one test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from supabase_lite import EmbeddedPostgres

_numbers = itertools.count(1)


@pytest.fixture
def fresh(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a new, empty database; every statement commits by itself."""
    postgres.start()
    name = f"fresh_{next(_numbers)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute(f"create database {name}")
        with psycopg.connect(postgres.database(name), autocommit=True) as connection:
            yield connection
        server.execute(f"drop database {name} with (force)")
