"""The victim: lives a session, or saves pending writes, until it is killed or kills itself.

usage: victim.py session OUTBOX_FILE | save OUTBOX_FILE | save-old FOLDER
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from outbox import LocalStorage, Outbox, SessionManager, Settings

FIRST = {"table": "trades", "data": {"session_id": "s", "trade_id": "first"}, "operation": "insert"}
SECOND = {"table": "trades", "data": {"session_id": "s", "trade_id": "second"}, "operation": "insert"}


class Deadly(dict[str, Any]):
    """A row that kills its process, by SIGKILL or its Windows equal, as soon as somebody writes it down."""

    def items(self) -> Any:
        return self.die()

    def keys(self) -> Any:
        return self.die()

    def __iter__(self) -> Any:
        return self.die()

    def die(self) -> Any:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


DEADLY = {"table": "trades", "data": Deadly(session_id="s"), "operation": "insert"}


def acknowledge(what: str, value: str) -> None:
    """Say on stdout that it is on disk."""
    sys.stdout.write(f"{json.dumps([what, value])}\n")
    sys.stdout.flush()


async def live_a_session(path: Path) -> None:
    """Start a session and keep its heartbeat; report each on stdout once it is on disk."""
    async with Outbox.open(Settings(path=path)) as outbox, contextlib.AsyncExitStack() as stack:
        if outbox.has_remote:
            await stack.enter_async_context(outbox.flushing())
        session = SessionManager(outbox)
        acknowledge("session", await session.start_session(10_000.0, ["EURUSD", "GBPUSD"]))
        for number in itertools.count(1):
            await session.update_heartbeat(10_000.0 + number)
            acknowledge("heartbeat", str(number))


async def save(path: Path) -> None:
    """Save one write, then two more, in the middle of which the process dies."""
    async with Outbox.open(Settings(path=path)) as outbox:
        storage = LocalStorage(outbox)
        await storage.save_pending([FIRST])
        acknowledge("saved", "first")
        await storage.save_pending([SECOND, DEADLY])


def save_as_before(folder: Path) -> None:
    """The same with one file that is rewritten from its start for each save."""
    saved: list[Any] = []
    for more in ([FIRST], [SECOND, DEADLY]):
        saved += more
        with (folder / "pending.json").open("w") as file:
            json.dump(saved, file)
        acknowledge("saved", "first")


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "session":
        asyncio.run(live_a_session(place))
    elif what == "save":
        asyncio.run(save(place))
    else:
        save_as_before(place)
