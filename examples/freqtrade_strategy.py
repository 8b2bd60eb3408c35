"""A freqtrade strategy whose fills reach Supabase: each is on disk when `order_filled` returns, each arrives once.

freqtrade catches what a callback raises, logs it and goes on trading. So a fill that could not be stored is noted here:
until a reconciliation has stored it, no new trade is entered. Put your own signals into the populate methods.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from freqtrade.persistence import Order, Trade
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from outbox import BlockingOutbox, OutboxError
from outbox.blocking import TradeLogger

logger = logging.getLogger(__name__)


class OutboxStrategy(IStrategy):
    INTERFACE_VERSION = 3
    timeframe = "5m"
    minimal_roi = {"0": 0.05}  # noqa: RUF012 - as freqtrade declares it
    stoploss = -0.05

    outbox: BlockingOutbox | None = None
    reconciled = True

    def bot_start(self, **kwargs: Any) -> None:
        """Open the outbox in a run that trades, not in a backtest. It is closed when the process ends."""
        if self.config["runmode"].value in ("live", "dry_run"):
            self.outbox = BlockingOutbox.open(path="bot.db")
            self.reconciled = False
            self.reconcile()

    def bot_loop_start(self, current_time: datetime, **kwargs: Any) -> None:
        """Try again what could not be stored."""
        if not self.reconciled:
            self.reconcile()

    def order_filled(self, pair: str, trade: Trade, order: Order, current_time: datetime, **kwargs: Any) -> None:
        """Store the fill before freqtrade goes on."""
        if self.outbox is not None:
            self.reconciled = False  # until it is on disk
            self.store(trade, order)
            self.reconciled = True

    def confirm_trade_entry(self, *args: Any, **kwargs: Any) -> bool:
        """Enter nothing new while a fill is missing in the outbox."""
        return self.reconciled

    def reconcile(self) -> None:
        """Put every fill that freqtrade's own database has: what is stored already stays one row."""
        try:
            for trade in Trade.get_trades_proxy():
                for order in trade.orders:
                    if order.status == "closed" and order.safe_filled > 0:
                        self.store(trade, order)
            self.reconciled = True
        except OutboxError:
            logger.exception("fills could not be stored; no new trade is entered until they are")

    def store(self, trade: Trade, order: Order) -> None:
        """Put one fill: its id is the exchange's own name for it, its row is made of what freqtrade has stored."""
        assert self.outbox is not None
        row = {
            "trade_id": order.order_id,
            "symbol": trade.pair,
            "action": order.ft_order_side,
            "direction": 1 if order.ft_order_side == "buy" else -1,
            "volume": order.safe_filled,
            "entry_price": order.safe_price,
            "timestamp": order.order_filled_utc,
        }
        trades = TradeLogger(self.outbox, session_id="freqtrade")
        trades.log_real_trade(row, id=f"{trade.exchange}/{trade.pair}/{order.order_id}")

    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe
