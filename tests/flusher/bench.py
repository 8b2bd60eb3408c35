"""What the flusher's tests stand on: a real store, a scripted remote end with tables, and time that is moved by hand.

`idle` returns when the flusher has nothing left to do at this moment of the clock; nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from outbox import Outbox, Settings
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure
from outbox.stats import DrainReport, Stats
from outbox.store.store import Store
from outbox.testing import Answer, FakeRemote, ManualClock

Row = dict[str, Any]


class Clock(ManualClock):
    """Tells who rests on it, and when the next alarm goes off."""

    def __init__(self) -> None:
        super().__init__()
        self.pulse = asyncio.Event()
        self.resting_on: list[asyncio.Event] = []
        self.rests = 0  # how often somebody went to rest: a busy loop shows here

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        self.resting_on.append(event)
        self.rests += 1
        self.pulse.set()
        try:
            return await super().wait(event, timeout_s)
        finally:
            self.resting_on.remove(event)
            self.pulse.set()  # who leaves may not come back: a drain that has ended

    @property
    def ringing(self) -> bool:
        return any(alarm.is_set() for _, alarm in self._alarms)

    @property
    def next_alarm_s(self) -> float:
        return min(due_s for due_s, _ in self._alarms) - self._monotonic_s


@dataclass
class Remote(FakeRemote):
    """Counts what hangs at its gate, and keeps the digits of the numbers that it is sent."""

    pulse: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    largest: int = 0  # requests that waited at the gate at once

    async def send(self, request: Request, *, deadline_s: float) -> Answer:
        if not self.gate.is_set():
            self.held += 1
            self.largest = max(self.largest, self.held)
            self.pulse.set()
        try:
            return await super().send(request, deadline_s=deadline_s)
        finally:
            if self.held:
                self.held -= 1

    def decoded(self, request: Request) -> list[Row]:
        return rows(request)

    @property
    def sizes(self) -> list[int]:
        """The rows of each request so far."""
        return [len(rows(request)) for request in self.requests]

    def ids(self, name: str) -> list[str]:
        return [key for of, key in self.inserted if of == name]


def table(request: Request) -> str:
    return request.path.partition("?")[0]


def query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.path.partition("?")[2], keep_blank_values=True))


def rows(request: Request) -> list[Row]:
    body = json.loads(request.body, parse_float=Decimal)
    return body if isinstance(body, list) else [body]


def prefer(request: Request) -> str:
    return dict(request.headers)["prefer"]


def then(remote: Remote, answer: Answer) -> Callable[[Request], Answer]:
    """Answer `answer` although everything was stored: a reply that is lost."""

    def script(request: Request) -> Answer:
        remote.commit(request)
        return answer

    return script


@dataclass
class Bench:
    outbox: Outbox
    clock: Clock
    remote: Remote
    path: Path

    @property
    def flusher(self) -> Any:
        return self.outbox._flusher

    @property
    def store(self) -> Store:
        return self.outbox._store

    def _is_idle(self) -> bool:
        writer = self.store.writer
        return (
            # The flusher and the housekeeper; a drain that rests beside them is none of them.
            {writer.committed, writer.capacity.changed}.issubset(self.clock.resting_on)
            and not self.clock.ringing
            and not writer.committed.is_set()
            and len(self.flusher.requests) == (0 if self.remote.gate.is_set() else self.remote.held)
        )

    async def idle(self) -> None:
        """Return when the flusher rests, and every request has ended or hangs at the closed gate."""
        while not self._is_idle():
            self.clock.pulse.clear()
            await self.clock.pulse.wait()

    async def advance(self, seconds: float) -> None:
        await self.idle()
        self.clock.advance(seconds)
        await self.idle()

    async def live(self, seconds: float) -> None:
        """Let time pass from alarm to alarm."""
        end_s = self.clock.monotonic_s() + seconds
        await self.idle()
        while (left_s := end_s - self.clock.monotonic_s()) > 0:
            await self.advance(min(max(self.clock.next_alarm_s, 0.001), left_s))

    async def until(self, condition: Callable[[], bool], *, within_s: float = 10_000.0) -> None:
        end_s = self.clock.monotonic_s() + within_s
        await self.idle()
        while not condition():
            assert self.clock.monotonic_s() < end_s, "it never came to pass"
            await self.advance(max(self.clock.next_alarm_s, 0.001))

    async def settled(self, *, within_s: float = 100_000.0) -> Stats:
        """Let time pass until nothing is pending."""
        end_s = self.clock.monotonic_s() + within_s
        await self.idle()
        while (stats := await self.stats()).pending:
            assert self.clock.monotonic_s() < end_s, "something stays pending for ever"
            await self.advance(max(self.clock.next_alarm_s, 0.001))
        return stats

    async def ended(self, drain: asyncio.Task[DrainReport]) -> DrainReport:
        """Let time pass until `drain` ends; it wakes nobody then, so that `until` would wait for ever.

        Time stands still while the flusher, the housekeeper or the drain works: else a slow disk would cost hours.
        """
        while not drain.done():
            if self._is_idle() and len(self.clock.resting_on) > 2:
                self.clock.advance(0.5)
            await asyncio.sleep(0)
        return await drain

    async def stats(self) -> Stats:
        """Return the stats; what was put is always somewhere."""
        stats = await self.outbox.stats()
        (put,) = await self.store.read("select coalesce(max(seq), 0) from outbox")
        total = stats.pending + stats.delivered + stats.dead + stats.discarded + stats.pruned + stats.removed
        assert total == put[0]
        counted = dict.fromkeys(("pending", "delivered", "dead", "discarded"), 0)
        counted |= dict(await self.store.read("select state, count(*) from outbox group by state"))
        assert counted == {state: getattr(stats, state) for state in counted}
        return stats

    async def entry(self, seq: int) -> Row:
        names = "state waits attempts next_attempt_at_ms error_status error_code error_message error_details error_hint"
        (found,) = await self.store.read(f"select {', '.join(names.split())} from outbox where seq = ?", (seq,))
        return dict(zip(names.split(), found, strict=True))

    async def entries(self) -> list[Any]:
        return await self.store.read("select * from outbox order by seq")

    async def put_many(self, count: int, destination: str = "events", **more: Any) -> list[str]:
        receipts = await asyncio.gather(*(self.outbox.put(destination, {"n": n}, **more) for n in range(count)))
        return [receipt.id for receipt in receipts]


@contextlib.asynccontextmanager
async def opened(
    folder: Path, *, remote: Remote | None = None, clock: Clock | None = None, draw: float | None = 0.5, **settings: Any
) -> AsyncIterator[Bench]:
    """Open the outbox of `folder`; its flusher does not run. draw: the dice, always the same; None: real ones.

    A minute is between two polls unless it is given: what has to wake the flusher is not hidden by the next poll, and
    an hour has 60 steps instead of 3,600.
    """
    clock = clock or Clock()
    remote = remote or Remote()
    remote.pulse = clock.pulse
    path = folder / "outbox.db"
    chosen = Settings(path=path, _env_file=None, **{"poll_s": 60.0, **settings})
    async with Outbox.open(chosen, clock=clock, transport=remote) as outbox:
        outbox._flusher._context.draw = random.Random(7).random if draw is None else lambda: draw
        try:
            yield Bench(outbox, clock, remote, path)
        finally:
            remote.gate.set()


@contextlib.asynccontextmanager
async def flushing(folder: Path, **more: Any) -> AsyncIterator[Bench]:
    """The same with its flusher running, and at rest."""
    async with opened(folder, **more) as bench:
        task = asyncio.create_task(bench.outbox.run_flusher())
        await bench.idle()
        try:
            yield bench
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


DOWN = Failure.UNREACHABLE
