"""A bot on a disk that fails on command: it does its work, and says of each row what it was told.

One process runs many cases, each with a file of its own; `sweep.py` asks for them over stdin, a JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from outbox import Outbox, OutboxError, OutcomeUnknown, Receipt, Settings, State, StoreError
from outbox.clock import SystemClock
from outbox.store import database
from outbox.store.commits import Commits
from outbox.store.writer import Writer
from tests.proof.disk.shim import Disk, Fault

# A row of some size, so that a commit is several pages.
TEXT = "x" * 600
# The pauses between two tries after an I/O error are jumped over; what an open transaction waits for is not.
_JUMPED_S = 0.1
# A commit is tried four times, each pause after an I/O error being 0.05 s: how long the tries take does not count.
_BUSY_TIMEOUT_S, _TIMES = 2.0, 16


class JumpingClock(SystemClock):
    """Short pauses pass at once and count for longer ones; nothing else takes any time."""

    def __init__(self) -> None:
        self._jumped_s = 0.0

    def monotonic_s(self) -> float:
        return self._jumped_s

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        if timeout_s >= _JUMPED_S:
            return await super().wait(event, timeout_s)
        self._jumped_s += _TIMES * timeout_s
        await asyncio.sleep(0)
        return event.is_set()


class Bot:
    """What it was told about each id: acknowledged, nothing (was written), unknown, or what else the error says."""

    def __init__(self, outbox: Outbox, disk: Disk) -> None:
        self.outbox = outbox
        self.disk = disk
        self.told: dict[str, str] = {}

    async def work(self) -> None:
        """A group of puts, a transaction with SQL of its own, a verdict, a checkpoint, and puts again."""
        await self.puts("a", 4)
        await self.transaction("t", 2)
        await self.quietly(self.outbox._store.settle([1, 2], State.DELIVERED))
        await self.puts("b", 1)
        await self.quietly(self.outbox._store.checkpoint())
        await self.puts("c", 3)
        await self.quietly(self.outbox._store.empty_wal())
        await self.puts("d", 1)

    async def puts(self, name: str, number: int) -> None:
        await asyncio.gather(*(self.put(f"{name}-{n}") for n in range(number)))

    async def put(self, name: str) -> None:
        await self._told([name], self.outbox.put("fills", {"n": name, "text": TEXT}, id=name))

    async def transaction(self, name: str, number: int) -> None:
        names = [f"{name}-{n}" for n in range(number)]

        async def all_or_nothing() -> None:
            async with self.outbox.transaction() as tx:
                await tx.execute("insert into own values (?)", (name,))
                for each in names:
                    await tx.put("fills", {"n": each, "text": TEXT}, id=each)

        await self._told(names, all_or_nothing())

    async def _told(self, names: list[str], work: Awaitable[object]) -> None:
        try:
            await work
        except OutboxError as error:
            told = _meaning(error, names)
        else:
            told = "acknowledged"
        self.told.update(dict.fromkeys(names, told))
        self.disk.mark(f"{told}: {','.join(names)}")

    async def quietly(self, work: Awaitable[object]) -> None:
        try:
            await work
        except StoreError:
            self.disk.mark("failed")
        else:
            self.disk.mark("acknowledged: ")

    async def repeat(self) -> None:
        """Put once more what was not acknowledged; the same ids, the same data."""
        lost = [name for name, told in self.told.items() if told != "acknowledged"]
        for name in lost:
            if not name.startswith("t-"):
                await self.put(name)
        if any(name.startswith("t-") for name in lost):
            await self.puts("t", 2)
        await self.puts("last", 1)


def _meaning(error: OutboxError, names: list[str]) -> str:
    """Return what `error` says became of the data; an error that does not say it, or names other ids, is found out."""
    if isinstance(error, OutcomeUnknown):
        return "unknown" if set(error.ids) <= set(names) and (len(names) > 1 or error.id == names[0]) else repr(error)
    said = "nothing was written" in str(error) or "rolled back" in str(error)
    return "nothing" if said else repr(error)


# ---------------------------------------------------------------------------------------- with the protection removed


async def _does_not_reopen(self: Commits, ids: Any, *, stored: bool) -> None:
    self.suspect = False


async def _does_not_know(self: Commits, error: Exception, ids: Any, waited_s: float) -> StoreError:
    await self.connection.rollback()
    return StoreError(f"{error}; nothing was written", path=self._path)


async def _trusts(connection: object, mode: str = "passive") -> database.Checkpoint:
    """What an earlier process left is taken as it looks: no checkpoint happens, at opening or later."""
    return database.Checkpoint(blocked=False, frames=0, done=0)


_commits = Writer._commit_puts


async def _hopes(self: Writer, group: Any) -> None:
    try:
        await _commits(self, group)
    except OutcomeUnknown:  # "it will have worked"
        for put in group:
            put.done.set_result(Receipt(id=put.entry.id, seq=0))


def naive(how: str) -> None:
    """Take a protection out of the writer."""
    match how:
        case "never reopens":
            Commits._reopen = _does_not_reopen  # type: ignore[method-assign]
        case "calls a failed commit nothing":
            Commits._failed = _does_not_know  # type: ignore[method-assign]
        case "acknowledges a failed commit":
            Writer._commit_puts = _hopes  # type: ignore[method-assign]
        case "trusts the WAL that it finds":
            database._settle_wal = _trusts  # type: ignore[assignment]
            database.checkpoint = _trusts
        case _:
            raise ValueError(how)


# ---------------------------------------------------------------------------------------- the cases


def settings(path: Path) -> Settings:
    return Settings(path=path, reserve_bytes=0, busy_timeout_s=_BUSY_TIMEOUT_S, poll_s=3600.0, _env_file=None)


async def one_life(disk: Disk, path: Path, name: str, fault: Fault | None) -> None:
    """Put one row, then another one, on a disk that fails from the second one on; and be killed."""
    async with Outbox.open(settings(path), clock=JumpingClock()) as outbox:
        bot = Bot(outbox, disk)
        await bot.puts(f"{name}-first", 1)
        if fault is not None:
            disk.fail(fault)
        await bot.puts(f"{name}-second", 1)
        answer({"told": bot.told, "seen": disk.seen, "failed": disk.failed})


async def case(disk: Disk, path: Path, fault: Fault) -> None:
    async with Outbox.open(settings(path), clock=JumpingClock()) as outbox:
        bot = Bot(outbox, disk)
        await bot.puts("before", 3)
        disk.fail(fault)
        await bot.work()
        answer({"told": bot.told, "seen": disk.seen, "failed": disk.failed})
        disk.heal()
        await bot.repeat()
        answer({"told": bot.told})


def answer(content: object) -> None:
    """Say it, and wait until it was looked at: the files are as a killed process leaves them."""
    print(json.dumps(content), flush=True)  # noqa: T201 - a program
    sys.stdin.readline()


def main() -> None:
    if sys.argv[1:]:
        naive(sys.argv[1])
    disk = Disk.around()
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        path, fault, life = Path(asked["path"]), asked["fault"] and Fault(**asked["fault"]), asked.get("life")
        disk.watch(path.parent, again=life == "second")
        asyncio.run(case(disk, path, fault) if life is None else one_life(disk, path, life, fault))
        print("{}", flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    main()
