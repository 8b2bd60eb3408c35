"""Faults of the old module that its client and its trade logger had, each shown on a re-enactment and gone here.

Every test has one check. The old behaviour must fail it, which proves that it can fail; the new one must pass it.
The faults of sessions and of the local files have their tests beside `SessionManager` and `LocalStorage`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from outbox import Outbox, OutboxError, Settings, SupabaseClient, TradeLogger
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import ScriptedTransport, accepted
from tests.bot.old_module import LineDownError, OldClient, OldLogger, Remote, Row, work_off
from tests.support import run_async

SESSION = {"session_id": "s-1", "start_time": "2026-01-01T00:00:00Z"}
TRADE = {"id": "T-1", "symbol": "EURUSD", "session_id": "s-1"}


@dataclass
class Server:
    """A remote end in memory that keeps PostgREST's promise: one row per conflict value. `failures` as in `Remote`."""

    tables: dict[str, dict[str, Row]] = field(default_factory=dict)
    failures: deque[str] = field(default_factory=deque)

    def rows(self, table: str) -> list[Row]:
        return list(self.tables.get(table, {}).values())

    def __call__(self, request: Request) -> Reply | Failure:
        failure = self.failures.popleft() if self.failures else None
        if failure == "before":
            return Failure.UNREACHABLE
        self._store(request)
        return Failure.CUT if failure == "after" else accepted(request)

    def _store(self, request: Request) -> None:
        parts = urlsplit(request.path)
        table = self.tables.setdefault(parts.path, {})
        (key,) = parse_qs(parts.query)["on_conflict"]
        for row in json.loads(request.body):
            if "merge" in dict(request.headers)["prefer"]:
                table[row[key]] = table.get(row[key], {}) | row
            else:
                table.setdefault(row[key], row)


def opened(folder: Path, server: Server) -> Any:
    settings = Settings(path=folder / "bot.db", backoff_base_s=0.001, backoff_cap_s=0.01, poll_s=0.01)
    return Outbox.open(settings, transport=ScriptedTransport(otherwise=server))


def refuses_the_old(check: Callable[..., None], *observed: object) -> None:
    """Assert that `check` can fail, and fails on what the old module does."""
    with pytest.raises(AssertionError):
        check(*observed)


# ------------------------------------------------------------------------------------------------ 1


def nothing_is_missing(rows: Sequence[Row], wanted: int) -> None:
    assert sorted(row["number"] for row in rows) == list(range(wanted))


@run_async
async def test_1_more_than_a_thousand_writes_survive_an_outage(tmp_path: Path) -> None:
    wanted = 1100
    remote = Remote(failures=deque(["before"] * wanted))
    old = OldClient(remote)
    for number in range(wanted):
        await old.write("events", {"number": number})
    await old.retry_pending()
    refuses_the_old(nothing_is_missing, remote.rows("events"), wanted)

    server = Server(failures=deque(["before"] * 3))
    async with opened(tmp_path, server) as outbox:
        client = SupabaseClient(outbox)
        for future in [outbox.put_nowait("events", {"number": number}) for number in range(wanted)]:
            await future
        await client.retry_pending(timeout=200)
    nothing_is_missing(server.rows("events"), wanted)


@run_async
async def test_1_what_was_written_survives_the_end_of_the_process(tmp_path: Path) -> None:
    remote = Remote(failures=deque(["before"]))
    await OldClient(remote).write("events", {"number": 0})
    await OldClient(remote).retry_pending()  # the next process: its queue is a new one
    refuses_the_old(nothing_is_missing, remote.rows("events"), 1)

    # Its end by kill -9 is tests/proof/crash.
    server = Server()
    async with opened(tmp_path, server) as outbox:
        await SupabaseClient(outbox).execute("events", {"number": 0})
        assert server.tables == {}
    async with opened(tmp_path, server) as outbox:
        await SupabaseClient(outbox).retry_pending(timeout=200)
    nothing_is_missing(server.rows("events"), 1)


# ------------------------------------------------------------------------------------------------ 2


@run_async
async def test_2_without_a_client_the_write_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, remote = OldClient(None), Remote()
    await old.write("events", {"number": 0})
    old.remote = remote  # somebody has set URL and key
    await old.retry_pending()
    refuses_the_old(nothing_is_missing, remote.rows("events"), 1)

    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    async with Outbox.open(path=tmp_path / "bot.db") as outbox:
        client = SupabaseClient(outbox)
        assert not client.enabled
        await client.execute("events", {"number": 0})
    server = Server()
    async with opened(tmp_path, server) as outbox:
        await SupabaseClient(outbox).retry_pending(timeout=200)
    nothing_is_missing(server.rows("events"), 1)


# ------------------------------------------------------------------------------------------------ 3


def what_counts_as_sent_has_arrived(counted: int, rows: Sequence[Row]) -> None:
    assert counted == len(rows) == 1


@run_async
async def test_3_retry_pending_counts_what_it_has_sent(tmp_path: Path) -> None:
    remote = Remote(failures=deque(["before"]))
    old = OldClient(remote)
    await old.write("sessions", SESSION, "upsert")
    refuses_the_old(what_counts_as_sent_has_arrived, await old.retry_pending(), remote.rows("sessions"))

    server = Server(failures=deque(["before"]))
    async with opened(tmp_path, server) as outbox:
        client = SupabaseClient(outbox)
        await client.execute("sessions", SESSION, "upsert")
        what_counts_as_sent_has_arrived(await client.retry_pending(timeout=200), server.rows("sessions"))


# ------------------------------------------------------------------------------------------------ 4


def there_is_one(rows: Sequence[Row]) -> None:
    assert len(rows) == 1


@run_async
async def test_4_a_lost_reply_does_not_make_two_rows(tmp_path: Path) -> None:
    remote = Remote(failures=deque(["after"]))
    old = OldClient(remote)
    await old.log_trade(TRADE)
    await old.retry_pending()
    refuses_the_old(there_is_one, remote.rows("trades"))

    server = Server(failures=deque(["after"]))
    async with opened(tmp_path, server) as outbox:
        client = SupabaseClient(outbox)
        await client.log_trade(TRADE)
        await client.retry_pending(timeout=200)
        assert client.pending_count == 0
    there_is_one(server.rows("trades"))


# ------------------------------------------------------------------------------------------------ 5, 6


@run_async
async def test_5_a_pending_upsert_is_sent_as_an_upsert(tmp_path: Path) -> None:
    start, end = SESSION | {"status": "RUNNING"}, SESSION | {"status": "STOPPED"}
    remote = Remote()
    old = OldClient(remote)
    await old.write("sessions", start)
    await work_off(old, [{"table": "sessions", "data": end, "operation": "upsert"}])
    refuses_the_old(there_is_one, remote.rows("sessions"))

    server = Server(failures=deque(["before"]))
    async with opened(tmp_path, server) as outbox:
        client = SupabaseClient(outbox)
        await client.execute("sessions", start, "upsert")
        await client.execute("sessions", end, "upsert")
        await client.retry_pending(timeout=200)
    there_is_one(server.rows("sessions"))
    assert server.rows("sessions")[0]["status"] == "STOPPED"


@run_async
async def test_6_what_has_arrived_is_not_sent_again(tmp_path: Path) -> None:
    remote = Remote(failures=deque([None, "before", None]))
    pending: list[Row] = [{"table": "events", "data": {"number": number}} for number in range(3)]
    while pending:
        pending = await work_off(OldClient(remote), pending)
    refuses_the_old(nothing_is_missing, remote.rows("events"), 3)

    server = Server(failures=deque(["after", "before"]))
    transport = ScriptedTransport(otherwise=server)
    settings = Settings(
        path=tmp_path / "bot.db", backoff_base_s=0.001, backoff_cap_s=0.01, poll_s=0.01, requests_in_flight=1,
        batch_rows=1,
    )  # fmt: skip
    async with Outbox.open(settings, transport=transport) as outbox:
        client = SupabaseClient(outbox)
        for number in range(3):
            await client.execute("events", {"number": number})
        await client.retry_pending(timeout=200)
        sent = len(transport.requests)
        await client.retry_pending(timeout=200)
        assert len(transport.requests) == sent
    nothing_is_missing(server.rows("events"), 3)


# ------------------------------------------------------------------------------------------------ 11


def the_data_are_an_object(rows: Sequence[Row]) -> None:
    assert [row["data"] for row in rows] == [{"close": 1.25}]


@run_async
async def test_11_an_events_data_are_an_object_and_no_text(tmp_path: Path) -> None:
    remote = Remote()
    await OldClient(remote).log_event("BAR", {"close": 1.25})
    refuses_the_old(the_data_are_an_object, remote.rows("events"))

    server = Server()
    async with opened(tmp_path, server) as outbox:
        client = SupabaseClient(outbox)
        await client.log_event("BAR", {"close": 1.25})
        await client.retry_pending(timeout=200)
    the_data_are_an_object(server.rows("events"))


# ------------------------------------------------------------------------------------------------ 12


def ids_are_full_uuids_and_differ(rows: Sequence[Row]) -> None:
    ids = [row["trade_id"] for row in rows]
    assert len(set(ids)) == len(ids) == 2
    assert [len(each) for each in ids] == [36, 36]
    assert all(UUID(each) for each in ids)


@run_async
async def test_12_trade_ids_do_not_collide(tmp_path: Path) -> None:
    remote = Remote()
    # Two ids that agree in their first eight digits: even chances once 77,000 trades were made.
    draws = iter(["0123abcd" + "0" * 24, "0123abcd" + "f" * 24])
    old = OldLogger(OldClient(remote), "s-1", draw=lambda: next(draws))
    for _ in range(2):
        await old.log_trade(1.0, 1.0)
    refuses_the_old(ids_are_full_uuids_and_differ, remote.rows("trades"))

    server = Server()
    async with opened(tmp_path, server) as outbox:
        logger = TradeLogger(outbox, "s-1")
        for _ in range(2):
            await logger.log_trade("EURUSD", 1, 1, "CLOSE", 0.1, 1.0, 1.1, 1.0, 1.0, 0)
        await SupabaseClient(outbox).retry_pending(timeout=200)
    ids_are_full_uuids_and_differ(server.rows("trades"))


# ------------------------------------------------------------------------------------------------ 13


def a_failure_is_not_no_trades(found: object) -> None:
    assert isinstance(found, Exception), f"a read that failed gave {found!r}"


@run_async
async def test_13_a_read_that_fails_is_an_error(tmp_path: Path) -> None:
    old = OldClient(Remote({"trades": [dict(TRADE)]}, deque(["before"])))
    refuses_the_old(a_failure_is_not_no_trades, await old.read("trades"))

    async with opened(tmp_path, Server(failures=deque(["before"]))) as outbox:
        try:
            found: object = await SupabaseClient(outbox).get_trades()
        except OutboxError as error:
            found = error
    a_failure_is_not_no_trades(found)


# ------------------------------------------------------------------------------------------------ 14


def the_dict_is_untouched(trade: Row) -> None:
    assert trade == {"id": "T-1", "symbol": "EURUSD", "is_paper": True}


@run_async
async def test_14_the_callers_dict_is_not_changed(tmp_path: Path) -> None:
    trade: Row = {"id": "T-1", "symbol": "EURUSD", "is_paper": True}
    await OldLogger(OldClient(Remote()), "s-1").log_real_trade(trade)
    refuses_the_old(the_dict_is_untouched, trade)

    trade = {"id": "T-1", "symbol": "EURUSD", "is_paper": True}
    async with opened(tmp_path, Server()) as outbox:
        await TradeLogger(outbox, "s-1").log_real_trade(trade)
    the_dict_is_untouched(trade)


# ------------------------------------------------------------------------------------------------ 15


def gains_are_as_given(rows: Sequence[Row], given: Sequence[object]) -> None:
    assert [(row["pnl"], row["pnl_pips"]) for row in rows] == [(pnl, pnl) for pnl in given]


@pytest.mark.parametrize("pnl", [None, 0.004], ids=["unknown", "below a cent"])
@run_async
async def test_15_an_unknown_gain_is_stored_and_a_small_one_stays_visible(tmp_path: Path, pnl: float | None) -> None:
    remote = Remote()
    try:
        await OldLogger(OldClient(remote), "s-1").log_trade(pnl, pnl)
    except TypeError:
        assert remote.rows("trades") == []  # the trade itself is gone
    refuses_the_old(gains_are_as_given, remote.rows("trades"), [pnl])

    server = Server()
    async with opened(tmp_path, server) as outbox:
        await TradeLogger(outbox, "s-1").log_trade("EURUSD", 1, 1, "CLOSE", 0.1, 1.0, 1.1, pnl, pnl, 0)
        await SupabaseClient(outbox).retry_pending(timeout=200)
    gains_are_as_given(server.rows("trades"), [pnl])


# ------------------------------------------------------------------------------------------------ the controls


@run_async
async def test_the_old_module_works_as_long_as_nothing_goes_wrong() -> None:
    """Else the checks above would fail on it for the wrong reason."""
    remote = Remote()
    old = OldClient(remote)
    for number in range(3):
        assert await old.write("events", {"number": number})
    assert await old.write("sessions", SESSION, "upsert")
    assert await old.retry_pending() == 0
    await OldLogger(old, "s-1").log_trade(1.25, 1.5)

    nothing_is_missing(await old.read("events"), 3)
    there_is_one(remote.rows("sessions"))
    assert (remote.rows("trades")[0]["pnl"], remote.rows("trades")[0]["pnl_pips"]) == (1.25, 1.5)


def test_the_old_remote_fails_as_it_is_told() -> None:
    remote = Remote(failures=deque(["before", "after"]))
    for _ in range(2):
        with pytest.raises(LineDownError):
            remote.insert("events", {"number": 0})
    there_is_one(remote.rows("events"))
