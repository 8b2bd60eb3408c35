"""A file as a bot leaves it after a bad night: everything that docs/forensics.md asks about has happened in it.

python -m tests.forensics_file FILE makes one to play with.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from outbox import Outbox, SessionManager, Settings, Stats
from outbox.clock import SystemClock
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.store import maintenance
from outbox.testing import ScriptedTransport, accepted, refused
from tests.store.tools import shell

_HOUR_S = 3600.0


def hours(now_s: float) -> tuple[float, float, float]:
    """Return how many seconds ago yesterday's, the night's and the last puts were; the last two on today's UTC day."""
    night = min(3 * _HOUR_S, 0.9 * (now_s % (24 * _HOUR_S)))
    return night + 25 * _HOUR_S, night, night / 9


class ShiftedClock(SystemClock):
    """The machine's clock, some seconds ago."""

    def __init__(self, ago_s: float) -> None:
        self.ago_s = ago_s

    def now_ms(self) -> int:
        return super().now_ms() - int(self.ago_s * 1000)


class Night:
    """A server that refuses what it cannot read, knows no parents of fills, and has not granted `events` any more."""

    def __init__(self) -> None:
        self.events_granted = True

    def answer(self, request: Request) -> Reply:
        table, body = request.path.partition("?")[0], request.body.decode()
        if "0,1" in body:
            return refused(400, "22P02", 'invalid input syntax for type double precision: "0,1"')
        if table == "orders" and '"lots":-1' in body:
            return refused(400, "23514", 'new row for relation "orders" violates check constraint "lots_positive"')
        if table == "fills":
            return refused(409, "23503", 'insert or update on table "fills" violates foreign key constraint')
        if table == "events" and not self.events_granted:
            return refused(403, "42501", "permission denied for table events")
        return accepted(request)


async def make(path: Path) -> None:
    """Make the file. Its times are relative to now; its ids are fixed where the page names them."""
    yesterday_s, night_s, late_s = hours(time.time())
    night = Night()
    async with _bot(path, yesterday_s, night) as outbox:
        await _yesterday(outbox)
        await _until(outbox, lambda stats: stats.pending == 0)
    async with _bot(path, night_s, night) as outbox:
        await _the_night(outbox)
        await _until(outbox, lambda stats: stats.dead == 4 and stats.pending == stats.postponed == 1)
        await _hands(outbox)
        await _until(outbox, lambda stats: stats.dead == 2 and stats.pending == 1)
    night.events_granted = False
    async with _bot(path, late_s, night) as outbox:
        for number in range(7):
            await _event(outbox, f"e-{number}", "SIGNAL", {"n": number})
        await outbox.put("trades", _trade(14, 3.5), id="t-14")
        await _until(outbox, lambda stats: len(stats.pauses) == 1 and stats.pending == 8)
        await maintenance.prune(outbox._store, outbox.clock.now_ms() - int(24 * _HOUR_S * 1000))
    _a_shell(path)


@contextlib.asynccontextmanager
async def _bot(path: Path, ago_s: float, night: Night) -> AsyncIterator[Outbox]:
    # What is postponed stays so until the file is made: with this base a wait of seconds comes up once in a million.
    settings = Settings(path=path, source="bot-1", backoff_base_s=1e8, backoff_cap_s=1e8, _env_file=None)
    remote = ScriptedTransport(otherwise=night.answer)
    async with Outbox.open(settings, clock=ShiftedClock(ago_s), transport=remote) as outbox, outbox.flushing():
        for table in ("trades", "events"):
            outbox.register(table, columns={"id": "text"})  # ids that a person can read
        yield outbox


def _trade(number: int, pnl: float, **more: object) -> dict[str, object]:
    return {
        "session_id": "s-2026-01", "symbol": "EURUSD", "action": "CLOSE", "direction": 1 if number % 2 else -1,
        "volume": 0.1, "pnl": pnl, "timestamp": f"2026-01-02T10:{number:02}:00Z", **more,
    }  # fmt: skip


async def _event(outbox: Outbox, its_id: str, kind: str, data: dict[str, object]) -> None:
    row = {"session_id": "s-2026-01", "event_type": kind, "timestamp": "2026-01-02T10:00:00Z", "data": data}
    await outbox.put("events", row, id=its_id)


async def _yesterday(outbox: Outbox) -> None:
    for number in range(4):
        await outbox.put("trades", _trade(number, 1.5 * number), id=f"t-{number}")
        await _event(outbox, f"old-{number}", "TICK", {"n": number})


async def _the_night(outbox: Outbox) -> None:
    manager = SessionManager(outbox)
    await manager.start_session(10_000, ["EURUSD"])
    await manager.update_heartbeat(10_012.5)
    for number in range(4, 12):
        await outbox.put("trades", _trade(number, 12.5 - number), id=f"t-{number}")
    for name in ("t-comma", "t-typo", "t-test"):
        await outbox.put("trades", _trade(12, 1.0, volume="0,1"), id=name)
    # In one lane and of one key: the second arrives, and the first, requeued, would revert it.
    for name, lots in (("o-1", -1), ("o-2", 2)):
        order = {"order_id": 4711, "lots": lots}
        await outbox.put("orders", order, operation="upsert", on_conflict=("order_id",), id=name)
        await _until(outbox, lambda stats: stats.pending <= 1)
    await outbox.put("fills", {"trade_id": "t-none", "price": 1.0712}, id="f-1")


async def _hands(outbox: Outbox) -> None:
    await outbox.discard(["t-test"], reason="a test row")
    (found,) = await outbox.read_local("select payload from outbox where id = 't-typo'")
    corrected = str(found[0]).replace("0,1", "0.1")
    await outbox._commands.actions["edit"]({"its_id": "t-typo", "payload": corrected, "force": False})


def _a_shell(path: Path) -> None:
    with shell(path) as connection:
        note = '{"event_type": "NOTE"}'
        connection.execute("insert into outbox (id, destination, payload) values ('by-hand', 'events', ?)", (note,))
        connection.execute("delete from outbox where id = 'e-6'")
        soon = "(cast(unixepoch() as integer) + 200) * 1000"
        connection.execute(f"update outbox set next_attempt_at_ms = {soon} where id = 'f-1'")


async def _until(outbox: Outbox, holds: Callable[[Stats], bool]) -> None:
    while not holds(await outbox.stats()):  # noqa: ASYNC110 - what is awaited has no event of its own
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1])))
