"""The demo's bot: real hourly bars, a moving-average crossover, every write through the outbox.

It is an ordinary asyncio program with two lines added: open the outbox, run the flusher. What it decides about a bar
and where it stands are committed together, so that it may be killed anywhere and goes on with the next bar. Each
acknowledged write is reported on stdout as a JSON line, after the outbox has returned and not before.

usage: demo_bot.py OUTBOX_FILE BARS_CSV
"""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from outbox import Outbox, SessionManager, Settings, SupabaseClient, TradeLogger, Transaction

FAST, SLOW = 12, 48  # hours
# Where the strategy stands: the bot's own table in the same file.
POSITION = (
    "create table if not exists demo_position"
    " (only integer primary key check (only = 1), bars integer, trades integer, side integer, entry real, done integer)"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One hour of EURUSD."""

    time: datetime
    close: float


@dataclass(slots=True)
class Crossover:
    """Long while the fast average is above the slow one, else short."""

    closes: deque[float] = field(default_factory=lambda: deque(maxlen=SLOW))

    def side(self, close: float) -> int:
        """Take one close and return 1 (long), -1 (short) or 0 (too early to say)."""
        self.closes.append(close)
        if len(self.closes) < SLOW:
            return 0
        recent = list(self.closes)[-FAST:]
        return 1 if sum(recent) / FAST > sum(self.closes) / SLOW else -1


@dataclass(slots=True)
class Position:
    """Where the bot stands: bars seen, trades made, the open trade, and whether its session has ended."""

    bars: int = 0
    trades: int = 0
    side: int = 0
    entry: float = 0.0
    done: int = 0


class Bot:
    """The strategy, its position, and the classes that record what it does."""

    def __init__(self, outbox: Outbox, position: Position, session_id: str) -> None:
        self._outbox = outbox
        self._position = position
        self._session_id = session_id
        self._strategy = Crossover()
        self._trades = TradeLogger(outbox, session_id)
        self._events = SupabaseClient(outbox)

    def remember(self, bars: Iterable[Bar]) -> None:
        """Fill the averages with the bars that an earlier life has traded."""
        for bar in bars:
            self._strategy.side(bar.close)

    async def on_bar(self, bar: Bar) -> None:
        """Record the bar, trade if the averages have crossed, and commit all of it with the new position."""
        position, side = self._position, self._strategy.side(bar.close)
        position.bars += 1
        traded = side not in (0, position.side)
        async with self._outbox.transaction() as tx:
            facts = {"number": position.bars, "time": bar.time, "close": bar.close, "side": side}
            await self._events.log_event("BAR", facts, self._session_id, tx=tx)
            if traded:
                await self._turn(tx, bar, side)
            await tx.execute(
                "update demo_position set bars = ?, trades = ?, side = ?, entry = ?",
                (position.bars, position.trades, position.side, position.entry),
            )
        acknowledge("events", position.bars)
        if traded:
            acknowledge("trades", position.trades)

    async def _turn(self, tx: Transaction, bar: Bar, side: int) -> None:
        """Close what is open and go the other way."""
        position = self._position
        pips = position.side * (bar.close - position.entry) * 10_000 if position.side else None
        position.trades += 1
        trade = {
            "id": str(position.trades),
            "symbol": "EURUSD",
            "direction": side,
            "action": "REVERSE",
            "volume": 0.1,
            "entry_price": position.entry,
            "exit_price": bar.close,
            "pnl_pips": pips,
            "timestamp": bar.time,
        }
        position.side, position.entry = side, bar.close
        await self._trades.log_real_trade(trade, tx=tx)


async def main(path: Path, bars: list[Bar]) -> None:
    """Trade `bars` from where an earlier life of this bot left off, then end the session and send everything."""
    async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing():
        position = await resume(outbox)
        if not position.done:
            await trade(outbox, position, bars)
        await outbox.drain(timeout=60)


async def trade(outbox: Outbox, position: Position, bars: list[Bar]) -> None:
    """Run one session over what is left of `bars`."""
    session = SessionManager(outbox)
    session_id = await session.start_session(10_000, ["EURUSD"])  # or goes on with the one that a kill left
    acknowledge("sessions", session_id)
    bot = Bot(outbox, position, session_id)
    bot.remember(bars[: position.bars])
    for bar in bars[position.bars :]:
        await bot.on_bar(bar)
    async with outbox.transaction() as tx:
        await session.end_session({"balance": 10_000, "total_trades": position.trades}, tx=tx)
        await tx.execute("update demo_position set done = 1")


async def resume(outbox: Outbox) -> Position:
    """Return the committed position; the first life creates it."""
    async with outbox.transaction() as tx:
        await tx.execute(POSITION)
        await tx.execute("insert or ignore into demo_position values (1, 0, 0, 0, 0, 0)")
        rows = await tx.execute("select bars, trades, side, entry, done from demo_position")
    return Position(*rows[0])


def acknowledge(destination: str, number: int | str) -> None:
    """Tell whoever started the bot which business number the outbox has acknowledged."""
    print(json.dumps([destination, str(number)]), flush=True)


def read_bars(file: Path) -> list[Bar]:
    """Return the bars, oldest first; the file's times are the hours' beginnings in UTC."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            Bar(datetime.fromisoformat(row["time_utc"]).replace(tzinfo=UTC) + timedelta(hours=1), float(row["close"]))
            for row in csv.DictReader(lines)
        ]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), read_bars(Path(sys.argv[2]))))
