"""Databases for these tests: one of each test's own, and one that is ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from supabase_lite import EmbeddedPostgres

from outbox import background, fleet
from tests.integration.sql_bench import TABLES, PsqlRunner, new_database
from tests.integration.supabase_cli import SupabaseCli


@pytest.fixture
def fresh(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a new, empty database; every statement commits by itself."""
    with new_database(postgres) as connection:
        yield connection


@pytest.fixture(scope="module")
def _applied(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with new_database(postgres) as connection:
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


@pytest.fixture(scope="session")
def _program() -> Path:
    return SupabaseCli.install()


@pytest.fixture
def supabase(_program: Path, tmp_path: Path) -> SupabaseCli:
    """Supabase's own command line, in a new project folder without migrations."""
    return SupabaseCli(_program, tmp_path)


@pytest.fixture
def patient_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot gives a report ten seconds, and the last one, as it closes, less: a busy server here may need more."""
    monkeypatch.setattr(fleet, "_DEADLINE_S", 200.0)
    monkeypatch.setattr(fleet, "_LAST_S", 200.0)
    monkeypatch.setattr(background, "_ALL_S", 400.0)
