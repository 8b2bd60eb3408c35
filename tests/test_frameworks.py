"""docs/frameworks.md and examples/ do what they say, with stand-ins of the frameworks: their hooks and arguments."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from outbox import BlockingOutbox, Outbox, StoreError
from tests.doc_blocks import blocks_of
from tests.store.tools import rows, shell
from tests.support import run_async

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "frameworks.md"
MOMENT = datetime(2026, 1, 2, 10, tzinfo=UTC)
TRADES = "select id, payload ->> 'trade_id', payload ->> 'symbol' from outbox where destination = 'trades' order by seq"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def block(heading: str) -> dict[str, Any]:
    """Run the block below a heading of the page, and return its names."""
    start = PAGE.read_text(encoding="utf-8").splitlines().index(f"## {heading}") + 1
    (first, *_) = [block for block in blocks_of(PAGE) if block.line > start]
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(first.compiled(), namespace)
    return namespace


def example(name: str, monkeypatch: pytest.MonkeyPatch, **modules: Any) -> Any:
    """Import a file of examples/ where `modules`, their dots written as __, can be imported."""
    for dotted, members in modules.items():
        made = types.ModuleType(dotted.replace("__", "."))
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, made.__name__, made)
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def events(path: str = "bot.db") -> list[object]:
    return [name for (name,) in rows(Path(path), "select payload ->> 'event_type' from outbox order by seq")]


def test_every_framework_has_its_lines() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = (
        "Reconcile at start", "asyncio", "Threads", "freqtrade", "nautilus_trader", "ib_async", "python-telegram-bot",
        "FastAPI", "Jupyter", "cron",
    )  # fmt: skip
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(names)
    assert len(blocks_of(PAGE)) == len(names)


def test_reconciling_twice_leaves_one_row_of_each_fill() -> None:
    page = block("Reconcile at start")
    fills = [{"number": n, "symbol": "EURUSD", "pnl": 1.5, "time": MOMENT} for n in (1, 2)]
    with BlockingOutbox(path="bot.db") as outbox:
        page["store_fill"](outbox, fills[0])
        page["reconcile"](outbox, fills)
        page["reconcile"](outbox, [{**fill, "time": datetime.now(UTC)} for fill in fills])  # the first one stands
    assert [number for _, number, _ in rows(Path("bot.db"), TRADES)] == [1, 2]


def test_asyncio_and_threads_and_a_notebook_and_cron(capsys: pytest.CaptureFixture[str]) -> None:
    async def stopped_at_once() -> None:
        stopped = asyncio.Event()
        stopped.set()
        await block("asyncio")["main"](stopped)

    asyncio.run(stopped_at_once())
    block("Threads")
    assert sorted(map(str, events())) == ["FILL"] * 4 + ["ORDER"] * 4 + ["STARTED"]
    page = block("Jupyter")
    page["notebook"].open()
    assert page["notebook"].open().stats().pending == 1
    page["notebook"].close()
    block("cron")
    block("cron")
    assert events("cron.db") == ["DAILY"] * 2
    assert capsys.readouterr().out.endswith("0 delivered, 2 pending\n")


# ---------------------------------------------------------------------------------------------- freqtrade


class Trades(list[Any]):
    """Stands in for freqtrade's own database."""

    def get_trades_proxy(self) -> list[Any]:
        return self


def order(number: str) -> Any:
    return SimpleNamespace(
        order_id=number, status="closed", safe_filled=0.5, safe_price=1.25, ft_order_side="buy", order_filled_utc=MOMENT
    )


@pytest.fixture
def freqtrade(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trades, str], Any]:
    def made(trades: Trades, mode: str) -> Any:
        module = example(
            "freqtrade_strategy",
            monkeypatch,
            freqtrade={},
            freqtrade__persistence={"Trade": trades, "Order": object},
            freqtrade__strategy={"IStrategy": type("IStrategy", (), {})},
            pandas={"DataFrame": object},
        )
        strategy = module.OutboxStrategy()
        strategy.config = {"runmode": SimpleNamespace(value=mode)}
        strategy.bot_start()
        return strategy

    return made


def test_a_freqtrade_strategy_stores_each_fill_once_over_restarts(freqtrade: Callable[[Trades, str], Any]) -> None:
    trade = SimpleNamespace(pair="BTC/USDT", exchange="binance", orders=[order("a")])
    for restart in range(2):
        strategy = freqtrade(Trades([trade]), "dry_run")  # what was filled before the last kill is told again
        if not restart:
            trade.orders.append(order("b"))
            strategy.order_filled("BTC/USDT", trade, trade.orders[-1], MOMENT, extra=1)
        assert strategy.confirm_trade_entry("BTC/USDT")
        strategy.outbox.close()
    found = rows(Path("bot.db"), TRADES)
    assert [(number, symbol) for _, number, symbol in found] == [("a", "BTC/USDT"), ("b", "BTC/USDT")]
    assert all(UUID(str(own)) for own, _, _ in found)


def test_a_freqtrade_strategy_enters_nothing_while_a_fill_is_missing(freqtrade: Callable[[Trades, str], Any]) -> None:
    trade = SimpleNamespace(pair="BTC/USDT", exchange="binance", orders=[])
    trades = Trades([trade])
    strategy = freqtrade(trades, "live")
    with shell("bot.db") as file:
        file.execute("create trigger refuse before insert on outbox begin select raise(abort, 'no'); end")
        trade.orders.append(order("a"))
        with pytest.raises(StoreError):  # freqtrade logs it and goes on
            strategy.order_filled("BTC/USDT", trade, trade.orders[0], MOMENT)
        strategy.bot_loop_start(MOMENT)
        assert not strategy.confirm_trade_entry("BTC/USDT")
        file.execute("drop trigger refuse")
    strategy.bot_loop_start(MOMENT)
    assert strategy.confirm_trade_entry("BTC/USDT")
    strategy.outbox.close()
    assert len(rows(Path("bot.db"), TRADES)) == 1


def test_a_freqtrade_backtest_opens_nothing(freqtrade: Callable[[Trades, str], Any]) -> None:
    strategy = freqtrade(Trades(), "backtest")
    strategy.order_filled("BTC/USDT", SimpleNamespace(), order("a"), MOMENT)
    assert strategy.outbox is None
    assert list(Path().iterdir()) == []


# ---------------------------------------------------------------------------------------------- nautilus_trader


class Actor:
    """Stands in for nautilus_trader's: a cache of orders, and a bus that calls in the engine's thread."""

    def __init__(self, cached: list[Any]) -> None:
        self.cache = SimpleNamespace(orders=lambda: cached)
        self.handlers: list[Any] = []
        self.msgbus = SimpleNamespace(
            subscribe=lambda topic, handler: self.handlers.append(handler),
            unsubscribe=lambda topic, handler: self.handlers.remove(handler),
        )


class OrderFilled:
    def __init__(self, number: str) -> None:
        self.strategy_id, self.instrument_id, self.trade_id = "S-1", "EUR/USD.SIM", number
        self.is_buy, self.last_qty, self.last_px, self.ts_event = True, Quantity("100"), Price("1.10"), 10**18


class Price:
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class Quantity(Price):
    pass


def test_a_nautilus_actor_stores_what_the_cache_knows_and_what_the_engine_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = example(
        "nautilus_actor",
        monkeypatch,
        nautilus_trader={},
        nautilus_trader__common={},
        nautilus_trader__common__actor={"Actor": Actor},
        nautilus_trader__model={},
        nautilus_trader__model__events={"OrderFilled": OrderFilled},
        nautilus_trader__model__objects={"Price": Price, "Quantity": Quantity},
    )
    cached = [SimpleNamespace(events=[object(), OrderFilled("1")])]
    for _ in range(2):
        actor = module.OutboxActor(cached)
        actor.on_start()
        (handler,) = actor.handlers
        handler(OrderFilled("2"))
        handler(object())
        actor.on_stop()
    found = rows(Path("bot.db"), "select payload ->> 'trade_id', payload ->> 'entry_price' from outbox order by seq")
    assert found == [("1", "1.10"), ("2", "1.10")]


# ---------------------------------------------------------------------------------------------- on a loop


@run_async
async def test_ib_async_events_are_stored_once() -> None:
    execution = SimpleNamespace(execId="0001.01", shares=10.0, price=1.5, time=MOMENT)
    fill = SimpleNamespace(execution=execution, contract=SimpleNamespace(symbol="AAPL"))

    class Event:
        def __iadd__(self, handler: Any) -> Any:
            self.handler = handler
            return self

    for _ in range(2):
        ib = SimpleNamespace(fills=lambda: [fill], execDetailsEvent=Event())
        async with Outbox.open(path="bot.db") as outbox:
            block("ib_async")["follow"](ib, outbox)
            ib.execDetailsEvent.handler(None, fill)
    assert len(rows(Path("bot.db"), TRADES)) == 1


@run_async
async def test_a_telegram_handler_answers_once_its_row_is_on_disk() -> None:
    page, said = block("python-telegram-bot"), list[object]()

    async def reply(text: str) -> None:
        said.append((text, events()))

    application = SimpleNamespace(bot_data={})
    await page["post_init"](application)
    update = SimpleNamespace(message=SimpleNamespace(date=MOMENT, text="/buy 1", reply_text=reply))
    await page["buy"](update, application)
    await page["post_shutdown"](application)
    assert said == [("noted", ["BUY"])]
    await application.bot_data["flusher"]


@run_async
async def test_a_fastapi_lifespan_opens_and_closes_and_an_alert_told_twice_is_one() -> None:
    page, app = block("FastAPI"), SimpleNamespace(state=SimpleNamespace())
    async with page["lifespan"](app):
        alert, name = {"time": MOMENT.isoformat()}, "5d0c2b0e-2f65-4b7e-8d5c-111111111111"
        first = await page["webhook"](name, alert, app)
        again = await page["webhook"](name, {"time": datetime.now(UTC).isoformat()}, app)
    assert (first["again"], again["again"]) == (False, True)
    assert events() == ["ALERT"]
