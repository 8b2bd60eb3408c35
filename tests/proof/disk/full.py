"""A bot on a small disk that is full in the end: a program, for `test_full_disk.py`.

usage: full.py FOLDER RESERVE_BYTES STORY [naive]; prints what happened as one JSON object

naive: an I/O error is never taken for want of room.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from outbox import DiskFull, Outbox, OutboxError, OutcomeUnknown, Settings
from outbox.entry import Entry
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.store.capacity import Reserve
from outbox.store.writer import Writer
from outbox.testing import ScriptedTransport, accepted

TEXT = "x" * 900
DEADLINE_S = 120.0  # for what hangs


class Remote(ScriptedTransport):
    """Counts each row that it accepts; down until told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: Counter[str] = Counter()
        self.otherwise = Failure.UNREACHABLE

    def up(self) -> None:
        self.otherwise = self._store

    def _store(self, request: Request) -> Reply:
        self.arrived.update(row["id"] for row in json.loads(request.body))
        return accepted(request)


class Story:
    """One bot, its disk, and what it saw."""

    def __init__(self, folder: Path, reserve_bytes: int, *, naive: bool = False) -> None:
        self.folder = folder
        more: dict[str, Any] = {"busy_timeout_s": 0.5} if naive else {}  # it tries in vain for so long
        self.settings = Settings(
            path=folder / "bot.db", reserve_bytes=reserve_bytes, poll_s=0.05, _env_file=None, **more
        )
        self.naive = naive
        self.remote = Remote()
        self.acknowledged: list[str] = []
        self.unknown: set[str] = set()  # ids that may be stored
        self.seen: dict[str, Any] = {}

    @property
    def filler(self) -> Path:
        return self.folder / "filler"

    @property
    def reserve(self) -> Path:
        return self.folder / "bot.db-reserve"

    def fill(self) -> None:
        """Somebody else takes all that is left on the disk."""
        descriptor = os.open(self.filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with contextlib.suppress(OSError):
            while os.write(descriptor, bytes(4096)):
                pass
        os.close(descriptor)

    def open(self) -> Any:
        return Outbox.open(self.settings, transport=self.remote)

    async def put(self, outbox: Outbox, number: int) -> OutboxError | None:
        """Put that many rows at once; return the first error."""
        rows = ({"n": n, "text": TEXT} for n in range(number))
        results = await asyncio.gather(*(outbox.put("trades", row) for row in rows), return_exceptions=True)
        self.acknowledged += [each.id for each in results if not isinstance(each, BaseException)]
        errors = [each for each in results if isinstance(each, BaseException)]
        self.unknown.update(*(each.ids for each in errors if isinstance(each, OutcomeUnknown)))
        if errors and not isinstance(errors[0], OutboxError):
            raise errors[0]
        return errors[0] if errors else None  # type: ignore[return-value]

    async def put_until_full(self, outbox: Outbox) -> None:
        """Put until the disk is full, and see what the next put hears."""
        error = None
        while error is None:
            error = await self.put(outbox, 20)
        self.seen["error"] = type(error).__name__
        with counted_inserts() as tried:
            again = await self.put(outbox, 1)
            self.seen["again"] = type(again).__name__
            self.seen["transaction"] = await self.transaction(outbox)
        self.seen["at_once"] = not tried  # what maintenance writes meanwhile, to find room, is no put's
        self.seen["reserve_kept"] = self.reserve.exists()
        if self.settings.reserve_bytes and not self.naive:
            await until(lambda: bool(outbox._maintenance and outbox._maintenance.notices.reserve_released_ms))
        stats = await outbox.stats()
        self.seen["warnings"] = list(stats.warnings)
        self.seen["pending_when_full"] = stats.pending

    async def transaction(self, outbox: Outbox) -> str:
        """Begin a block; return the error that it ends with."""
        try:
            async with outbox.transaction() as tx:
                await tx.put("trades", {"n": 1})
        except OutboxError as error:
            return type(error).__name__
        return "none"

    async def drain(self, outbox: Outbox) -> None:
        """The remote end is up: bring it everything."""
        self.remote.up()
        report = await outbox.drain(timeout=DEADLINE_S if self.settings.reserve_bytes else 1.0)
        self.seen["left"] = report.pending

    async def works_again(self, outbox: Outbox) -> None:
        """Wait until a put works, deliver it, and count."""
        end_s = time.monotonic() + DEADLINE_S
        while isinstance(await self.put(outbox, 1), DiskFull) and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await outbox.drain(timeout=DEADLINE_S)
        await until(lambda: self.reserve.exists() or not self.settings.reserve_bytes)
        stats = await outbox.stats()
        self.seen["put"] = stats.pending + stats.delivered + stats.pruned + stats.dead + stats.discarded + stats.removed
        self.seen["pruned"] = stats.pruned
        self.seen["hindered"] = stats.reserve_released_ms is not None

    def count(self) -> None:
        self.seen["acknowledged"] = len(self.acknowledged)
        self.seen["missing"] = len(set(self.acknowledged) - set(self.remote.arrived))
        self.seen["unasked"] = len(set(self.remote.arrived) - set(self.acknowledged) - self.unknown)
        self.seen["unknown"] = len(self.unknown)
        self.seen["twice"] = sum(times > 1 for times in self.remote.arrived.values())


async def by_itself(story: Story) -> None:
    """The outage lasts until the outbox has filled the disk."""
    async with story.open() as outbox:
        await story.put_until_full(outbox)
        await story.drain(outbox)
        if story.settings.reserve_bytes:
            await story.works_again(outbox)


async def by_others(story: Story) -> None:
    """Something else fills the disk, and leaves later."""
    async with story.open() as outbox:
        await story.put(outbox, 700)
        story.fill()
        await story.put_until_full(outbox)
        await story.drain(outbox)
        if story.settings.reserve_bytes:
            error, refused = None, 0
            # A put may find room that was given back a moment ago, and the first to meet a quota does not know of it.
            while refused < 4 and not isinstance(error, DiskFull):
                story.fill()
                error = await story.put(outbox, 1)
                refused += error is not None
            story.seen["meanwhile"] = type(error).__name__
            story.filler.unlink()
            await story.works_again(outbox)


async def with_a_restart(story: Story) -> None:
    """The bot starts on a disk that is full to the last byte."""
    async with story.open() as outbox:
        await story.put(outbox, 700)
    story.fill()
    async with story.open() as outbox:
        story.seen["error"] = type(await story.put(outbox, 1)).__name__
        await story.drain(outbox)
        story.filler.unlink()
        await story.works_again(outbox)


STORIES: dict[str, Callable[[Story], Any]] = {
    "by_itself": by_itself,
    "by_others": by_others,
    "with_a_restart": with_a_restart,
}


@contextlib.contextmanager
def counted_inserts() -> Iterator[list[int]]:
    """Yield a list that grows by one with each try to store puts."""
    tried: list[int] = []
    plain = Writer._insert

    async def counted(self: Writer, entries: Sequence[Entry]) -> range | None:
        tried.append(len(entries))
        return await plain(self, entries)

    Writer._insert = counted  # type: ignore[method-assign]
    try:
        yield tried
    finally:
        Writer._insert = plain  # type: ignore[method-assign]


async def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition() and time.monotonic() < end_s:  # noqa: ASYNC110 - what is awaited has no event of its own
        await asyncio.sleep(0.01)


def main() -> None:
    naive = "naive" in sys.argv[4:]
    story = Story(Path(sys.argv[1]), int(sys.argv[2]), naive=naive)
    if naive:
        Reserve.lacks = lambda *_: False  # type: ignore[method-assign]
    try:
        asyncio.run(STORIES[sys.argv[3]](story))
    except OutboxError as error:
        story.seen["failed"] = repr(error)
    story.count()
    print(json.dumps(story.seen))  # noqa: T201 - a program


if __name__ == "__main__":
    main()
