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

from outbox import Outbox, Settings
from outbox.api import Transaction

FAST, SLOW = 12, 48  # hours
SESSION = "demo-session"
# The old strategy's state, in the bot's own table in the same file.
POSITION = (
    "create table if not exists demo_position"
    " (only integer primary key check (only = 1), bars integer, trades integer, side integer, entry real)"
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
    """Where the bot stands: bars seen, trades made, and the open trade."""

    bars: int = 0
    trades: int = 0
    side: int = 0
    entry: float = 0.0


async def main(path: Path, bars: list[Bar]) -> None:
    """Trade `bars` from where an earlier life of this bot left off, then send everything and end the session."""
    async with Outbox.open(Settings(path=path)) as outbox, outbox.flushing():
        position = await resume(outbox, bars[0].time)
        strategy = Crossover()
        for bar in bars[: position.bars]:
            strategy.side(bar.close)
        for bar in bars[position.bars :]:
            await on_bar(outbox, position, bar, strategy.side(bar.close))
        await outbox.put(
            "sessions",
            {"session_id": SESSION, "start_time": bars[0].time, "end_time": bars[-1].time, "status": "STOPPED",
             "total_trades": position.trades, "version": 2},
            operation="upsert",
        )  # fmt: skip
        await outbox.drain(timeout=60)


async def resume(outbox: Outbox, started: datetime) -> Position:
    """Return the committed position; the first life creates it, together with its session."""
    async with outbox.transaction() as tx:
        await tx.execute(POSITION)
        rows = await tx.execute("select bars, trades, side, entry from demo_position")
        if not rows:
            await tx.execute("insert into demo_position values (1, 0, 0, 0, 0)")
            await tx.put(
                "sessions",
                {
                    "session_id": SESSION,
                    "start_time": started,
                    "status": "RUNNING",
                    "symbols": ["EURUSD"],
                    "version": 1,
                },
                key=SESSION,
            )
    acknowledge("sessions", [SESSION])
    return Position(*rows[0]) if rows else Position()


async def on_bar(outbox: Outbox, position: Position, bar: Bar, side: int) -> None:
    """Record the bar as an event, trade if the averages have crossed, and commit both with the new position."""
    position.bars += 1
    traded = side not in (0, position.side)
    async with outbox.transaction() as tx:
        await tx.put(
            "events",
            {"session_id": SESSION, "timestamp": bar.time, "event_type": "BAR",
             "data": {"number": position.bars, "close": bar.close, "side": side}},
        )  # fmt: skip
        if traded:
            await trade(tx, position, bar, side)
        await tx.execute(
            "update demo_position set bars = ?, trades = ?, side = ?, entry = ?",
            (position.bars, position.trades, position.side, position.entry),
        )
    acknowledge("events", [position.bars])
    if traded:
        acknowledge("trades", [position.trades])


async def trade(tx: Transaction, position: Position, bar: Bar, side: int) -> None:
    """Close what is open and turn around."""
    pips = position.side * (bar.close - position.entry) * 10_000 if position.side else None
    position.trades += 1
    position.side, position.entry = side, bar.close
    await tx.put(
        "trades",
        {"session_id": SESSION, "trade_id": str(position.trades), "timestamp": bar.time, "symbol": "EURUSD",
         "direction": side, "action": "REVERSE", "volume": 0.1, "entry_price": bar.close, "pnl_pips": pips,
         "is_paper": True},
    )  # fmt: skip


def acknowledge(destination: str, numbers: Iterable[int | str]) -> None:
    """Tell whoever started the bot which business numbers the outbox has acknowledged."""
    for number in numbers:
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
