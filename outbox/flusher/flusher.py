"""The flusher's coroutine: when it looks for work, which requests it may start, how it starts and stops.

Theory of operation
-------------------
A *lane* holds the rows that may share a request: one table, one operation, its conflict columns, its set of columns. A
step reads which lanes have something ready (2 index steps a lane, whatever the backlog), starts the requests that may
start, and sleeps until a commit, an answered request, the end of a pause, or a poll. One turn is one request. Requests
in flight are known in memory only: a crash leaves their rows pending, and the idempotency key makes a second sending
harmless.

**Turns.** The table that has waited longest goes first, and within it the lane that has waited longest. With t tables
and at most l lanes in one of them, a lane gets its turn after at most t x l requests of others, however much these have
to send. An unordered lane serves four sources in rotation: *new* rows, *parts* of refused batches, rows *refused
before*, and *suspects*. So a new row at the head of its lane is sent within four of the lane's turns, whatever hundreds
of orphans or poison rows do. An ordered lane has one request in flight, and sends a batch's parts in their order.
`requests_in_flight` bounds the requests in flight. One more may start for a table that has none, so that a table which
does not answer cannot take all slots; nor can probes, of which there are at most `requests_in_flight`.

**Many lanes.** When more than 64 lanes are ready, a step looks at the first 64 of a queue (`many_lanes`). All are
read again when a sixteenth of them have had a turn, or after a poll; entries put in between are found by their number.
Inserts with different sets of columns share a request where that means the same.

**Bytes.** All requests share one link: `window` bounds the bytes in flight on it, and each request gets a share. A lane
also has its own limit: what its server accepts. Failures halve both limits, and answers raise them.

**Refused batches.** The server rolls back a refused statement whole. The batch's halves become parts, each with a turn
of its own; a row left alone gets the verdict. After eight refused rows the largest parts go first, so that a run of
good rows does not wait behind hundreds of bad ones. When the server names a missing parent (23503), all its children
leave the batch at once; they wait for it, and travel apart from rows that were never refused.

**Pauses.** A failure that is no row's fault begins a pause: one row of `outbox_pauses`, no entry touched. The verdict
sets its scope (everything, a table, a lane), but never wider than what is known to fail: where requests that began
later were answered, only the table is paused, or the lane. A pause that is due is *probed* with one row; each probe
takes another table, lane and row than the last, in the order of turns. An answer *narrows* the pause to the tables, or
the lanes, that met it; these pauses are due at once, and from then on keep their own time. So a healthy table waits at
most two probe intervals for a sick one (one until another table is probed, and one more if that one met the outage
too), and a real outage stays one pause with one request per interval.

**Suspects.** A row that failed alone may be the cause, or may have met an outage. It becomes a suspect, and probes take
other rows. If one of these succeeds and the suspect fails alone again, it is postponed by itself ("stuck"), and nothing
else waits. A batch that fails just as what paused its lane, after a row of the lane has passed, is split like a refused
one. A suspect that is no longer pending is forgotten.

**Runs of refusals.** When rows of a lane are refused one after another for one cause, and none is accepted in between,
the rows are not at fault: their table is. Ten die, then the lane is paused for an operator, with the
server's message. It is probed at once, and then once per probe interval, each time with another row; no probe makes a
row dead. The first accepted row revives what died in the run, once. `outbox_refused_runs` keeps it across restarts.
A row dies alone if others of its batch were accepted, or if it was refused before. Where every row has other columns,
the run spans all these lanes, and the pause is the table's, for the operation that met it.

**Order.** Every entry with an ordering key stands in that key's line, whatever its operation. An upsert also waits for
an older insert without a key that fills its deciding columns: it may be the same row. Inserts with ids chosen by the
caller stand in lines too, so their lanes send one request at a time: nothing may pass a refused insert that is ahead.

**Shell rows** are read 500 at a time, between requests. While some are unread, an ordered lane sends only entries older
than these: they may belong to its keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from outbox import background, logs
from outbox.clock import Clock
from outbox.entry import Destination
from outbox.errors import OutboxError, UsageError
from outbox.flusher.backoff import UNMATCHED_WAIT_S
from outbox.flusher.context import FlusherContext, Tally
from outbox.flusher.delivery import Delivery
from outbox.flusher.in_flight import Requests
from outbox.flusher.pauses import Pauses
from outbox.flusher.scheduler import Lanes
from outbox.flusher.shell_rows import adopt
from outbox.postgrest.client import Transport, project_of
from outbox.settings import Settings
from outbox.stats import Status
from outbox.store.rows import Lane, Look
from outbox.store.store import Store

logger: logs.Logger = logs.named("outbox.flusher")

# Entries read from a shell, or woken, in one step.
_STEP = 500


class Flusher:
    """Replays the store's entries through a transport until told to stop.

    transport: called before each round for the transport; None: nothing is configured, rows stay pending.
    Its argument is True when a pause is about to be probed: settings may have changed since.
    draw: a source of uniform numbers in [0, 1), for the jitter.
    """

    def __init__(
        self,
        store: Store,
        transport: Callable[[bool], Awaitable[Transport | None]],
        destinations: Callable[[str], Destination],
        *,
        clock: Clock,
        draw: Callable[[], float],
        limits: Settings,
    ) -> None:
        self._context = FlusherContext(store, clock, draw, limits, destinations)
        self._store = store
        self._transport = transport
        self._clock = clock
        self._poll_s = limits.poll_s
        self._repeating = logs.Repeating(clock)
        self.pauses: Pauses = Pauses(self._context)
        self._lanes = Lanes(self._context, self.pauses)
        self.requests: Requests = Requests(self._context, self.pauses, self._request_ended)
        self._ended = asyncio.Event()
        self._ended.set()
        self._seen_change = -1
        self._start_noted = False
        self._stepping = asyncio.Lock()  # held during a step, and by whoever changes what may be under way
        self._idle_since_change = False
        self._hangs = False  # told to end, but has not ended
        self.state: Status = self._context.state
        self.tally: Tally = self._context.tally

    # ------------------------------------------------------------------------------------------ life

    async def load(self) -> None:
        """Read the pauses that an earlier process left, so that a restart neither forgets nor storms."""
        await self.pauses.load()
        await self._lanes.load()
        await self._context.binding.load()
        await self._context.unmatched.load(
            wall_ms=self._clock.now_ms(), steady_ms=self._context.steady_ms(), wait_ms=int(UNMATCHED_WAIT_S * 1000)
        )
        self._context.window.remember(await self._store.window_bytes())

    async def run(self) -> None:
        """Send whatever becomes ready, until `shut_down`. Cancelling it leaves what is under way pending.

        Raises UsageError: it runs already; two would send one entry twice at once.
        """
        if self.state.now.running:
            raise UsageError("the flusher is running already")
        self.state.now = replace(self.state.now, started=True, running=True)
        self._context.heartbeat.turn(running=True)
        self.requests.stopping = False
        self._idle_since_change = False  # the last step of an earlier run may have been cut short
        self._ended.clear()
        try:
            await self._note_start()
            while not self.requests.stopping:
                wait_s = await self._safe_step()
                await self._clock.wait(self._store.writer.committed, wait_s)
            await self.requests.finish()
            with suppress(OutboxError):
                await self.pauses.tell_backlog()
        finally:
            await self.requests.abandon()
            self.state.now = replace(self.state.now, running=False)
            self._context.heartbeat.turn(running=False)
            self._ended.set()
            self.requests.tell()  # a drain that has joined sends by itself from here on

    async def _note_start(self) -> None:
        """Record in the file, once, that this process sends. If that fails, the next step reports it."""
        if not self._start_noted:
            with suppress(OutboxError):
                await self._store.note_sending()
                self._start_noted = True

    async def shut_down(self, grace_s: float) -> None:
        """Let `run` return; requests still in flight after `grace_s` seconds are given up, and their rows stay pending.

        If the file hangs as well, `run` is left running.
        """
        self.requests.stopping = True
        self.wake()
        if await self._ends_within(0.0 if self._hangs else grace_s):
            return
        self.requests.cancel()
        self._hangs = not await self._ends_within(background.LEAST_S)

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Let no request be in flight or start inside the block; afterwards read all that is ready anew.

        Requests in flight at the call end first, at their deadline at the latest.
        """
        async with self._stepping:
            await self.requests.finish()
            try:
                yield
            finally:
                self._lanes.forget_read()
        self.wake()

    def wake(self) -> None:
        """Look at once whether something can be sent."""
        self._store.writer.committed.set()

    async def noted(self) -> None:
        """Return once `tally` counts what the file shows as delivered now."""
        await self._context.noted()

    def try_at_once(self) -> int:
        """Make every pause due now; the count of its failures stays. Returns the turn."""
        since = self.pauses.turn()
        self.pauses.make_due()
        self.requests.end_rest()
        self.wake()
        return since

    async def forget_pauses(self) -> None:
        """End every pause, as if nothing had failed: the settings have changed."""
        self.requests.end_rest()
        await self.pauses.forget()
        self._idle_since_change = False
        self.wake()

    def is_away(self, transport: Transport | None) -> bool:
        """Return whether `transport` leads to another project than the one that the file belongs to."""
        return self._context.binding.is_foreign(transport)

    async def load_project(self) -> None:
        """Read again which project the file belongs to."""
        await self._context.binding.load()

    async def adopt(self) -> str | None:
        """Let the entries go to the project that the settings name, and return the one that they belonged to."""
        was = await self._context.binding.forget()
        await self.pauses.end_other_project()
        self.wake()
        return was

    def _request_ended(self) -> None:
        self._idle_since_change = False
        self.wake()

    async def _safe_step(self) -> float:
        """Take a step; after one that fails rest for a poll. Returns the seconds until the next look."""
        try:
            async with self._stepping:
                wait_s = await self._step()
                await self.pauses.tell_backlog()
        except Exception as error:  # the file may be locked or the disk full: the next step may work
            self._context.failed(error)
            ours = isinstance(error, OutboxError)  # whose sentence says it all
            words = str(error) if ours else type(error).__name__
            if (news := self._repeating.news("failed", words)) is not None:
                facts = {"error": words, **news}
                logger.error("flusher step failed", exc_info=None if ours else error, extra=facts)  # noqa: TRY400
            self.requests.rest(self._poll_s)  # puts continue, and each would wake us
            self._idle_since_change = False
            return self._poll_s
        self._context.heartbeat.looked()
        self._repeating.over("failed")
        return wait_s

    async def _step(self) -> float:
        """Start every request that can be started, and return the seconds until the next look."""
        self._store.writer.committed.clear()
        if (rest_s := self.requests.rest_s) > 0:
            return rest_s
        if (throttle_s := self.requests.throttle_s) > 0:
            return throttle_s  # the next commit wakes us
        transport = await self._transport(self.pauses.settings_may_help())
        if transport is None:
            return self._poll_s
        if await self._is_away(transport):
            return self._next_look_s()
        look = await self._store.look_for_work()
        if look.change != self._seen_change:
            self._idle_since_change = False
            self._seen_change = look.change
        await self._context.unmatched.hurry(self._context.steady_ms())
        await self._wake_due(look)
        if not self._idle_since_change or self.pauses.may_probe():
            self._idle_since_change = True  # unless a request ends while the store is read
            self._lanes.unread_from = None
            if look.unread:
                self._lanes.unread_from = await adopt(self._context, _STEP)
                self._lanes.rewind()
            if await self._start_requests(transport) or self.requests or not self._lanes.ready.whole:
                self._idle_since_change = False
            none_started = not self._lanes.ready.whole and not self.requests  # of those that it looked at
            if none_started or self._lanes.unread_from is not None:
                self._idle_since_change = False
                return 0.0
        return self._next_look_s(look.due_ms)

    async def _is_away(self, transport: Transport) -> bool:
        """Whether `transport` leads to another project than the file's: nothing is sent there, and a pause says so."""
        binding, named = self._context.binding, project_of(transport)
        if binding.belongs_to is None or named is None or not self.is_away(transport):
            await self.pauses.end_other_project()
            return False
        await self.pauses.pause_other_project(binding.belongs_to, named)
        self.requests.tell()
        return True

    async def _wake_due(self, look: Look) -> None:
        """Make ready the postponed entries whose time has come, and those that a clock set back since has buried."""
        if look.due_ms is None or look.last_due_ms is None:
            return
        now_ms = self._context.steady_ms()
        if look.due_ms <= now_ms:
            await self._store.wake_due(now_ms, _STEP)
        latest_ms = now_ms + int(self._context.longest_wait_s * 1000)
        if look.last_due_ms > latest_ms:
            await self._store.wake_too_late(latest_ms, _STEP)

    async def _start_requests(self, transport: Transport) -> bool:
        """Start what may start, and return whether anything did."""
        lanes = await self._lanes.look(idle=not self.requests)
        await self._store.reread_unknown(_STEP)  # what it commits wakes the next step, which reads them
        started = False
        for lane in self._lanes.in_turn(lanes, self._has_room):
            batch = await self._lanes.next_batch(lane)
            if batch is None:
                self._lanes.ready.empty(lane)
                continue
            if not self._may_go(transport):
                self._lanes.traffic(lane).rewind = True
                break
            delivery = Delivery(self._context, self.pauses, self._lanes, transport, lane)
            self.requests.start(delivery.run(batch), self._lanes.shared.shares(lane, batch))
            self._lanes.serve(lane, batch)
            started = True
            if self.requests.throttle_s > 0:
                break
        return started

    def _has_room(self, lane: Lane) -> bool:
        alone = not self.requests.busy(lane.spec.destination)
        return self.requests.may_start(alone=alone, probe=bool(self.pauses.over(lane)))

    def _may_go(self, transport: Transport) -> bool:
        """Whether sending is still right: a stop, or a salvage that set a project, may have come during the read."""
        return not self.requests.stopping and not self.is_away(transport)

    def _next_look_s(self, due_ms: int | None = None) -> float:
        waits_s = [self._poll_s, *self.pauses.waits_s()]
        if due_ms is not None:  # an earlier one that came meanwhile was a commit, which wakes us
            waits_s.append(max(due_ms - self._context.steady_ms(), 0) / 1000)
        return min(waits_s)
