"""What PostgreSQL writes in its own way is the bot's own row; and each set of columns gets its table's defaults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

from outbox import Outbox, Settings
from outbox.flusher import scheduler
from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.verdicts import Failure, Reply
from tests.integration.test_delivered import LosesTheFirstReply
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

# Of each column: its type, a value in a spelling that PostgreSQL does not keep, and another value.
ODD: dict[str, tuple[str, Any, Any]] = {
    "price": ("numeric(10,2)", Decimal("1.239"), Decimal("1.25")),
    "cash": ("money", "12.5", "12.51"),
    "raw": ("bytea", "hi", "ho"),
    "wait": ("interval", "P1DT2H", "P1DT3H"),
    "host": ("inet", "192.168.0.1/32", "192.168.0.2"),
    "span": ("int4range", "[1,5]", "[1,6]"),
    "tags": ("text[]", ["b c", 'd"e'], ["b c"]),
    "lots": ("numeric(6,1)[]", [Decimal("1.0"), 2], [3]),
    "literal": ("int[]", "{1, 2}", "{1,3}"),
    "coarse": ("timestamptz(0)", "2026-01-02T10:00:00.6Z", "2026-01-02T10:00:03Z"),
    "milli": ("timestamp(3)", "2026-01-02T10:00:00.123456", "2026-01-02T10:00:00.2"),
    "bits": ("varbit", "101", "100"),
    "mask": ("macaddr", "08-00-2b-01-02-03", "08:00:2b:01:02:04"),
    "label": ("char(8)", "ab", "abc"),
    "note": ("jsonb", {"b": 1.50, "a": [1]}, {"a": [2]}),
    "ratio": ("real", 0.1234567891, 0.2),
}
OPTIONAL = ("symbol", "side", "lots", "price", "comment", "is_paper", "at")


@pytest.fixture(scope="module")
def made(remote: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[None]:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in ODD.items())
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as sql:
        sql.execute(
            f"""
            create table public.odd (id text primary key, {columns});
            create table public.defaults (
                id text primary key, n int, symbol text default 'EURUSD', side char(4) default 'BUY',
                lots numeric(10,2) default 0.50, price double precision, comment text default '"x"',
                is_paper boolean not null default true, at timestamptz default '2026-01-02T10:00:00Z'
            );
            create view public.defaults_view as select * from public.defaults;
            grant select, insert, update on public.odd, public.defaults, public.defaults_view to service_role;
            """.encode()
        )
        remote.stop()
        remote.start()  # Lite reads the tables when it starts
        yield
        sql.execute("drop view public.defaults_view; drop table public.odd, public.defaults")


@run_async
async def test_a_row_whose_reply_was_lost_is_the_bots_own_in_whatever_spelling_and_rounding(
    made: None, tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    sql.execute("truncate odd")
    row = {name: value for name, (_, value, _) in ODD.items()}
    transport = LosesTheFirstReply(clean_remote)
    settings = Settings(path=tmp_path / "bot.db", backoff_cap_s=0.2, poll_s=0.05)
    async with Outbox.open(settings, transport=transport) as outbox, outbox.flushing():
        await outbox.put("odd", row, id="x")
        report = await outbox.drain(timeout=200)
        dead = await outbox._store.read("select error_message, error_details from outbox where state = 'dead'")
    assert (report.pending, dead) == (0, [])
    assert [request.method for request in transport.requests[:3]] == ["POST", "POST", "GET"]
    assert sql.execute("select count(*) from odd").fetchone() == (1,)


@run_async
async def test_control_another_value_in_any_of_these_columns_is_a_conflict(
    made: None, tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    sql.execute("truncate odd")
    row = {name: value for name, (_, value, _) in ODD.items()}
    for number, name in enumerate([None, *ODD]):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = Settings(path=folder / "bot.db", backoff_cap_s=0.2, poll_s=0.05)
        transport = PostgrestTransport(f"{clean_remote.url}/rest/v1", clean_remote.secret_key)
        async with Outbox.open(settings, transport=transport) as outbox:
            await outbox.put("odd", row | ({} if name is None else {name: ODD[name][2]}), id="x")
            report = await outbox.drain(timeout=200)
            told = await outbox._store.read("select error_message from outbox where state = 'dead'")
            assert (report.delivered, report.dead) == ((1, 0) if name is None else (0, 1)), name
            assert name is None or told[0][0].endswith(f"it differs in {name}")


class Counts:
    """The real transport, and what went through it."""

    def __init__(self, remote: SupabaseLite) -> None:
        self._inner = PostgrestTransport(f"{remote.url}/rest/v1", remote.secret_key)
        self.posts = 0

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        self.posts += request.method == "POST"
        return await self._inner.send(request, deadline_s=deadline_s)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("table", ["defaults", "defaults_view"])
@run_async
async def test_rows_of_ever_other_columns_arrive_as_if_each_set_had_travelled_alone(
    made: None, table: str, tmp_path: Path, clean_remote: SupabaseLite, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "symbol": "X", "side": "SELL", "lots": Decimal("2.50"), "price": 1.0812, "comment": None, "is_paper": False,
        "at": "2026-02-03T10:00:00Z",
    }  # fmt: skip
    sets = [chosen for size in range(len(OPTIONAL) + 1) for chosen in itertools.combinations(OPTIONAL, size)]
    found, posts = [], []
    for shared in (True, False):
        sql.execute("truncate defaults")
        if not shared:
            monkeypatch.setattr(scheduler, "may_share", lambda _: False)
        transport = Counts(clean_remote)
        settings = Settings(path=tmp_path / f"{shared}.db", backoff_cap_s=0.2, poll_s=0.05)
        async with Outbox.open(settings, transport=transport) as outbox:
            for number, chosen in enumerate(sets):
                outbox.put_nowait(table, {"n": number} | {name: values[name] for name in chosen})
            assert (await outbox.drain(timeout=200)).delivered == len(sets)
        posts.append(transport.posts)
        names = ", ".join(("n", *OPTIONAL))
        found.append(sql.execute(f"select {names} from defaults order by n".encode()).fetchall())
    assert found[0] == found[1]
    assert len(found[0]) == len(sets) == 128
    if table == "defaults":
        assert posts[0] < 80 and posts[1] == 128  # when only a few lanes are left, each goes by itself


@run_async
async def test_an_update_that_came_too_early_does_not_hold_the_upsert_that_brings_its_row(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    session = {"session_id": "s", "start_time": "2026-01-02T09:00:00Z", "status": "RUNNING", "version": 1}
    transport = PostgrestTransport(f"{clean_remote.url}/rest/v1", clean_remote.secret_key)
    settings = Settings(path=tmp_path / "bot.db", backoff_cap_s=0.2, poll_s=0.05)
    async with Outbox.open(settings, transport=transport) as outbox, outbox.flushing():
        await outbox.put("sessions", {"status": "STOPPED"}, operation="update", match={"session_id": "s"})
        await outbox.put("sessions", session, operation="upsert")
        report = await outbox.drain(timeout=200)
        assert (report.delivered, report.dead, report.pending) == (1, 1, 0)
        assert sql.execute("select status from sessions").fetchall() == [("RUNNING",)]
        await outbox.put("sessions", {"status": "STOPPED"}, operation="update", match={"session_id": "s"})
        assert (await outbox.drain(timeout=200)).delivered == 1  # control: it is there now
    assert sql.execute("select status from sessions").fetchall() == [("STOPPED",)]


@run_async
async def test_an_update_whose_reply_was_lost_and_that_matches_no_more_is_read_back(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    sql.execute("insert into sessions (session_id, start_time, status, version) values ('s', now(), 'RUNNING', 1)")

    class Moves(LosesTheFirstReply):
        """And the version has moved on by the time of the replay, as a trigger does it."""

        async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
            outcome = await super().send(request, deadline_s=deadline_s)
            if len(self.requests) == 1:
                sql.execute("update sessions set version = 7")
            return outcome

    transport = Moves(clean_remote)
    settings = Settings(path=tmp_path / "bot.db", backoff_cap_s=0.2, poll_s=0.05)
    async with Outbox.open(settings, transport=transport) as outbox, outbox.flushing():
        match = {"session_id": "s", "version": 1}
        await outbox.put("sessions", {"status": "STOPPED"}, operation="update", match=match)
        report = await outbox.drain(timeout=200)
        assert (report.delivered, report.dead, report.pending) == (1, 0, 0)
    assert [request.method for request in transport.requests] == ["PATCH", "PATCH", "GET"]
