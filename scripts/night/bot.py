"""The bot of the bad night: it records each fill that its broker reports, and goes on where a kill left it.

The broker is whoever writes to its standard input: a JSON object a line, `{"number": 17, "time": ..., ...}`. A fill is
a trade, every tenth one an event as well, and what a broker says in passing is an event too. The fill's number is
committed with them, so that one that comes again after a kill is known. Each number is told on stdout after the outbox
has returned and not before; a fill that finds the disk full is held, told as `held`, and tried again.

usage: bot.py, in a folder with an .env
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from outbox import DiskFull, Outbox, SessionManager, Transaction

POSITION = "create table if not exists night_position (only integer primary key check (only = 1), fills integer)"
HOLD_S = 0.2


class Bot:
    """What is written down about a fill, all of it in one commit."""

    def __init__(self, outbox: Outbox, fills: int, session_id: str) -> None:
        """fills: the number of the last one that is recorded."""
        self._outbox = outbox
        self._fills = fills
        self._session_id = session_id

    async def on_fill(self, fill: dict[str, Any]) -> None:
        """Record the fill, be it on the tenth try."""
        number = fill["number"]
        held = False
        while number > self._fills:
            try:
                await self._record(fill)
            except DiskFull:
                if not held:
                    tell("held", number)
                held = True
                await asyncio.sleep(HOLD_S)
            else:
                self._fills = number
        tell("trades", number)

    async def _record(self, fill: dict[str, Any]) -> None:
        number = fill["number"]
        async with self._outbox.transaction(limit_s=60) as tx:
            await tx.put("trades", self._trade(fill))
            if number % 10 == 0:
                await self._event(tx, "TEN_FILLS", fill["time"], {"number": number})
            for notice in fill.get("notices", ()):
                await self._event(tx, "BROKER_NOTICE", notice["time"], {"text": notice["text"]})
            await tx.execute("update night_position set fills = ?", (number,))

    def _trade(self, fill: dict[str, Any]) -> dict[str, Any]:
        return {
            "session_id": self._session_id, "trade_id": str(fill["number"]), "timestamp": fill["time"],
            "symbol": "EURUSD", "direction": 1, "action": "CLOSE", "volume": fill["volume"],
            "exit_price": fill["price"], "pnl_pips": fill["pips"], "ticket": fill["ticket"],
        }  # fmt: skip

    async def _event(self, tx: Transaction, kind: str, time: str, data: dict[str, Any]) -> None:
        row = {"session_id": self._session_id, "event_type": kind, "timestamp": time, "data": data}
        await tx.put("events", row)


async def main() -> None:
    """Record fills until the broker hangs up, then end the session and send everything."""
    async with Outbox.open() as outbox, outbox.flushing():
        session = SessionManager(outbox)
        bot = Bot(outbox, await fills_so_far(outbox), await session.start_session(10_000, ["EURUSD"]))
        while line := await asyncio.to_thread(sys.stdin.readline):
            await bot.on_fill(json.loads(line))
        await session.end_session({"balance": 10_000})
        await outbox.drain(timeout=200)


async def fills_so_far(outbox: Outbox) -> int:
    """Return the number of the last fill that is recorded; the first life begins at 0."""
    async with outbox.transaction(limit_s=60) as tx:
        await tx.execute(POSITION)
        await tx.execute("insert or ignore into night_position values (1, 0)")
        ((fills,),) = await tx.execute("select fills from night_position")
    return int(fills)


def tell(what: str, number: int) -> None:
    """Tell whoever started the bot what the outbox has acknowledged."""
    print(json.dumps([what, str(number)]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
