"""What the inspection's tests look at: a file with something in every state, and its writer, which still runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from datasette.app import Datasette

from outbox import Outbox, Settings
from outbox.cli.inspection import operations_of
from outbox.testing import FakeRemote, ManualClock, Reply, refused
from outbox.web.site import make_site
from tests.store.tools import until

TOO_MUCH = 'new row for relation "trades" violates check constraint "volume_limit"'


def _rule(_table: str, row: dict[str, Any]) -> Reply | None:
    match row:
        case {"volume": 13}:
            return refused(400, "23514", TOO_MUCH)
        case {"session_id": "missing"}:
            return refused(409, "23503", "insert violates foreign key constraint")
        case _:
            return None


@contextlib.asynccontextmanager
async def busy_bot(path: Path) -> AsyncIterator[Outbox]:
    """A bot with 4 entries delivered, 2 dead and 4 pending behind a pause; it still has the file open."""
    clock, remote = ManualClock(), FakeRemote(rule=_rule)
    settings = Settings(path=path, source="a-bot", _env_file=None)
    async with Outbox.open(settings, clock=clock, transport=remote) as outbox:
        for volume in (1, 2, 13, 13):
            await outbox.put("trades", {"symbol": "EURUSD", "volume": volume})
            clock.advance(60)
        for balance in (100, 90):
            await _put_session(outbox, balance)
        await outbox.drain()
        await outbox.put("trades", {"symbol": "GBPUSD", "session_id": "missing"})
        await _send_once(outbox, remote)
        clock.advance(60)  # the postponed one is due again
        remote.down()
        for balance in (80, 70, 60):
            await _put_session(outbox, balance)
        await _send_once(outbox, remote)
        yield outbox


async def _put_session(outbox: Outbox, balance: int) -> None:
    await outbox.put("sessions", {"session_id": "s-1", "balance": balance}, operation="upsert")


async def _send_once(outbox: Outbox, remote: FakeRemote) -> None:
    before = len(remote.requests)
    async with outbox.flushing():  # its end waits for the verdict of what is under way
        await until(lambda: len(remote.requests) > before)


@contextlib.contextmanager
def open_site(path: Path, *, allow_actions: bool = False) -> Iterator[Datasette]:
    """The site, whose connections are closed at the end: what a process does when it ends."""
    site = make_site(path, operations_of(path, (), allow_actions=allow_actions))
    try:
        yield site
    finally:
        assert site.executor is not None
        site.executor.shutdown()
        for database in site.databases.values():
            database.close()
