"""`supabase db push`, Supabase's own command line, as docs/supabase.md says, beside the two other ways."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from supabase_lite import ROOT, EmbeddedPostgres
from typer.testing import CliRunner

from outbox.cli.app import app
from tests.integration.sql_bench import (
    FILES,
    OLD,
    OLD_ROWS,
    OLD_TABLES,
    TABLES,
    Connection,
    PsqlRunner,
    allowed,
    column,
    like_hosted,
    rows,
)
from tests.integration.supabase_cli import SupabaseCli

NAMES = [file.name for file in FILES]
NOTHING_TO_DO = "Remote database is up to date."
VERSIONS = "select version from supabase_migrations.schema_migrations order by 1"


@pytest.fixture
def owner(fresh: Connection, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of who owns `fresh`, like a hosted project, and is no superuser: a project's `postgres` is none."""
    role, name = f"owner_{uuid4().hex[:8]}", fresh.info.dbname
    like_hosted(fresh)
    fresh.execute(f"create role {role} login password 'of-a-test'")
    fresh.execute(f"alter database {name} owner to {role}")
    for kind in ("tables", "functions"):
        fresh.execute(
            f"alter default privileges for role {role} in schema public"
            f" grant all on {kind} to anon, authenticated, service_role"
        )
    yield f"postgresql://{role}:of-a-test@127.0.0.1:{postgres.port}/{name}"
    fresh.execute(f"alter database {name} owner to postgres")
    fresh.execute(f"drop owned by {role} cascade")
    fresh.execute(f"drop role {role}")


def applied(output: str) -> list[str]:
    return re.findall(r"^Applying migration (\S+?)\.\.\.$", output, re.MULTILINE)


def test_an_empty_project_takes_the_files_once_and_has_nothing_more_to_do(
    fresh: Connection, psql: PsqlRunner, owner: str, supabase: SupabaseCli
) -> None:
    supabase.copy(FILES)

    first = supabase.push(owner)

    assert first.returncode == 0, first.stderr
    assert applied(first.stderr) == NAMES
    assert column(fresh, VERSIONS) == [name.split("_")[0] for name in NAMES]
    made = psql.schema(fresh)
    again = supabase.push(owner)
    assert (again.returncode, applied(again.stderr)) == (0, [])
    assert NOTHING_TO_DO in again.stdout
    assert psql.schema(fresh) == made
    assert {table: allowed(fresh, "service_role", table) for table in TABLES} == {
        table: {"select", "insert", "update"} for table in TABLES
    }
    assert [table for table in TABLES if allowed(fresh, "anon", table)] == []


def test_the_old_modules_tables_keep_every_row(fresh: Connection, owner: str, supabase: SupabaseCli) -> None:
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(OLD_TABLES)
        connection.execute(OLD_ROWS)
    before = {table: rows(fresh, table) for table in OLD}
    assert [len(before[table]) for table in OLD] == [50, 500, 500]
    supabase.copy(FILES)

    pushed, again = supabase.push(owner), supabase.push(owner)

    assert (pushed.returncode, again.returncode) == (0, 0), pushed.stderr + again.stderr
    assert NOTHING_TO_DO in again.stdout
    after = {table: rows(fresh, table) for table in OLD}
    assert after != before  # control: the comparison sees that the text of an event became the object that it holds
    for (row,) in before["events"]:
        row["data"] = json.loads(row["data"])
    assert after == before


def test_a_project_with_migrations_of_its_own_needs_include_all(
    fresh: Connection, owner: str, supabase: SupabaseCli
) -> None:
    (supabase.migrations / "20250101000000_mine.sql").write_text("create table mine (n int primary key);", "utf-8")
    assert supabase.push(owner).returncode == 0
    supabase.copy(FILES)

    without = supabase.push(owner)  # the control: the flag is needed
    assert without.returncode != 0
    assert "--include-all" in without.stdout + without.stderr
    assert column(fresh, VERSIONS) == ["20250101000000"]

    assert applied(supabase.push(owner, "--include-all").stderr) == NAMES
    assert column(fresh, "select to_regclass('public.trades')::text") == ["trades"]


def test_a_file_that_is_wrong_is_refused_as_a_whole(fresh: Connection, owner: str, supabase: SupabaseCli) -> None:
    """The control of the tests above: the command does run each statement, and its exit code says how that went."""
    supabase.copy(FILES[:1])
    (supabase.migrations / "0002_wrong.sql").write_text("create table half ();\ncreate table trades ();\n", "utf-8")

    done = supabase.push(owner)

    assert done.returncode != 0
    assert 'relation "trades" already exists' in done.stderr
    assert column(fresh, VERSIONS) == ["0001"]
    assert column(fresh, "select to_regclass('public.half')") == [None]


def test_a_file_that_changed_later_is_not_pushed_again(fresh: Connection, owner: str, supabase: SupabaseCli) -> None:
    """What docs/supabase.md warns of: a newer version of this library needs one of the other ways."""
    supabase.copy(FILES)
    assert supabase.push(owner).returncode == 0
    with (supabase.migrations / NAMES[-1]).open("a", encoding="utf-8") as file:
        file.write("\ncreate table public.newer (n int primary key);\n")

    assert NOTHING_TO_DO in supabase.push(owner).stdout
    assert column(fresh, "select to_regclass('public.newer')") == [None]


def test_the_three_ways_of_the_page_do_the_same(
    fresh: Connection,
    postgres: EmbeddedPostgres,
    psql: PsqlRunner,
    supabase: SupabaseCli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (ROOT / "docs" / "supabase.md").read_text("utf-8")
    commands = re.findall(r"^```sh\n(outbox schema apply .*?)```$", page, re.MULTILINE | re.DOTALL)[0].splitlines()
    _, psqls, push = commands
    assert re.search(r"do psql \S+ -v ON_ERROR_STOP=1 -f \S+; done$", psqls)  # which is what `PsqlRunner` does
    arguments = re.fullmatch(r"cp supabase_sql/\*\.sql supabase/migrations/ && supabase (db push .*)", push)
    assert arguments is not None
    dsn = postgres.database(fresh.info.dbname)
    monkeypatch.setenv("SUPABASE_DB_URL", dsn)
    like_hosted(fresh)
    empty = psql.schema(fresh)

    psql.apply(fresh)
    by_psql = emptied(fresh, psql)
    assert CliRunner().invoke(app, ["schema", "apply"]).exit_code == 0
    by_outbox = emptied(fresh, psql)
    supabase.copy(FILES)
    done = supabase.run(*[part.replace("$SUPABASE_DB_URL", dsn) for part in shlex.split(arguments[1])])
    assert done.returncode == 0, done.stderr
    fresh.execute("drop schema supabase_migrations cascade")  # its list of what it has pushed
    by_supabase = emptied(fresh, psql)

    assert by_psql == by_outbox == by_supabase
    assert by_psql != empty  # control: there is something to compare


def emptied(connection: Connection, psql: PsqlRunner) -> str:
    """Return the schema, and take away what the files made."""
    made = psql.schema(connection)
    connection.execute(f"drop table {', '.join(TABLES)} cascade")
    for function in column(
        connection, "select oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace"
    ):
        connection.execute(f"drop function {function}")
    return made
