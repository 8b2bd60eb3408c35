"""`drain`: send until nothing is pending or the time is up."""

from __future__ import annotations

import asyncio
import contextlib

from outbox.clock import Clock
from outbox.entry import State
from outbox.flusher.flusher import Flusher
from outbox.flusher.scopes import EVERYTHING, held_words, sentence
from outbox.remote import Remote
from outbox.stats import DrainReport
from outbox.store.rows import Sendable, total
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
        self._stops = 0
        self._closed = False

    async def run_flusher(self) -> None:
        """Run the flusher as the bot's own. A drain that began earlier sends until it ends; then this takes over."""
        stops = self._stops
        while self._running is not None:
            await asyncio.wait({self._running})
            if self._stops != stops:
                return  # told to stop before its turn came
        await self._flusher.run()

    async def stop(self, grace_s: float) -> None:
        """Stop the flusher, as `Flusher.shut_down`, and one that waits for its turn. A drain continues on its own."""
        self._stops += 1
        await self._flusher.shut_down(grace_s)

    async def close(self, grace_s: float) -> None:
        """Stop for good."""
        self._closed = True
        await self.stop(grace_s)

    async def drain(self, timeout_s: float) -> DrainReport:
        """Make one immediate try, whatever the flusher waits for, and continue as long as that can help."""
        started_s = self._clock.monotonic_s()
        before = self._flusher.tally.delivered.total()
        await asyncio.sleep(0)  # let a flusher whose task was just created start, so that this joins it
        self._callers += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._store.caught_up()  # includes what put_nowait has queued
            timed_out, held_by = await self._end(started_s + timeout_s)
        finally:
            self._callers -= 1
            if (task := self._running) is not None and not self._callers:  # the last of several ends what they share
                await self._flusher.shut_down(0.0)
                await task
        await self._flusher.noted()  # else delivered and pending would not add up
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

    async def _keep_sending(self) -> None:
        """Run a flusher for the drains if the bot runs none, or no longer does."""
        if self._running is None and not self._flusher.state.now.running and not self._closed:
            self._running = asyncio.create_task(self._flusher.run(), name="outbox-drain")
            self._running.add_done_callback(self._ended)
            await asyncio.sleep(0)  # what has not started cannot be shut down

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._running = None
        self._flusher.requests.tell()  # another drain may have joined it, and now has to send by itself

    async def _end(self, until_s: float) -> tuple[bool, str | None]:
        """Wait until nothing is pending, all that is left waits for an operator, or the time is up.

        Returns whether the time was up, and what waits for an operator.
        """
        with self._flusher.requests.watch() as progress:
            since = self._flusher.try_at_once()
            while True:
                progress.clear()
                await self._keep_sending()
                if self._flusher.pauses.make_untried_due(since):  # begun by a request from before: that was no try
                    self._flusher.wake()
                # While a request is in flight, nothing can tell what holds the rest: no need to read every lane.
                ways = None if self._flusher.requests else await self._store.sendable()
                pending = ways.pending if ways else total(await self._store.counts(), State.PENDING)
                if not pending:
                    return False, None
                if self._remote.transport is None:
                    return False, "; ".join(self._remote.warnings)
                if ways and (held_by := self._held_by(ways, since)) is not None:
                    return False, held_by
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return True, None
                await self._clock.wait(progress, min(left_s, self._poll_s))

    def _held_by(self, ways: Sendable, since: int) -> str | None:
        """Return why nothing in `ways` can be sent before an operator acts, as found out since turn `since`.

        None: something may be sent without an operator, or that is not known yet.
        """
        pauses = self._flusher.pauses
        if self._flusher.requests:
            return None
        found = pauses.for_operators(since)
        if (over_all := found.get(EVERYTHING)) is not None:
            if pauses.try_elsewhere(ways.lanes):
                self._flusher.wake()
                return None
            return sentence("everything", over_all)
        if ways.lanes and not found:
            return None
        held = [(lane, next((key for key in pauses.over(lane) if key in found), None)) for lane in ways.lanes]
        if ways.others or any(key is None for _, key in held):
            return None
        if not held:  # each pending entry is behind another of its key, and none of these is pending
            return "what is left waits behind dead letters of its keys (OUTBOX_STRICT_ORDER)"
        told = [sentence(held_words(lane, key[0]), found[key]) for lane, key in held if key is not None]
        return "; ".join(dict.fromkeys(told))
