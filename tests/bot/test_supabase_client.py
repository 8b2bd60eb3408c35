"""`SupabaseClient`: the requests it makes, the rows that arrive, and what a read says when it cannot read."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import UUID

import pandas  # type: ignore[import-untyped]
import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr
from supabase_lite import SupabaseLite

from outbox import (
    ConfigError,
    InsideTransaction,
    InvalidEntry,
    InvalidQuery,
    Outbox,
    OutboxClosed,
    OutboxError,
    RemoteError,
    Settings,
    SupabaseClient,
    Undecidable,
    Unreachable,
    UsageError,
)
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.reads.query import PAGE_ROWS
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.store.tools import until
from tests.support import run_async

Sql = psycopg.Connection[Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)  # where ManualClock stands
TRADE = {"id": "T-1", "session_id": "s-1", "symbol": "EURUSD", "direction": 1, "pnl": 12.5}


def opened(folder: Path, remote: ScriptedTransport | None = None) -> Any:
    """An outbox that talks to `remote` and whose clock stands still."""
    return Outbox.open(Settings(path=folder / "bot.db"), clock=ManualClock(), transport=remote or ScriptedTransport())


def connected(folder: Path, remote: SupabaseLite) -> Any:
    """An outbox that talks to a real server."""
    key = SecretStr(remote.secret_key)
    return Outbox.open(Settings(path=folder / "bot.db", supabase_url=remote.url, supabase_key=key))


def rows(answer: object) -> Reply:
    return Reply(200, {"content-type": "application/json"}, json.dumps(answer).encode())


async def put_row(outbox: Outbox, number: int = 0) -> dict[str, Any]:
    """Return the payload of the outbox's entry `number`."""
    found = await outbox.read_local("select payload from outbox order by seq limit 1 offset ?", (number,))
    row = json.loads(found[0][0])
    assert isinstance(row, dict)
    return row


def parameters(request: Request) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(request.path).query, keep_blank_values=True))


@dataclass
class Table:
    """A script that answers reads as PostgREST does from `rows`, which stand in the order that is asked for.

    It knows limit, offset, a cap of its own, columns as texts, and a page that begins behind a row.
    """

    rows: list[dict[str, Any]]
    cap: int = PAGE_ROWS
    between: Callable[[], object] = lambda: None

    def __call__(self, request: Request) -> Reply:
        asked = parameters(request)
        start = int(asked.get("offset", 0)) + self._behind(request)
        texts = re.findall(r"(outbox_text_\d+):(\w+)::text", asked["select"])
        page = [
            row | {alias: None if row.get(column) is None else str(row[column]) for alias, column in texts}
            for row in self.rows[start : start + min(int(asked["limit"]), self.cap)]
        ]
        self.between()
        return rows(page)

    def _behind(self, request: Request) -> int:
        """Return how many rows stand up to the one that the page begins behind; 0: it is the first page."""
        found = re.search(r"id(?:=|\.)[gl]t\.\"?(\w+)", unquote(request.path))
        return 0 if found is None else 1 + [str(row["id"]) for row in self.rows].index(found[1])


# ------------------------------------------------------------------------------------------------ what is written


@run_async
async def test_a_trade_arrives_in_every_column_that_it_fills(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    full = TRADE | {
        "intensity": 3, "action": "OPEN", "volume": 0.1, "entry_price": 1.0812, "exit_price": 1.0824, "pnl_pips": 12.25,
        "commission": 0.7, "hmm_state": 2, "is_paper": True, "comment": "é \N{MONEY BAG}", "timestamp": NOW,
    }  # fmt: skip
    before = dict(full)
    async with connected(tmp_path, clean_remote) as outbox:
        receipt = await SupabaseClient(outbox).log_trade(full)
        await outbox.drain()

    (row,) = sql.cursor(row_factory=dict_row).execute("select * from trades").fetchall()
    assert full == before
    assert row.pop("created_at") is not None
    assert row.pop("source") is None  # a request's header fills it, and Lite shows headers to functions only
    assert row == {
        "id": UUID(receipt.id),
        "trade_id": "T-1",
        "extra": None,
        **{k: v for k, v in full.items() if k != "id"},
    }


@pytest.mark.parametrize("missing", [None, pandas.NaT, pandas.NA], ids=repr)
@run_async
async def test_what_pandas_has_for_nothing_is_nothing_in_a_trade(tmp_path: Path, missing: Any) -> None:
    trade = {"timestamp": missing, "symbol": missing, "session_id": "s", "pnl": missing}
    async with opened(tmp_path) as outbox:
        await SupabaseClient(outbox).log_trade(trade)
        ((payload,),) = await outbox.read_local("select payload from outbox")
    row = json.loads(payload)
    assert (row["timestamp"], row["symbol"], row["pnl"]) == ("2026-01-01T00:00:00+00:00", "", None)


@run_async
async def test_what_a_trade_does_not_say_takes_the_old_defaults_and_the_outboxs_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        receipt = await SupabaseClient(outbox).log_trade({})

        assert await put_row(outbox) == {
            "session_id": "", "trade_id": receipt.id, "symbol": "", "direction": 0, "intensity": 0, "action": "",
            "volume": 0, "entry_price": 0, "exit_price": 0, "pnl": 0, "pnl_pips": 0, "commission": 0, "hmm_state": 0,
            "is_paper": False, "comment": "", "timestamp": NOW.isoformat(),
        }  # fmt: skip
        assert UUID(receipt.id).version == 7


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param({"pnl": None}, {"pnl": None}, id="none is null"),
        pytest.param({"pnl": math.nan}, {"pnl": "NaN"}, id="nan is nan"),
        pytest.param({"pnl": Decimal("0.0012")}, {"pnl": 0.0012}, id="a decimal keeps its digits"),
        pytest.param({"timestamp": None}, {"timestamp": NOW.isoformat()}, id="no time is now"),
        pytest.param({"session_id": None, "symbol": None}, {"session_id": "", "symbol": ""}, id="never null"),
        pytest.param({"id": 42}, {"trade_id": "42"}, id="a number as id"),
        pytest.param({"trade_id": "T-7"}, {"trade_id": "T-7"}, id="the column's own name"),
        pytest.param({"id": "T-1", "trade_id": "T-7"}, {"trade_id": "T-1"}, id="id is the first choice"),
    ],
)
@run_async
async def test_a_trades_values_pass_unharmed(
    tmp_path: Path, given: Mapping[str, object], stored: Mapping[str, object]
) -> None:
    async with opened(tmp_path) as outbox:
        await SupabaseClient(outbox).log_trade(given)
        row = await put_row(outbox)

    assert {name: row[name] for name in stored} == stored


@run_async
async def test_a_key_without_a_column_is_left_out_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="outbox.records")
    async with opened(tmp_path) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE | {"broker_ticket": 991})
        await client.log_trade(TRADE | {"broker_ticket": 992})

        assert "broker_ticket" not in await put_row(outbox)
    assert [vars(record)["keys"] for record in caplog.records] == [["broker_ticket"]]
    assert "991" not in caplog.text


@run_async
async def test_an_events_data_are_an_object_in_jsonb(tmp_path: Path, clean_remote: SupabaseLite, sql: Sql) -> None:
    async with connected(tmp_path, clean_remote) as outbox:
        client = SupabaseClient(outbox)
        await client.log_event("BAR", {"close": 1.25, "why": "x"}, "s-1")
        await client.log_event("EMPTY")
        await outbox.drain()

    query = "select event_type, session_id, jsonb_typeof(data), data ->> 'close' from events order by event_type"
    assert sql.execute(query).fetchall() == [("BAR", "s-1", "object", "1.25"), ("EMPTY", "", "object", None)]


@pytest.mark.parametrize("data", ['{"a": 1}', [1], 5, True, b"{}"], ids=["text", "list", "number", "bool", "bytes"])
@run_async
async def test_what_is_no_json_object_is_refused_as_an_events_data(tmp_path: Path, data: Any) -> None:
    async with opened(tmp_path) as outbox:
        client = SupabaseClient(outbox)
        with pytest.raises(InvalidEntry, match="nothing was written") as caught:
            await client.log_event("X", data)

        assert caught.value.field == "events.data"
        assert client.pending_count == 0
        await client.log_event("X", {"a": 1})  # the control
        assert client.pending_count == 1


@run_async
async def test_execute_inserts_updates_and_upserts(tmp_path: Path, clean_remote: SupabaseLite, sql: Sql) -> None:
    start = {"session_id": "s-1", "start_time": NOW, "status": "RUNNING"}
    event = {"id": str(UUID(int=7)), "timestamp": NOW, "event_type": "A"}
    async with connected(tmp_path, clean_remote) as outbox:
        client = SupabaseClient(outbox)
        await client.execute("sessions", start)
        await outbox.drain()
        await client.execute("sessions", start | {"status": "STOPPED"}, "upsert")
        await client.execute("sessions", {"end_reason": "NORMAL"}, "update", match={"session_id": "s-1"})
        # No conflict columns are declared for events: the primary key decides, as it did in the old module.
        await client.execute("events", event, operation="upsert")
        await client.execute("events", event | {"event_type": "B"}, operation="upsert")
        await outbox.drain()

    assert sql.execute("select session_id, status, end_reason from sessions").fetchall() == [
        ("s-1", "STOPPED", "NORMAL")
    ]
    assert sql.execute("select event_type from events").fetchall() == [("B",)]


@pytest.mark.parametrize("operation", ["delete", "INSERT", ""])
@run_async
async def test_an_operation_that_is_none_is_refused(tmp_path: Path, operation: Any) -> None:
    async with opened(tmp_path) as outbox:
        with pytest.raises(InvalidEntry):
            await SupabaseClient(outbox).execute("trades", {"symbol": "EURUSD"}, operation)


@run_async
async def test_writes_of_a_transaction_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        client = SupabaseClient(outbox)
        with pytest.raises(ZeroDivisionError):
            async with outbox.transaction() as tx:
                await client.log_trade(TRADE, tx=tx)
                await client.log_event("X", tx=tx)
                await client.execute("trades", {"symbol": "EURUSD"}, tx=tx)
                raise ZeroDivisionError
        assert client.pending_count == 0

        async with outbox.transaction() as tx:
            await client.log_trade(TRADE, tx=tx)
            await client.log_event("X", tx=tx)
            with pytest.raises(InsideTransaction):
                await client.log_event("Y")
        assert client.pending_count == 2


def test_the_constructor_says_at_once_that_it_needs_the_outbox() -> None:
    with pytest.raises(UsageError, match="takes the Outbox, not a str"):
        SupabaseClient("https://example.supabase.co")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ what is pending


@run_async
async def test_the_pending_count_is_exact_whoever_changes_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        client = SupabaseClient(outbox)
        counted = [client.pending_count]
        await client.log_trade(TRADE)
        counted.append(client.pending_count)
        async with outbox.transaction() as tx:
            await client.log_event("A", tx=tx)
            counted.append(client.pending_count)  # not committed yet
        counted.append(client.pending_count)
        shell = sqlite_shell(tmp_path / "bot.db")
        shell("insert into outbox (destination, payload) values ('events', '{\"event_type\":\"B\"}')")
        counted.append(client.pending_count)
        await outbox.drain()
        counted.append(client.pending_count)

    assert counted == [0, 1, 1, 2, 3, 0]


def sqlite_shell(path: Path) -> Callable[[str], None]:
    """A sqlite3 shell beside the bot."""
    import sqlite3

    def run(statement: str) -> None:
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(statement)
        connection.close()

    return run


@run_async
async def test_the_pending_count_of_a_closed_outbox_is_an_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        client = SupabaseClient(outbox)
        assert client.pending_count == 0

    with pytest.raises(OutboxClosed):
        _ = client.pending_count


@run_async
async def test_asking_for_the_pending_count_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE)
        assert client.pending_count == 1

    assert not [name for name in os.listdir(tmp_path) if name.endswith(("-wal", "-shm"))]  # noqa: PTH208 - async


@run_async
async def test_retry_pending_sends_what_is_pending_and_counts_it(
    tmp_path: Path, clean_remote: SupabaseLite, sql: Sql
) -> None:
    async with connected(tmp_path, clean_remote) as outbox:
        client = SupabaseClient(outbox)
        assert await client.retry_pending(timeout=200) == 0
        await client.log_trade(TRADE)
        await client.execute("sessions", {"session_id": "s-1", "start_time": NOW}, "upsert")

        assert await client.retry_pending(timeout=200) == 2
        assert client.pending_count == 0

    assert sql.execute("select (select count(*) from trades), (select count(*) from sessions)").fetchone() == (1, 1)


@run_async
async def test_retry_pending_without_a_server_ends_in_time_and_loses_nothing(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=Failure.UNREACHABLE)
    clock = ManualClock()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=remote, clock=clock) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE)

        retrying = asyncio.create_task(client.retry_pending(timeout=5))
        await until(lambda: bool(remote.requests))
        clock.advance(4.9)
        await outbox.stats()
        assert not retrying.done()
        clock.advance(0.1)
        assert await retrying == 0
        assert client.pending_count == 1


@run_async
async def test_without_url_and_key_writing_works_and_reading_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    async with Outbox.open(path=tmp_path / "bot.db") as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE)

        assert (client.enabled, client.url, client.pending_count) == (False, None, 1)
        assert await client.retry_pending(timeout=200) == 0
        with pytest.raises(ConfigError, match="SUPABASE_URL"):
            await client.get_trades()


@run_async
async def test_the_client_shows_its_url_and_never_its_key(tmp_path: Path, clean_remote: SupabaseLite) -> None:
    async with connected(tmp_path, clean_remote) as outbox:
        client = SupabaseClient(outbox)

        assert (client.enabled, client.url) == (True, clean_remote.url)
        assert clean_remote.secret_key not in repr(vars(client))


# ------------------------------------------------------------------------------------------------ what is asked

READS = [
    pytest.param({}, "trades?select=*&limit=10", id="plain"),
    pytest.param({"select": "symbol, pnl"}, "trades?select=symbol,pnl&limit=10", id="columns"),
    pytest.param({"select": "why:data->>reason"}, "trades?select=why:data-%3E%3Ereason&limit=10", id="json step"),
    pytest.param({"filters": {"symbol": "EURUSD"}}, "trades?select=*&symbol=eq.EURUSD&limit=10", id="equal"),
    pytest.param({"filters": {"pnl": ("gt", 1.5)}}, "trades?select=*&pnl=gt.1.5&limit=10", id="gt"),
    pytest.param({"filters": {"pnl": ("gte", -1)}}, "trades?select=*&pnl=gte.-1&limit=10", id="gte"),
    pytest.param({"filters": {"pnl": ("lt", Decimal("0.10"))}}, "trades?select=*&pnl=lt.0.10&limit=10", id="lt"),
    pytest.param(
        {"filters": {"timestamp": ("lte", NOW)}},
        "trades?select=*&timestamp=lte.2026-01-01T00%3A00%3A00%2B00%3A00&limit=10",
        id="a time",
    ),
    pytest.param({"filters": {"is_paper": ("eq", True)}}, "trades?select=*&is_paper=eq.true&limit=10", id="bool"),
    pytest.param({"filters": {"comment": None}}, "trades?select=*&comment=is.null&limit=10", id="null"),
    pytest.param({"filters": {"pnl": math.nan}}, "trades?select=*&pnl=eq.NaN&limit=10", id="nan"),
    pytest.param({"filters": {"comment": "null"}}, "trades?select=*&comment=eq.null&limit=10", id="the text null"),
    pytest.param({"order": "-timestamp"}, "trades?select=*&order=timestamp.desc&limit=10", id="descending"),
    pytest.param({"order": "pnl"}, "trades?select=*&order=pnl.asc&limit=10", id="ascending"),
    pytest.param({"order": ("-pnl", "id")}, "trades?select=*&order=pnl.desc,id.asc&limit=10", id="by two columns"),
    pytest.param({"offset": 30}, "trades?select=*&limit=10&offset=30", id="offset"),
    pytest.param({"filters": {"pnl": ("neq", 1)}}, "trades?select=*&pnl=neq.1&limit=10", id="not equal"),
    pytest.param({"filters": {"pnl": ("neq", None)}}, "trades?select=*&pnl=not.is.null&limit=10", id="not null"),
    pytest.param({"filters": {"is_paper": ("is", True)}}, "trades?select=*&is_paper=is.true&limit=10", id="is"),
    pytest.param(
        {"filters": {"symbol": ("ilike", "eur%")}}, "trades?select=*&symbol=ilike.eur%25&limit=10", id="ilike"
    ),
    pytest.param(
        {"filters": {"symbol": ("in", ['a"b', "c,d", 5])}},
        "trades?select=*&symbol=in.(%22a%5C%22b%22%2C%22c%2Cd%22%2C5)&limit=10",
        id="one of a list",
    ),
    pytest.param({"filters": {"pnl": ("in", [])}}, "trades?select=*&pnl=in.()&limit=10", id="one of nothing"),
    pytest.param(
        {"filters": {"pnl": [("gte", 1), ("lt", 5)]}}, "trades?select=*&pnl=gte.1&pnl=lt.5&limit=10", id="between"
    ),
    pytest.param(
        {"filters": {"a": 1, "b": "x"}}, "trades?select=*&a=eq.1&b=eq.x&limit=10", id="all filters hold together"
    ),
]


@pytest.mark.parametrize(("arguments", "path"), READS)
@run_async
async def test_a_read_becomes_one_request_with_this_path(tmp_path: Path, arguments: Any, path: str) -> None:
    remote = ScriptedTransport(otherwise=rows([]))
    async with opened(tmp_path, remote) as outbox:
        assert await SupabaseClient(outbox).query("trades", **arguments, limit=10) == []

    assert [(request.method, request.path, request.body) for request in remote.requests] == [("GET", path, b"")]


HOSTILE = [
    "a&limit=0",
    "x,symbol.eq.y)",
    "a b+c%20d",
    "#cut",
    "é\N{MONEY BAG}",
    "eq.1",
    "(select 1)",
    "\n\r\t",
    "'\"\\",
]


@pytest.mark.parametrize("value", HOSTILE)
@run_async
async def test_a_filters_value_cannot_change_the_query(tmp_path: Path, value: str) -> None:
    remote = ScriptedTransport(otherwise=rows([]))
    async with opened(tmp_path, remote) as outbox:
        await SupabaseClient(outbox).query("trades", filters={"symbol": value}, limit=10)

    (request,) = remote.requests
    assert request.path.isascii()
    assert urlsplit(request.path).query.count("&") == 2
    assert unquote(dict(p.split("=", 1) for p in urlsplit(request.path).query.split("&"))["symbol"]) == f"eq.{value}"


REFUSED = [
    pytest.param({"table": "trades?x"}, "table", id="table"),
    pytest.param({"table": "../auth"}, "table", id="way out"),
    pytest.param({"select": ""}, "select", id="no column"),
    pytest.param({"select": "sym bol"}, "select", id="a space in a name"),
    pytest.param({"select": "*&limit=1"}, "select", id="a parameter in select"),
    pytest.param({"select": "id,orders(*)"}, "select", id="another table in select"),
    pytest.param({"order": "pnl.desc&select=x"}, "order", id="a parameter in order"),
    pytest.param({"order": "--pnl"}, "order", id="two signs"),
    pytest.param({"order": ""}, "order", id="no order"),
    pytest.param({"filters": {"a&b": 1}}, "filters", id="a parameter as a column"),
    pytest.param({"filters": {"select": "x"}}, "filters.select", id="a parameter's name"),
    pytest.param({"filters": {"or": "(a.eq.1)"}}, "filters.or", id="or"),
    pytest.param({"filters": {"pnl": ("match", "x")}}, "filters.pnl", id="unknown operator"),
    pytest.param({"filters": {"symbol": ("like", "EUR*")}}, "filters.symbol", id="a star that PostgREST would read"),
    pytest.param({"filters": {"symbol": ("in", "EURUSD")}}, "filters.symbol", id="a text as a list"),
    pytest.param({"filters": {"symbol": ("in", ["EURUSD", None])}}, "filters.symbol", id="null in a list"),
    pytest.param({"filters": {"symbol": ("is", "null")}}, "filters.symbol", id="is a text"),
    pytest.param({"filters": {"symbol": ("like", None)}}, "filters.symbol", id="like null"),
    pytest.param({"offset": -1}, "offset", id="before the first"),
    pytest.param({"source": "cache"}, "source", id="no source"),
    pytest.param({"filters": {"pnl": ("gt",)}}, "filters.pnl", id="operator alone"),
    pytest.param({"filters": {"pnl": ("gt", 1, 2)}}, "filters.pnl", id="two values"),
    pytest.param({"filters": {"pnl": (1, 2)}}, "filters.pnl", id="no operator"),
    pytest.param({"filters": {"pnl": ("gt", None)}}, "filters.pnl", id="greater than null"),
    pytest.param({"filters": {"pnl": [1, 2]}}, "filters.pnl", id="a list"),
    pytest.param({"filters": {"pnl": object()}}, "filters.pnl", id="no json"),
    pytest.param({"filters": {"timestamp": datetime(2026, 1, 1)}}, "filters.timestamp", id="a time without a zone"),  # noqa: DTZ001, RUF100
    pytest.param({"limit": 0}, "limit", id="nothing"),
    pytest.param({"limit": -1}, "limit", id="less than nothing"),
    pytest.param({"limit": True}, "limit", id="a bool"),
]


@pytest.mark.parametrize(("arguments", "field"), REFUSED)
@run_async
async def test_a_question_that_cannot_be_asked_is_a_typed_error(tmp_path: Path, arguments: Any, field: str) -> None:
    remote = ScriptedTransport(otherwise=rows([]))
    async with opened(tmp_path, remote) as outbox:
        with pytest.raises(InvalidQuery, match="nothing was sent") as caught:
            await SupabaseClient(outbox).query(**{"table": "trades", **arguments})

    assert caught.value.field == field
    assert remote.requests == []


@pytest.mark.parametrize("path", ["", "/trades", "../auth/v1/admin", "trades#x", "trades?a b", "trades?é", "a/b"])
@run_async
async def test_fetch_takes_only_what_is_below_the_rest_endpoint(tmp_path: Path, path: str) -> None:
    remote = ScriptedTransport(otherwise=rows([]))
    async with opened(tmp_path, remote) as outbox:
        with pytest.raises(InvalidQuery):
            await outbox.fetch(path)
        assert remote.requests == []
        assert await outbox.fetch("rpc/number_of_trades?since=eq.1") == []  # the control


# ------------------------------------------------------------------------------------------------ what is answered

PORTAL = Reply(200, {"content-type": "text/html"}, b"<html>Please log in</html>")


@pytest.mark.parametrize(
    ("answer", "kind", "status", "code"),
    [
        pytest.param(Failure.UNREACHABLE, Unreachable, None, None, id="no server"),
        pytest.param(Failure.TIMEOUT, Unreachable, None, None, id="no answer in time"),
        pytest.param(Failure.CUT, Unreachable, None, None, id="cut"),
        pytest.param(refused(401, "PGRST301"), RemoteError, 401, "PGRST301", id="wrong key"),
        pytest.param(refused(404, "PGRST205"), RemoteError, 404, "PGRST205", id="no such table"),
        pytest.param(Reply(503, {}, b""), RemoteError, 503, None, id="overloaded"),
        pytest.param(PORTAL, RemoteError, 200, None, id="captive portal"),
        pytest.param(rows({"message": "hello"}), RemoteError, 200, None, id="no list"),
        pytest.param(Reply(200, {}, b'[{"a":1},'), RemoteError, 200, None, id="half an answer"),
    ],
)
@run_async
async def test_a_failed_read_is_a_typed_error_and_never_no_rows(
    tmp_path: Path, answer: Any, kind: type[RemoteError], status: int | None, code: str | None
) -> None:
    remote = ScriptedTransport()
    async with opened(tmp_path, remote) as outbox:
        client = SupabaseClient(outbox)
        remote.answers.append(answer)
        with pytest.raises(OutboxError, match="nothing was read") as caught:
            await client.get_trades()
        remote.answers.append(rows([]))
        assert await client.get_trades() == []  # the control: no trades is no error

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)


@run_async
async def test_a_real_refusal_carries_the_servers_words(tmp_path: Path, clean_remote: SupabaseLite) -> None:
    async with connected(tmp_path, clean_remote) as outbox:
        with pytest.raises(RemoteError, match="no_such_column") as caught:
            await SupabaseClient(outbox).query("trades", filters={"no_such_column": 1}, limit=1)

        assert caught.value.status is not None
        assert clean_remote.secret_key not in str(caught.value)


@run_async
async def test_trades_are_found_by_each_filter_newest_first(tmp_path: Path, clean_remote: SupabaseLite) -> None:
    trades = [
        {"id": f"T-{n}", "session_id": session, "is_paper": paper, "symbol": symbol, "timestamp": NOW.replace(day=n)}
        for n, session, paper, symbol in [
            (1, "s-1", False, "EURUSD"), (2, "s-1", True, "EURUSD"), (3, "s-2", False, "A&B,(C)+é"),
        ]
    ]  # fmt: skip
    async with connected(tmp_path, clean_remote) as outbox:
        client = SupabaseClient(outbox)
        for trade in trades:
            await client.log_trade(trade)
        await outbox.drain()

        async def found(**arguments: Any) -> list[str]:
            return [row["trade_id"] for row in await client.get_trades(**arguments)]

        assert await found() == ["T-3", "T-2", "T-1"]
        assert await found(session_id="s-1") == ["T-2", "T-1"]
        assert await found(is_paper=False) == ["T-3", "T-1"]
        assert await found(symbol="A&B,(C)+é") == ["T-3"]
        assert await found(session_id="s-1", is_paper=True, symbol="EURUSD") == ["T-2"]
        assert await found(limit=1) == ["T-3"]
        assert await client.query("trades", "trade_id", {"timestamp": ("gt", NOW)}, "timestamp", 5) == [
            {"trade_id": "T-2"},
            {"trade_id": "T-3"},
        ]


# ------------------------------------------------------------------------------------------------ more than a page


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": f"{n:05}", "order_id": f"{n:05}", "pnl": n % 7} for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
@pytest.mark.parametrize("cap", [1000, 300, 1])
@run_async
async def test_all_rows_are_read_whatever_the_servers_cap(tmp_path: Path, count: int, cap: int) -> None:
    count = min(count, 4 * cap + 3)
    table = Table(numbered(count), cap)
    async with opened(tmp_path, ScriptedTransport(otherwise=table)) as outbox:
        assert await SupabaseClient(outbox).query("trades") == table.rows


@pytest.mark.parametrize("limit", [1, 299, 300, 301, 999, 1000, 1001, 1700, 5000])
@pytest.mark.parametrize("cap", [1000, 300])
@run_async
async def test_a_limit_is_met_exactly(tmp_path: Path, limit: int, cap: int) -> None:
    table = Table(numbered(1500), cap)
    async with opened(tmp_path, ScriptedTransport(otherwise=table)) as outbox:
        assert await SupabaseClient(outbox).query("trades", limit=limit) == table.rows[:limit]


@pytest.mark.parametrize("limit", [None, 900])
@run_async
async def test_a_cap_that_is_lowered_under_a_living_client_cuts_no_read(tmp_path: Path, limit: int | None) -> None:
    table = Table(numbered(950), 1000)
    async with opened(tmp_path, ScriptedTransport(otherwise=table)) as outbox:
        client = SupabaseClient(outbox)
        assert await client.query("trades", limit=limit) == table.rows[:limit]
        table.cap = 100
        assert await client.query("trades", limit=limit) == table.rows[:limit]
        assert await client.query("trades", order=COUNTED, limit=limit) == table.rows[:limit]
        assert [row async for row in client.rows("trades")] == table.rows
        assert len(await outbox.fetch("trades?select=*&limit=900")) == 100, "the control: the cap cuts"


@run_async
async def test_pages_have_an_order_that_the_key_column_settles(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=Table(numbered(1001)))
    async with opened(tmp_path, remote) as outbox:
        outbox.register("orders", key="order_id")
        client = SupabaseClient(outbox)
        await client.query("trades", order="-pnl")
        await client.query("trades", order="-id")
        await client.query("orders")

    asked = [unquote(request.path).partition("&")[2] for request in remote.requests]
    assert asked == [
        "order=pnl.desc,id.asc&limit=1000",
        "order=pnl.desc,id.asc&limit=1000&pnl=lte.5&or=(pnl.lt.5,and(pnl.eq.5,id.gt.00999))",
        "order=pnl.desc,id.asc&limit=1000&pnl=lte.6&or=(pnl.lt.6,and(pnl.eq.6,id.gt.01000))",
        "order=id.desc&limit=1000",
        "order=id.desc&limit=1000&id=lt.00999",
        "order=id.desc&limit=1000&id=lt.01000",
        "order=order_id.asc&limit=1000",
        "order=order_id.asc&limit=1000&order_id=gt.00999",
        "order=order_id.asc&limit=1000&order_id=gt.01000",
    ]


# A path into JSON gives no place to begin behind.
COUNTED = "data->>reason"


@pytest.mark.parametrize("order", [None, COUNTED])
@run_async
async def test_a_row_that_moves_to_the_next_page_is_read_once(tmp_path: Path, order: str | None) -> None:
    table = Table(numbered(1500))
    expected = list(table.rows)

    def insert_in_front() -> None:
        table.rows = [{"id": "new", "pnl": 0}, *expected]

    table.between = insert_in_front
    async with opened(tmp_path, ScriptedTransport(otherwise=table)) as outbox:
        assert await SupabaseClient(outbox).query("trades", order=order) == expected


@pytest.mark.parametrize(
    ("order", "lost"),
    [
        pytest.param(None, [], id="pages behind a row"),
        pytest.param(COUNTED, ["01000"], id="the control: pages that count"),
    ],
)
@run_async
async def test_a_row_that_is_deleted_meanwhile_pushes_none_off(
    tmp_path: Path, order: str | None, lost: list[str]
) -> None:
    table = Table(numbered(1500))
    expected = list(table.rows)

    def delete_the_first() -> None:
        table.rows = expected[1:]

    table.between = delete_the_first
    async with opened(tmp_path, ScriptedTransport(otherwise=table)) as outbox:
        found = await SupabaseClient(outbox).query("trades", order=order)
    assert [row["id"] for row in expected if row not in found] == lost


@run_async
async def test_an_offset_counts_once_however_many_pages_follow(tmp_path: Path) -> None:
    table = Table(numbered(2500))
    remote = ScriptedTransport(otherwise=table)
    async with opened(tmp_path, remote) as outbox:
        assert await SupabaseClient(outbox).query("trades", offset=10, limit=2100) == table.rows[10:2110]
    asked = [(parameters(request)["limit"], parameters(request).get("offset")) for request in remote.requests]
    assert asked == [("1000", "10"), ("1000", None), ("100", None)]


@pytest.mark.parametrize("order", [None, COUNTED])
@run_async
async def test_rows_whose_key_is_another_column_under_its_name_are_all_kept(tmp_path: Path, order: str | None) -> None:
    table = Table(numbered(1200))
    for row in table.rows:
        row["symbol"] = "same"
    renamed = [{"id": "same"}] * 1200

    def select(request: Request) -> Reply:
        texts = [
            {name: row[name] for name in row if name.startswith("outbox")} for row in json.loads(table(request).body)
        ]
        return rows([row | more for row, more in zip(renamed, texts, strict=False)])

    async with opened(tmp_path, ScriptedTransport(otherwise=select)) as outbox:
        assert await SupabaseClient(outbox).query("trades", select="id:symbol", order=order) == renamed


@run_async
async def test_rows_that_its_key_does_not_tell_apart_are_an_error_instead_of_a_lost_row(tmp_path: Path) -> None:
    table = Table([{"id": "same"}] * 1200)
    async with opened(tmp_path, ScriptedTransport(otherwise=table)) as outbox:
        with pytest.raises(Undecidable, match=r"Outbox\.register tells which columns are unique"):
            await SupabaseClient(outbox).query("trades")


@run_async
async def test_an_error_on_a_later_page_is_an_error_of_the_read(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=Table(numbered(3000)))
    remote.answers.extend([remote.otherwise, Failure.CUT])
    async with opened(tmp_path, remote) as outbox:
        with pytest.raises(Unreachable):
            await SupabaseClient(outbox).query("trades")


@run_async
async def test_thousands_of_real_rows_are_read_each_once(tmp_path: Path, clean_remote: SupabaseLite, sql: Sql) -> None:
    sql.execute(
        "insert into trades (session_id, timestamp, symbol, comment)"
        " select 's-1', '2026-01-01', 'EURUSD', repeat('x', 400) || n from generate_series(1, 2345) as n"
    )
    async with connected(tmp_path, clean_remote) as outbox:
        client = SupabaseClient(outbox)
        # All have one timestamp: without the key in the order, pages could overlap.
        found = await client.get_trades(limit=None)
        some = await client.get_trades(limit=1001)

    assert len({row["id"] for row in found}) == len(found) == 2345
    assert some == found[:1001]
