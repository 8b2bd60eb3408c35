"""What the inspection's tests look at: a file with something in every state, and its writer if it still runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from datasette.app import Datasette

from outbox import Outbox, Settings, Stats
from outbox.inspection.site import make_site
from outbox.policy.verdicts import Failure, Reply
from outbox.testing import ManualClock, ScriptedTransport, accepted, refused
from outbox.transport import Request

TOO_MUCH = 'new row for relation "trades" violates check constraint "volume_limit"'


def _answer(request: Request) -> Reply:
    sent = json.loads(request.body)
    rows = sent if isinstance(sent, list) else [sent]
    return refused(400, "23514", TOO_MUCH) if any(row.get("volume") == 13 for row in rows) else accepted(request)


async def _flush_until(outbox: Outbox, condition: Callable[[Stats], bool]) -> None:
    async with outbox.flushing():
        while not condition(await outbox.stats()):
            await asyncio.sleep(0.001)  # the test's own deadline ends it


@contextlib.asynccontextmanager
async def busy_bot(path: Path) -> AsyncIterator[Outbox]:
    """A bot with 4 entries delivered, 2 dead, 1 postponed, 3 pending in a pause, and a session; it still runs."""
    clock, remote = ManualClock(), ScriptedTransport(otherwise=_answer)
    settings = Settings(path=path, source="a-bot", _env_file=None)
    async with Outbox.open(settings, clock=clock, transport=remote) as outbox:
        for volume in (1, 2, 13, 13):
            await outbox.put("trades", {"symbol": "EURUSD", "volume": volume})
            clock.advance(60)
        for balance in (100, 90):
            await outbox.put("sessions", {"session_id": "s-1", "balance": balance}, operation="upsert")
        await outbox.drain()
        remote.otherwise = refused(409, "23503", "insert violates foreign key constraint")
        await outbox.put("trades", {"symbol": "GBPUSD", "session_id": "s-9"})
        await _flush_until(outbox, lambda stats: stats.postponed == 1)
        remote.otherwise = Failure.UNREACHABLE
        for balance in (80, 70, 60):
            await outbox.put("sessions", {"session_id": "s-1", "balance": balance}, operation="upsert")
        await _flush_until(outbox, lambda stats: stats.paused is not None)
        yield outbox


@contextlib.contextmanager
def open_site(path: Path) -> Iterator[Datasette]:
    """The site, whose connections are closed at the end: what a process does when it ends."""
    site = make_site(path)
    try:
        yield site
    finally:
        assert site.executor is not None
        site.executor.shutdown()
        for database in site.databases.values():
            database.close()
