"""A project of its own with every optional file applied: partitions, NUMERIC money, a small role, a rotated key."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import Driver, EmbeddedPostgres, SupabaseLite
from typer.testing import CliRunner

from outbox import Outbox, Settings
from outbox.cli.app import app
from tests.doc_blocks import blocks_of
from tests.integration.sql_bench import OPTIONAL
from tests.postgrest.recording import FILE, read
from tests.postgrest.replay import replay
from tests.support import run_async

Sql = psycopg.Connection[TupleRow]
NAMES = ("money_as_numeric", "partitions", "least_privilege")
EXTRA = [Path(__file__).with_name("own_project.sql"), *(OPTIONAL / f"{name}.sql" for name in NAMES)]
TRADE = {"session_id": "s", "symbol": "EURUSD", "timestamp": "2026-01-02T10:00:00Z"}


@pytest.fixture(scope="module")
def project(postgres: EmbeddedPostgres) -> Iterator[SupabaseLite]:
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute("create database own_project")
        with SupabaseLite(Driver.POSTGRES, dsn=postgres.database("own_project"), extra_sql=EXTRA) as lite:
            yield lite
        server.execute("drop database own_project with (force)")


@pytest.fixture
def own_sql(project: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[Sql]:
    with psycopg.connect(postgres.database("own_project"), autocommit=True) as connection:
        connection.execute("truncate trades, events, sessions, outbox_health, orders")
        yield connection


@contextlib.asynccontextmanager
async def opened(path: Path, project: SupabaseLite, **changes: Any) -> AsyncIterator[Outbox]:
    values = {"supabase_url": project.url, "supabase_key": project.secret_key, **changes}
    async with Outbox.open(Settings(path=path, _env_file=None, **values)) as outbox:
        yield outbox


# ------------------------------------------------------------------------------------------- recorded requests


def test_every_recorded_request_is_taken_by_a_real_server(project: SupabaseLite, own_sql: Sql) -> None:
    answers = list(replay(project.url, project.secret_key))
    assert [(answer.request.title, answer.body) for answer in answers if not answer.fits] == []
    assert len(answers) == len(read(FILE.read_text(encoding="utf-8")))
    assert own_sql.execute("select count(*), count(distinct id) from trades").fetchone() == (10, 10)
    again = list(replay(project.url, project.secret_key))
    assert all(answer.fits for answer in again)
    assert own_sql.execute("select count(*) from trades").fetchone() == (10,)


def test_a_replay_with_another_key_does_not_fit(project: SupabaseLite, own_sql: Sql) -> None:
    """The control of the test above."""
    answers = list(replay(project.url, project.publishable_key))
    # A read finds nothing and a change changes nothing, with row-level security in between; an insert is refused.
    assert not any(answer.fits for answer in answers if answer.request.method == "POST")


# ------------------------------------------------------------------------------------- partitions, NUMERIC money


@run_async
async def test_what_two_bots_send_is_one_row_in_its_month_with_its_digits(
    tmp_path: Path, project: SupabaseLite, own_sql: Sql
) -> None:
    row = TRADE | {"pnl": Decimal("0.1000000001")}  # Lite reads numbers as floats; PostgREST keeps every digit
    ids = set()
    for name in ("a", "b"):
        async with opened(tmp_path / name, project) as outbox:
            ids.add((await outbox.put("trades", row)).id)
            await outbox.put("trades", row, id="019b7d00-0000-7000-8000-000000000001")
            report = await outbox.drain(timeout=200)
            assert (report.delivered, report.pending, report.dead) == (2, 0, 0)

    found = own_sql.execute("select count(*), count(distinct id), min(pnl)::text from trades").fetchone()
    assert found == (3, 3, "0.1000000001")
    own = "select id::text from trades where tableoid <> 'outbox_partitions.trades_other'::regclass"
    assert {row[0] for row in own_sql.execute(own).fetchall()} >= ids


# ------------------------------------------------------------------------------------------------- a small role


def documented_token(secret: str, role: str = "outbox_bot") -> str:
    """What the block of docs/supabase.md makes of a project's secret."""
    (block,) = blocks_of(Path(__file__).parents[2] / "docs" / "supabase.md")
    page: dict[str, Any] = {}
    exec(block.compiled(), page)
    made = page["token"](secret, role)
    assert isinstance(made, str)
    return made


@pytest.mark.usefixtures("patient_reports")
@run_async
async def test_a_bot_with_a_token_of_the_small_role_sends_and_reads_and_cannot_do_more(
    tmp_path: Path, project: SupabaseLite, own_sql: Sql
) -> None:
    access = {
        "supabase_key": project.publishable_key,
        "access_token": documented_token(project.jwt_secret),
        "source": "trend@desk",  # as the token says
    }
    session = {"session_id": "s", "start_time": "2026-01-02T09:00:00Z", "status": "RUNNING", "version": 1}
    async with opened(tmp_path / "bot.db", project, health_s=60, **access) as outbox, outbox.flushing():
        assert (await outbox.stats()).warnings == ()
        await outbox.put("trades", TRADE)
        await outbox.put("sessions", session, operation="upsert")
        await outbox.put("sessions", session | {"status": "STOPPED", "version": 2}, operation="upsert")
        report = await outbox.drain(timeout=200)
        assert (report.delivered, report.pending, report.dead) == (3, 0, 0)
        assert len(await outbox.fetch("trades?select=id")) == 1

        await outbox.put("orders", {"order_id": "o"}, operation="upsert", on_conflict=("order_id",))
        refused = await outbox.drain(timeout=200)
        (pause,) = (await outbox.stats()).pauses
        assert (refused.pending, pause.reason, pause.code) == (1, "forbidden", "42501")
    assert own_sql.execute("select status from sessions").fetchall() == [("STOPPED",)]
    assert own_sql.execute("select source, stopped from outbox_health").fetchall() == [("trend@desk", True)]


@run_async
async def test_doctor_finds_nothing_wrong_with_the_small_role_and_looks_for_a_time_limit(
    tmp_path: Path, project: SupabaseLite, postgres: EmbeddedPostgres, own_sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_DB_URL"):
        monkeypatch.delenv(name, raising=False)
    token = documented_token(project.jwt_secret)
    access = {"supabase_key": project.publishable_key, "access_token": token, "source": "trend@desk"}
    path = tmp_path / "bot.db"
    async with opened(path, project, **access) as outbox:
        await outbox.put("trades", TRADE)
        await outbox.put("sessions", {"session_id": "s", "start_time": "2026-01-02T09:00:00Z"}, operation="upsert")
        assert (await outbox.drain(timeout=200)).delivered == 2
    for name, value in (("URL", project.url), ("KEY", project.publishable_key)):
        monkeypatch.setenv(f"SUPABASE_{name}", value)
    monkeypatch.setenv("OUTBOX_ACCESS_TOKEN", token)
    command = ["doctor", "--path", str(path), "--json"]
    report = json.loads((await asyncio.to_thread(CliRunner().invoke, app, command)).stdout)
    ours = [each for each in report["findings"] if each["check"].partition(":")[0] in ("key", "trades", "sessions")]
    assert [each for each in ours if each["severity"] not in ("ok", "skipped")] == []
    assert len(ours) > 4

    async def limit(dsn: str) -> tuple[str, str]:
        monkeypatch.setenv("SUPABASE_DB_URL", dsn)
        told = json.loads((await asyncio.to_thread(CliRunner().invoke, app, command)).stdout)["findings"]
        (found,) = [each for each in told if each["check"] == "statement_timeout"]
        return found["severity"], f"{found['says']} {found['fix']}"

    dsn = postgres.database("own_project")
    severity, says = await limit(dsn)
    assert severity == "warning" and "alter role outbox_bot set statement_timeout = '8s'" in says
    own_sql.execute("alter role outbox_bot set statement_timeout = '8s'")
    try:
        severity, says = await limit(dsn)
        assert severity == "ok" and "may take 8s" in says
    finally:
        own_sql.execute("alter role outbox_bot reset statement_timeout")
    severity, says = await limit("postgresql://nobody:hidden-words@127.0.0.1:1/x")
    assert severity == "skipped" and "not looked at" in says and "hidden-words" not in says

    own_sql.execute("revoke insert on trades from outbox_bot")
    try:  # control: what is missing is told, with the file of this role
        report = json.loads((await asyncio.to_thread(CliRunner().invoke, app, command)).stdout)
        fixes = [each["fix"] or "" for each in report["findings"] if each["check"].startswith("trades")]
        assert any("least_privilege.sql" in fix for fix in fixes) or "did not ask its database" in str(report)
    finally:
        own_sql.execute("grant insert on trades to outbox_bot")


# ------------------------------------------------------------------------------------------- a key that changes


@run_async
async def test_a_legacy_key_gives_way_to_a_secret_key_while_the_bot_runs_and_every_row_arrives_once(
    tmp_path: Path, project: SupabaseLite, own_sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    env = tmp_path / ".env"
    common = f"SUPABASE_URL={project.url}\nOUTBOX_PAUSE_PROBE_S=0.1\nOUTBOX_BACKOFF_CAP_S=0.1\n"

    async def replace_key(key: str | None) -> None:
        project.rotate_key(key)
        await asyncio.to_thread(project.stop)
        await asyncio.to_thread(project.start)

    def write_key() -> None:
        env.write_text(f"{common}SUPABASE_SECRET_KEY={project.secret_key}\n", encoding="utf-8")

    await replace_key(documented_token(project.jwt_secret, "service_role"))
    write_key()
    async with Outbox.open() as outbox, outbox.flushing():
        for number in range(100):
            await outbox.put("trades", TRADE | {"trade_id": f"before {number}"})
        while (await outbox.stats()).delivered < 100:
            pass

        await replace_key(None)
        for number in range(100):
            await outbox.put("trades", TRADE | {"trade_id": f"after {number}"})
        while (await outbox.stats()).paused != "unauthorized":
            pass
        stats = await outbox.stats()  # control: nothing passes with the old key
        assert (stats.pending, stats.dead) == (100, 0)

        write_key()
        while (stats := await outbox.stats()).pending:
            pass
        assert (stats.delivered, stats.dead, stats.paused) == (200, 0, None)
    assert own_sql.execute("select count(*), count(distinct trade_id) from trades").fetchone() == (200, 200)
