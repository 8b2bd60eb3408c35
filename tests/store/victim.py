"""A bot in a process of its own that does what it is told on its standard input, and says what became of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from outbox import Outbox, OutboxError, Settings
from outbox.clock import SystemClock
from outbox.store.file_watch import FileWatch


def answered(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class Clock(SystemClock):
    """resting: set once the housekeeper has looked for the first time, and reads nothing for a minute."""

    def __init__(self) -> None:
        self.resting = asyncio.Event()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        self.resting.set()
        return await super().wait(event, timeout_s)


class Bot:
    """put N: N rows, one after the other. read: the bot reads its own database. copy: its whole folder."""

    def __init__(self, outbox: Outbox, path: Path) -> None:
        self.outbox = outbox
        self.path = path
        self.n = 0

    async def put(self, count: str) -> None:
        ids, errors = [], []
        for _ in range(int(count)):
            self.n += 1
            try:
                ids.append((await self.outbox.put("fills", {"n": self.n}, id=f"{os.getpid()}-{self.n}")).id)
            except OutboxError as error:
                kept = getattr(error, "kept", None)
                errors.append([type(error).__name__, str(error), kept and str(kept), getattr(error, "stored", None)])
        answered(ids=ids, errors=errors)

    async def transaction(self) -> None:
        self.n += 1
        try:
            async with self.outbox.transaction() as tx:
                await tx.put("fills", {"n": self.n}, id=f"{os.getpid()}-{self.n}")
        except OutboxError as error:
            answered(ids=[], errors=[[type(error).__name__, str(error), None, None]])
        else:
            answered(ids=[f"{os.getpid()}-{self.n}"], errors=[])

    async def read(self) -> None:
        self.path.read_bytes()
        answered()

    async def copy(self) -> None:
        shutil.copytree(self.path.parent, self.path.parent.with_name("copied"))
        answered()

    async def stats(self) -> None:
        stats = await self.outbox.stats()
        try:
            now = self.outbox.pending_now()
        except OutboxError:
            now = -1
        lost = stats.files_lost_ms is not None
        answered(pending=stats.pending, now=now, warnings=stats.warnings, files_lost=lost)

    async def close(self) -> None:
        await self.outbox.close()
        answered()


async def main(path: Path) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(msg)s")
    clock = Clock()
    outbox = await Outbox.open(Settings(path=path, _env_file=None), clock=clock)
    await clock.resting.wait()
    bot = Bot(outbox, path)
    answered(pid=os.getpid())
    loop = asyncio.get_running_loop()
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        await getattr(bot, words[0])(*words[1:])


if __name__ == "__main__":
    if "blind" in sys.argv:  # the control: nobody looks
        FileWatch.look = lambda self: None  # type: ignore[method-assign]
    asyncio.run(main(Path(sys.argv[1])))
