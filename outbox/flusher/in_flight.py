"""The requests in flight, one task per batch; and the rest that follows an error of our own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from outbox import logs
from outbox.flusher import backoff
from outbox.flusher.context import FlusherContext
from outbox.flusher.pauses import Pauses
from outbox.flusher.traffic import Batch, Traffic

logger: logs.Logger = logs.named("outbox.flusher")


class Requests:
    """The batches in flight. ended: called whenever one of them has ended.

    stopping: nothing more starts, and how the last ones end is not reported.
    """

    def __init__(self, context: FlusherContext, pauses: Pauses, ended: Callable[[], None]) -> None:
        self._context = context
        self._pauses = pauses
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: set[asyncio.Event] = set()
        self._probes = 0  # among them
        self._destinations: Counter[str] = Counter()  # theirs
        self._broken = 0  # how many in a row ended in an error of our own
        self._rest_until_s = float("-inf")
        self._began_s, self._began_seq, self._began_rows = float("-inf"), 0, 0  # the last request
        self.stopping: bool = False
        self._repeating = logs.Repeating(context.clock)

    def __len__(self) -> int:
        return len(self._tasks)

    def may_start(self, *, alone: bool, probe: bool) -> bool:
        """Return whether there is room for one more.

        alone: nothing is in flight to its destination. One such may start above the number that is set, so that a table
        which does not answer cannot take all slots, or all of the link; nor can the probes of many.
        """
        limit = self._context.limits.requests_in_flight
        if self.stopping or self.rest_s > 0 or (probe and self._probes >= limit):
            return False
        return len(self) < limit + alone and (alone or self._context.window.has_room)

    def busy(self, destination: str) -> bool:
        """Return whether a request to `destination` is under way."""
        return self._destinations[destination] > 0

    def start(self, work: Coroutine[Any, Any, None], shares: Sequence[tuple[Traffic, Batch]]) -> None:
        """Let `work` deliver what each lane has in the request, which probes the pauses over the first of them."""
        traffic, batch = shares[0]
        probed = self._pauses.probe(traffic.lane)
        for each, share in shares:
            each.start(share)
        self._began_s = self._context.clock.monotonic_s()
        self._began_rows = sum(len(share.entries) for _, share in shares)
        self._began_seq = self._context.store.writer.last_seq
        task = asyncio.create_task(work, name=f"outbox-request-{traffic.lane.spec.destination}")
        self._tasks.add(task)
        self._probes += batch.probe
        self._destinations[traffic.lane.spec.destination] += 1
        self._context.window.under_way += batch.bytes

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._probes -= batch.probe
            self._destinations[traffic.lane.spec.destination] -= 1
            self._context.window.under_way -= batch.bytes
            for each, share in shares:
                each.end(share)
            self._pauses.probed(probed)
            self._judge_end(asyncio.CancelledError() if task.cancelled() else task.exception(), traffic)
            self._ended()
            self.tell()

        task.add_done_callback(over)

    def _judge_end(self, error: BaseException | None, traffic: Traffic) -> None:
        """What a broken request carried is still pending and is sent again with the same keys, but not in a loop.

        A full disk, say, cannot store a verdict, while the server keeps answering.
        """
        if error is None:
            self._broken = 0
            self._repeating.over("failed")
        if error is None or self.stopping:
            return
        self._broken += 1
        self.rest(self._context.backoff_s(self._broken))
        traffic.rewind = True
        self._context.failed(error)
        facts = {"destination": traffic.lane.spec.destination}
        if (news := self._repeating.news("failed", f"{facts} {error!r}")) is not None:
            logger.error("request failed", exc_info=error, extra={**facts, **news})

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever a request has ended, or none can start."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)

    def tell(self) -> None:
        """Wake those that watch."""
        for watcher in self._watchers:
            watcher.set()

    # ------------------------------------------------------------------------------------------ rest

    def rest(self, wait_s: float) -> None:
        """Start nothing for `wait_s` seconds, whatever is put meanwhile."""
        self._rest_until_s = self._context.clock.monotonic_s() + wait_s

    def end_rest(self) -> None:
        """Start again at once."""
        self._rest_until_s = float("-inf")

    @property
    def rest_s(self) -> float:
        """The seconds of rest that are left; 0 or less: none."""
        return self._rest_until_s - self._context.clock.monotonic_s()

    @property
    def throttle_s(self) -> float:
        """The seconds that the next request waits for the bot's puts at most; 0: it may begin."""
        store = self._context.store
        return backoff.throttle_s(
            putting=store.writer.putting,
            put=store.writer.last_seq - self._began_seq,
            sent=self._began_rows,
            since_s=self._context.clock.monotonic_s() - self._began_s,
        )

    # ------------------------------------------------------------------------------------------ the end

    async def finish(self) -> None:
        """Return once none is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Give up what is under way; it stays pending."""
        for task in self._tasks:
            task.cancel()

    async def abandon(self) -> None:
        """Give it up, and return once it has ended."""
        self.stopping = True
        self.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._context.noted()
