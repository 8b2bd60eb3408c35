"""A nautilus_trader actor that stores every fill of the node: add it to the trading node's or the backtest's actors.

The engine calls it on its own thread: a put holds that for the few milliseconds that the disk takes. An error goes to
the engine, which ends the run loudly; the next start reconciles from the cache.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nautilus_trader.common.actor import Actor
from nautilus_trader.model.events import OrderFilled
from nautilus_trader.model.objects import Price, Quantity

from outbox import BlockingOutbox
from outbox.blocking import TradeLogger

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OutboxActor(Actor):
    outbox: BlockingOutbox

    def on_start(self) -> None:
        """Open the outbox, store what the cache knows already, then follow all orders."""
        self.outbox = BlockingOutbox.open(path="bot.db")
        self.outbox.register_type(Price, str)
        self.outbox.register_type(Quantity, str)
        for order in self.cache.orders():
            for event in order.events:
                self.on_order_event(event)
        self.msgbus.subscribe(topic="events.order.*", handler=self.on_order_event)

    def on_order_event(self, event: Any) -> None:
        """Store a fill. The venue's own number of it makes the id: told again, it stays one row."""
        if not isinstance(event, OrderFilled):
            return
        row = {
            "trade_id": str(event.trade_id),
            "symbol": str(event.instrument_id),
            "action": "buy" if event.is_buy else "sell",
            "direction": 1 if event.is_buy else -1,
            "volume": event.last_qty,
            "entry_price": event.last_px,
            "timestamp": EPOCH + timedelta(microseconds=event.ts_event // 1000),
        }
        trades = TradeLogger(self.outbox, session_id=str(event.strategy_id))
        trades.log_real_trade(row, id=f"{event.instrument_id}/{event.trade_id}")

    def on_stop(self) -> None:
        """Close the file; what is pending stays pending."""
        self.msgbus.unsubscribe(topic="events.order.*", handler=self.on_order_event)
        self.outbox.close()
