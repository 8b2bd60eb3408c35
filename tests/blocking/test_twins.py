"""The classes for threads have the names, arguments and results of those for asyncio, and do what they do."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import outbox
from outbox import (
    BlockingOutbox,
    Outbox,
    OutboxClosed,
    SessionEndReason,
    Settings,
    Transaction,
    UsageError,
    blocking as twins,
)
from outbox.testing import FakeRemote
from tests.store.tools import rows

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (Outbox, twins.BlockingOutbox),
    (Transaction, twins.BlockingTransaction),
    (outbox.TradeLogger, twins.TradeLogger),
    (outbox.SessionManager, twins.SessionManager),
    (outbox.SupabaseClient, twins.SupabaseClient),
    (outbox.LocalStorage, twins.LocalStorage),
]
# What only an event loop can use: `put` from a thread is what `put_threadsafe` is for, and the flusher runs.
FOR_LOOPS = {"put_threadsafe", "run_flusher", "flushing"}
# The open one opens and closes by itself.
OF_ITS_OWN = {"deadline", "outbox"}


def names(kind: type[Any]) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("async_class", "twin"), PAIRS)
def test_a_twin_has_the_names_of_its_class(async_class: type[Any], twin: type[Any]) -> None:
    assert names(async_class) - names(twin) - FOR_LOOPS == set()
    assert names(twin) - names(async_class) - OF_ITS_OWN - {"session_id"} == set()


def methods() -> Iterator[Any]:
    for async_class, twin in PAIRS:
        for name in sorted(names(async_class) & names(twin) - {"open"}):
            if callable(getattr(async_class, name)):
                yield pytest.param(getattr(async_class, name), getattr(twin, name), id=f"{async_class.__name__}.{name}")


@pytest.mark.parametrize(("method", "twin"), list(methods()))
def test_a_twin_takes_the_arguments_of_its_method_and_gives_no_coroutine(method: Any, twin: Any) -> None:
    assert inspect.signature(twin).parameters == inspect.signature(method).parameters
    assert twin.__doc__
    assert not inspect.iscoroutinefunction(twin)
    assert not inspect.isasyncgenfunction(twin)


@pytest.mark.parametrize(("async_class", "twin"), PAIRS[2:])
def test_a_twin_is_made_with_the_arguments_of_its_class(async_class: type[Any], twin: type[Any]) -> None:
    theirs, ours = (list(inspect.signature(kind).parameters.values()) for kind in (async_class, twin))
    assert [ours[0].name, *ours[1:]] == [theirs[0].name, *theirs[1:]]


def test_it_opens_with_the_arguments_of_outbox_open() -> None:
    theirs = inspect.signature(Outbox.open).parameters
    for way in (BlockingOutbox, BlockingOutbox.open):
        ours = dict(inspect.signature(way).parameters)
        assert ours.pop("call_timeout_s").default == 30.0
        assert ours == dict(theirs)


# ---------------------------------------------------------------------------------------------- what they do


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def opened(tmp_path: Path, remote: FakeRemote) -> Iterator[BlockingOutbox]:
    with BlockingOutbox(Settings(_env_file=None, path=tmp_path / "bot.db"), transport=remote) as outbox:
        yield outbox


def stored(outbox: BlockingOutbox, destination: str) -> list[Any]:
    found = rows(outbox.path, f"select payload from outbox where destination = '{destination}' order by seq")
    return [json.loads(str(payload)) for (payload,) in found]


def test_a_session_and_its_trades_from_start_to_end(opened: BlockingOutbox) -> None:
    sessions = twins.SessionManager(opened)
    trades = twins.TradeLogger(opened, sessions.start_session(1000.0, ["EURUSD"]), round_pnl=1)
    trades.log_trade("EURUSD", 1, 2, "OPEN", 0.1, 1.1, None, 1.26, None, 0)
    with opened.transaction() as tx:
        trades.log_real_trade({"symbol": "EURUSD", "pnl": 3}, tx=tx)
        sessions.update_heartbeat(1003.0, tx=tx)
    with pytest.raises(ZeroDivisionError), opened.transaction() as tx:
        trades.log_real_trade({"symbol": "GBPUSD", "pnl": 3}, tx=tx)
        sessions.end_session({}, tx=tx)
        raise ZeroDivisionError
    assert sessions.check_day_boundary() is False
    assert (sessions.symbols, sessions.current_balance, sessions.is_recovered) == (["EURUSD"], 1003.0, False)
    sessions.end_session({"total_trades": 2}, SessionEndReason.MANUAL)
    assert [(trade["pnl"], trade["session_id"]) for trade in stored(opened, "trades")] == [
        (1.3, trades.session_id),
        (3, trades.session_id),
    ]
    assert stored(opened, "sessions")[-1]["end_reason"] == "MANUAL"


def test_writes_and_reads_through_the_client(opened: BlockingOutbox, remote: FakeRemote) -> None:
    client = twins.SupabaseClient(opened)
    client.log_event("STARTED", {"n": 1}, "s-1")
    client.log_trade({"symbol": "EURUSD", "pnl": 1})
    client.execute("orders", {"id": "7", "state": "open"}, "upsert")
    assert client.enabled
    client.retry_pending(timeout=30)
    assert client.pending_count == 0
    assert remote.rows("orders") == [{"id": "7", "state": "open"}]
    assert [row["event_type"] for row in client.query("events", source="local")] == ["STARTED"]
    assert [row["symbol"] for row in client.rows("trades", source="local")] == ["EURUSD"]
    for row in client.rows("trades", source="local"):
        assert row["pnl"] == 1
        break  # what is left of an iterator is closed
    with pytest.raises(outbox.InvalidQuery):
        next(iter(client.rows("trades", order="no column!")))


def test_bars_and_pending_rows(opened: BlockingOutbox) -> None:
    storage = twins.LocalStorage(opened)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    bars = [{"time": start + timedelta(hours=hour), "close": hour} for hour in range(5)]
    assert storage.cache_bars("EURUSD", bars, "H1") == 5
    assert storage.prune_bars(keep_last=3) == 2
    assert [bar["close"] for bar in storage.load_cached_bars("EURUSD", "H1", last=2)] == [3, 4]
    storage.save_pending([{"table": "trades", "data": {"n": 1}}])
    with pytest.raises(UsageError):
        storage.clear_pending()


def test_each_takes_its_own_kind_of_outbox_and_an_open_one(opened: BlockingOutbox, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a BlockingOutbox"):
        outbox.SupabaseClient(opened)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes the BlockingOutbox, not a SimpleNamespace"):
        twins.SupabaseClient(SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(OutboxClosed):
        twins.SupabaseClient(BlockingOutbox(path=tmp_path / "other.db"))
