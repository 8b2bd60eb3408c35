"""Floor 6 · api. `drain`: send until nothing is pending or the time is up."""

from __future__ import annotations

import asyncio
import contextlib

from outbox.api.remote import Remote
from outbox.api.reports import DrainReport, total
from outbox.clock import Clock
from outbox.entry import State
from outbox.flusher import Flusher
from outbox.store.store import Store


class Drains:
    """Several drains may run at once. They join the bot's flusher, else share one of their own."""

    def __init__(self, store: Store, flusher: Flusher, remote: Remote, *, clock: Clock, poll_s: float) -> None:
        self._store = store
        self._flusher = flusher
        self._remote = remote
        self._clock = clock
        self._poll_s = poll_s
        self._running: asyncio.Task[None] | None = None  # a flusher that runs for drains alone
        self._callers = 0

    async def run_flusher(self) -> None:
        """Run the flusher as the bot's own. A drain that began before sends until it ends, then this goes on."""
        if self._running is not None:
            await asyncio.wait({self._running})
        await self._flusher.run()

    async def drain(self, timeout_s: float) -> DrainReport:
        """Make one immediate try, whatever the flusher waits for, and go on from there as long as that can help."""
        started_s = self._clock.monotonic_s()
        before = self._flusher.tally.delivered.total()
        await asyncio.sleep(0)  # a flusher whose task was created just now may start, and be joined
        if not self._flusher.state.running and self._running is None:
            self._running = asyncio.create_task(self._flusher.run(), name="outbox-drain")
        self._callers += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._store.caught_up()  # what put_nowait has lined up is meant too
            timed_out, held_by = await self._end(started_s + timeout_s)
        finally:
            self._callers -= 1
            if self._running is not None and not self._callers:  # the last of several ends what they share
                task, self._running = self._running, None
                await self._flusher.shut_down(0.0)
                await task
        await self._flusher.noted()  # or delivered and pending would not add up
        counts = await self._store.counts()
        pending = total(counts, State.PENDING)
        return DrainReport(
            delivered=self._flusher.tally.delivered.total() - before,
            pending=pending,
            dead=total(counts, State.DEAD),
            seconds=self._clock.monotonic_s() - started_s,
            timed_out=timed_out,
            held_by=held_by if pending else None,
        )

    async def _end(self, until_s: float) -> tuple[bool, str | None]:
        """Wait until nothing is pending, nothing goes on before an operator acts, or the time is up.

        Returns whether the time was up, and what only an operator can end.
        """
        with self._flusher.watch() as progress:
            since = self._flusher.try_at_once()
            while True:
                progress.clear()
                self._flusher.try_untried(since)
                ways = await self._store.ways()
                if not ways.pending:
                    return False, None
                if self._remote.transport is None:
                    return False, "; ".join(self._remote.warnings)
                if (held_by := self._flusher.held_by(ways, since)) is not None:
                    return False, held_by
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return True, None
                await self._clock.wait(progress, min(left_s, self._poll_s))
