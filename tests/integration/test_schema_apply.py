"""`outbox schema apply` on a real PostgreSQL: what it makes, what it says, and that it never says the DSN."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from supabase_lite import EmbeddedPostgres, free_port
from typer.testing import CliRunner, Result

from outbox import remote_schema
from outbox.cli.app import app
from tests.integration.sql_bench import FILES, OLD, OLD_ROWS, OLD_TABLES, Connection, PsqlRunner, column, rows

NAMES = [file.name for file in FILES]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["schema", "apply", *arguments])


def dsn_of(postgres: EmbeddedPostgres, connection: Connection) -> str:
    return postgres.database(connection.info.dbname)


def test_an_empty_database_gets_what_psql_would_have_made(
    fresh: Connection, postgres: EmbeddedPostgres, psql: PsqlRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_DB_URL", dsn_of(postgres, fresh))

    first, second = run(), run("--json")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert re.findall(r"^(\S+)  [0-9.]+ s$", first.output, re.MULTILINE) == NAMES
    assert [each["file"] for each in json.loads(second.output)["applied"]] == NAMES
    made = psql.schema(fresh)
    psql.apply(fresh)
    assert psql.schema(fresh) == made
    assert "outbox_fleet" in made


def test_old_tables_keep_their_rows(fresh: Connection, postgres: EmbeddedPostgres) -> None:
    fresh.execute(OLD_TABLES)
    fresh.execute(OLD_ROWS)
    before = {table: rows(fresh, table) for table in OLD}
    for (row,) in before["events"]:
        row["data"] = json.loads(row["data"])

    assert run(dsn_of(postgres, fresh)).exit_code == 0

    assert {table: rows(fresh, table) for table in OLD} == before


def test_a_dry_run_prints_sql_that_psql_takes_and_connects_to_nothing(
    fresh: Connection, postgres: EmbeddedPostgres, psql: PsqlRunner
) -> None:
    printed = run("--dry-run", "--optional", "money_as_numeric", "postgresql://nobody@192.0.2.1/x")
    assert printed.exit_code == 0
    assert re.findall(r"^-- ---- (\S+)$", printed.output, re.MULTILINE) == [*NAMES, "money_as_numeric.sql"]

    command = [str(postgres.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn_of(postgres, fresh)]
    done = subprocess.run(command, input=printed.output.encode(), capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    made = psql.schema(fresh)
    assert run("--optional", "money_as_numeric", dsn_of(postgres, fresh)).exit_code == 0
    assert psql.schema(fresh) == made


def test_a_locked_table_costs_at_most_ten_seconds_and_nothing_else(
    fresh: Connection, postgres: EmbeddedPostgres
) -> None:
    fresh.execute(OLD_TABLES)
    dsn = dsn_of(postgres, fresh)
    with psycopg.connect(dsn) as other:
        other.execute("lock table events in share mode")
        done = run("--lock-timeout", "0.05", "--json", dsn)

    assert done.exit_code == 3
    said = json.loads(done.output)
    assert said["applied"] == []
    assert "0001_tables.sql" in said["error"] and "try again" in said["error"] and "rolled back" in said["error"]
    there = "select count(*) from information_schema.columns where table_schema = 'public' and column_name = 'source'"
    assert column(fresh, there) == [0]
    assert run(dsn).exit_code == 0
    assert column(fresh, there) == [5]  # four tables and the view


def test_the_help_promises_what_there_is(fresh: Connection, postgres: EmbeddedPostgres) -> None:
    text = run("--help").output
    (with_dsn, dry) = re.findall(r"^\s+(\S*) ?outbox schema apply(.*)$", text, re.MULTILINE)
    assert with_dsn == ("SUPABASE_DB_URL=postgresql://...", "")
    assert run(*dry[1].partition("|")[0].split()).exit_code == 0

    done, refused = run("--json", dsn_of(postgres, fresh)), run("--json")

    told = json.loads(done.output)
    assert {*told, *told["applied"][0], *json.loads(refused.output)} <= set(re.findall(r"\w+", text))
    assert set(json.loads(refused.output)) == {"exit_code", "applied", "error"}


def test_without_a_dsn_it_says_where_it_looks() -> None:
    done = run()
    assert done.exit_code == 3
    assert "SUPABASE_DB_URL" in done.output


def test_an_optional_file_that_is_not_there_is_named_before_anything_is_done() -> None:
    done = run("--optional", "money", "postgresql://nobody@192.0.2.1/x")
    assert done.exit_code == 3
    assert re.search(r"'money' is none of least_privilege, .*money_as_numeric, .*partitions", done.output)


def test_without_psycopg_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    done = run("postgresql://nobody@192.0.2.1/x")
    assert done.exit_code == 3
    assert "pip install 'psycopg[binary]'" in done.output


# ---------------------------------------------------------------------------------------------------- secrets

SECRET = "hunter2hunter2"
DSNS = [
    "postgresql://postgres:{secret}@127.0.0.1:{port}/x",
    "postgresql://postgres:{secret}@{secret}@127.0.0.1:{port}/x",
    "postgresql://postgres:{secret}/{secret}@127.0.0.1:{port}/x",
    "postgresql://postgres:%zz{secret}@127.0.0.1:{port}/x",
    "postgresql://postgres:a:{secret}@127.0.0.1:{port}/x",
    "postgresql://postgres:[{secret}]@127.0.0.1:{port}/x",
    "postgresql://127.0.0.1:{port}/x?password={secret}&nonsense=1",
    "host=127.0.0.1 port={port} password={secret} nonsense=1",
    "host=127.0.0.1 port={port} password='{secret} x' {secret}",
    "{secret}",
]


@pytest.mark.parametrize("dsn", DSNS)
@pytest.mark.parametrize("listening", [True, False], ids=["wrong password", "nobody listens"])
def test_whatever_is_wrong_with_the_dsn_its_password_is_not_shown(
    postgres: EmbeddedPostgres, dsn: str, listening: bool
) -> None:
    postgres.start()
    port = postgres.port if listening else free_port()
    done = run(dsn.format(secret=SECRET, port=port))
    assert done.exit_code == 3
    assert SECRET not in done.output
    assert "nothing was changed" in done.output


def test_libpq_itself_would_have_shown_it() -> None:
    """The control of the test above: some of these errors quote what they were given."""
    quoted = 0
    for dsn in DSNS:
        with pytest.raises(psycopg.Error) as caught:
            psycopg.connect(dsn.format(secret=SECRET, port=free_port()), connect_timeout=5)
        quoted += SECRET in str(caught.value)
    assert quoted >= 3


def test_names_are_left_in_a_message() -> None:
    dsn = "postgresql://postgres.abcdef:hunter2@db.example.com:5432/postgres"
    said = remote_schema.without_secrets('user "postgres.abcdef" at db.example.com failed: hunter2', dsn)
    assert said == 'user "postgres.abcdef" at db.example.com failed: ***'
