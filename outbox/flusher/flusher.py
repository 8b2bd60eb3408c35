"""When to look, what may start, and the life of the coroutine that does it.

Theory of operation
-------------------
A *lane* is what may share a request: one table, one operation, its conflict columns, its set of columns. A step reads
which lanes have something ready (2 index steps a lane, whatever the backlog), starts the requests that may start, and
rests until a commit, an answered request, the end of a pause, or a poll. One turn is one request. What is on its way is
known in memory only: a crash leaves it pending, and the idempotency key makes the second sending harmless.

**Turns.** The table that has waited longest comes first, within it the lane that has waited longest. With t tables and
at most l lanes in one of them, a lane has its turn after at most t x l requests of others, however much these have.
An unordered lane serves four sources in rotation: what is *new*, the *parts* of refused batches, what was *refused
before*, and *suspects*; a new row at the head of its lane so goes within four of the lane's turns, whatever hundreds of
orphans or poison rows do. An ordered lane has one request under way, and sends a batch's parts in their order.
`requests_in_flight` bounds what is under way; one request more is for a table that has none, so that a table which does
not answer cannot hold all places; nor can probes, of which there are at most `requests_in_flight`.

**Many lanes.** Of more than 64 ready lanes a step looks at the first 64 of a queue (`ready_lanes`). All are read again
when a sixteenth of them had a turn, or after a poll; what is put meanwhile is found by its place. Inserts of many sets
of columns share a request, where that means the same (`shared_requests`).

**Bytes.** All requests share one link: `window` bounds what they have on the way together, and each carries its share
of that. A lane's own limit is what its server takes. Both are halved by failure and grow by answers.

**Refused batches.** A statement that is refused is rolled back whole. Its halves are parts, each of which takes a turn
of its own; what is left alone gets the verdict. After eight refused rows the largest parts come first, so that a run of
good rows does not wait for hundreds of bad ones. A missing parent that the server names (23503) takes all its children
out of the batch at once; they wait for it, and travel apart from what was never refused.

**Pauses.** A failure that is nobody's row begins a pause: one row of `outbox_pauses`, and no entry is touched. Its
scope is what the verdict says (everything, a table, a lane), but no wider than what is known to fail: where requests
that began later were answered, it is the table's, or the lane's. A pause is *probed* with one row when it is due, and
each probe takes another table, lane and row than the last, by the order of turns. An answer there *narrows* the pause
to the tables, or the lanes, that met it; these are due at once, and from then on keep their own time. So a healthy
table waits at most two probe intervals for a sick one (one until a probe of another table, and one more if that one met
the outage too), and a real outage stays one pause with one request for each interval.

**Suspects.** A row that failed alone may be the cause or stand in an outage. It is suspected, and probes take others. A
neighbour's success proves it: failing alone again it is postponed by itself ("stuck"), and nobody else waits. A batch
that fails just as what paused its lane, after a row of the lane has passed, is split like a refused one. A suspect that
is not pending any more is forgotten.

**Runs of refusals.** Rows that are refused one after another with one cause, and none of their lane accepted between,
are not at fault: their table is (`refusal_runs`). Ten die, then the lane is paused for an operator with the server's
words. It is probed at once, and then once in a probe interval, with another row each time; nothing dies of these. The
first row that is accepted brings back what died of the run, once. `outbox_refused_runs` keeps it across restarts. A row
whose batch had others that were accepted dies alone, and so does one that was refused before. Where every row has other
columns, the run is that of all these lanes, and the pause the table's.

**Order.** What has a key stands in its line, whatever its operation. An upsert also waits for an older insert without
one that fills its deciding columns: it may be the same row. Chosen ids have lines, and so one request at a time in each
lane: an insert that is refused must not be passed by what comes behind it.

**Shell rows** are read 500 at a time, between requests. While some are left, of an ordered lane only what is older than
they are may go: they may belong to its keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress

from outbox import background, logs
from outbox.clock import Clock
from outbox.entry import Destination
from outbox.errors import OutboxError, UsageError
from outbox.flusher.context import FlusherContext, Tally
from outbox.flusher.delivery import Delivery
from outbox.flusher.in_flight import Requests
from outbox.flusher.orphans import PATIENCE_S
from outbox.flusher.pauses import Pauses
from outbox.flusher.scheduler import Lanes
from outbox.flusher.scopes import EVERYTHING, held_words, sentence
from outbox.flusher.shell_rows import adopt
from outbox.postgrest.client import Transport, project_of
from outbox.settings import Settings
from outbox.stats import FlusherState
from outbox.store.rows import Lane, Sendable
from outbox.store.store import Store

logger: logs.Logger = logs.named("outbox.flusher")

# Entries read from a shell, or woken, in one step.
_STEP = 500


class Flusher:
    """Replays the store's entries through a transport until told to stop.

    transport: asked before each round for what to send through; None: nothing is configured, rows stay pending.
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
        self._destinations = destinations
        self._clock = clock
        self._poll_s = limits.poll_s
        self._repeating = logs.Repeating(clock)
        self._pauses = Pauses(self._context)
        self._lanes = Lanes(self._context, self._pauses)
        self._requests = Requests(self._context, self._pauses, self._request_ended)
        self._ended = asyncio.Event()
        self._ended.set()
        self._seen_change = -1
        self._start_noted = False
        self._stepping = asyncio.Lock()  # held during a step, and by whoever changes what may be under way
        self._idle_since_change = False
        self._hangs = False  # told to end, it has not
        self.state: FlusherState = self._context.state
        self.tally: Tally = self._context.tally

    # ------------------------------------------------------------------------------------------ life

    async def load(self) -> None:
        """Read the pauses that an earlier process left, so that a restart neither forgets nor storms."""
        await self._pauses.load()
        await self._lanes.load()
        await self._context.home.load()
        await self._context.unmatched.load(
            wall_ms=self._clock.now_ms(), steady_ms=self._context.steady_ms(), patience_ms=int(PATIENCE_S * 1000)
        )
        self._context.window.remember(await self._store.window_bytes())

    async def run(self) -> None:
        """Send whatever becomes ready, until `shut_down`. Cancelling it leaves what is under way pending.

        Raises UsageError: it runs already; two would send one entry twice at once.
        """
        if self.state.running:
            raise UsageError("the flusher is running already")
        self.state.started = self.state.running = True
        self._context.pulse.turn(running=True)
        self._requests.stopping = False
        self._idle_since_change = False  # the last step of an earlier run may have been cut short
        self._ended.clear()
        try:
            await self._note_start()
            while not self._requests.stopping:
                wait_s = await self._safe_step()
                await self._clock.wait(self._store.writer.committed, wait_s)
            await self._requests.finish()
            with suppress(OutboxError):
                await self._pauses.tell_backlog()
        finally:
            await self._requests.abandon()
            self.state.running = False
            self._context.pulse.turn(running=False)
            self._ended.set()
            self._requests.tell()  # a drain that has joined sends by itself from here on

    async def _note_start(self) -> None:
        """Keep in the file, once, that this process sends. Where it cannot be written, the next step says so."""
        if not self._start_noted:
            with suppress(OutboxError):
                await self._store.note_sending()
                self._start_noted = True

    async def shut_down(self, grace_s: float) -> None:
        """Let `run` return; what is still under way after `grace_s` seconds is given up, and stays pending.

        Where the file hangs as well, `run` is left as it is.
        """
        self._requests.stopping = True
        self.wake()
        if await self._ends_within(0.0 if self._hangs else grace_s):
            return
        self._requests.cancel()
        self._hangs = not await self._ends_within(background.LEAST_S)

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Nothing is under way in the block and nothing starts; afterwards all that is ready is read anew.

        What is under way when it is called ends first, at its deadline at the latest.
        """
        async with self._stepping:
            await self._requests.finish()
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

    def watch(self) -> AbstractContextManager[asyncio.Event]:
        """Give an event that is set whenever a request has ended, or none can start."""
        return self._requests.watch()

    def tell(self) -> None:
        """Wake those that watch."""
        self._requests.tell()

    def try_at_once(self) -> int:
        """Make every pause due now; the count of its failures stays. Returns the turn, for `held_by`."""
        since = self._pauses.turn()
        self._pauses.make_due()
        self._requests.end_rest()
        self.wake()
        return since

    def try_untried(self, since: int) -> None:
        """Make due what began meanwhile with the failure of a request from before turn `since`: it was no try."""
        if self._pauses.make_untried_due(since):
            self.wake()

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._requests)

    def held_by(self, ways: Sendable, since: int) -> str | None:
        """Return why nothing in `ways` goes on before an operator acts, as found out since turn `since`.

        None: something may go on by itself, or that is not known yet.
        """
        if self._requests:
            return None
        found = self._pauses.for_operators(since)
        if (over_all := found.get(EVERYTHING)) is not None:
            if self._pauses.try_elsewhere(ways.lanes):
                self.wake()
                return None
            return sentence("everything", over_all)
        if ways.lanes and not found:
            return None
        held = [(lane, next((key for key in self._pauses.over(lane) if key in found), None)) for lane in ways.lanes]
        if ways.others or any(key is None for _, key in held):
            return None
        if not held:  # of what is pending, each stands behind another one of its key, and none of these is pending
            return "what is left waits behind dead letters of its keys (OUTBOX_STRICT_ORDER)"
        told = [sentence(held_words(lane, key[0]), found[key]) for lane, key in held if key is not None]
        return "; ".join(dict.fromkeys(told))

    async def forget_pauses(self) -> None:
        """End every pause, as if nothing had failed: the settings have changed."""
        self._requests.end_rest()
        await self._pauses.forget()
        self._idle_since_change = False
        self.wake()

    def is_away(self, transport: Transport | None) -> bool:
        """Return whether `transport` leads to another project than the one that the file belongs to."""
        return self._context.home.is_foreign(transport)

    async def load_project(self) -> None:
        """Read again which project the file belongs to."""
        await self._context.home.load()

    async def adopt(self) -> str | None:
        """Let the entries go to the project that the settings name, and return the one that they belonged to."""
        was = await self._context.home.forget()
        await self._pauses.end_other_project()
        self.wake()
        return was

    def _request_ended(self) -> None:
        self._idle_since_change = False
        self.wake()

    # ------------------------------------------------------------------------------------------ one step

    async def _safe_step(self) -> float:
        """Take a step; after one that fails rest for a poll. Returns the seconds until the next look."""
        try:
            async with self._stepping:
                wait_s = await self._step()
                await self._pauses.tell_backlog()
        except Exception as error:  # the file may be locked or the disk full: the next step may work
            self._context.failed(error)
            ours = isinstance(error, OutboxError)  # whose sentence says it all
            words = str(error) if ours else type(error).__name__
            if (news := self._repeating.news("failed", words)) is not None:
                facts = {"error": words, **news}
                logger.error("flusher step failed", exc_info=None if ours else error, extra=facts)  # noqa: TRY400
            self._requests.rest(self._poll_s)  # puts go on, and each would wake us
            self._idle_since_change = False
            return self._poll_s
        self._context.pulse.looked()
        self._repeating.over("failed")
        return wait_s

    async def _step(self) -> float:
        """Start every request that can be started, and return the seconds until the next look."""
        self._store.writer.committed.clear()
        if (rest_s := self._requests.rest_s) > 0:
            return rest_s
        if (throttle_s := self._requests.throttle_s) > 0:
            return throttle_s  # the next commit wakes us
        transport = await self._transport(self._pauses.settings_may_help())
        if transport is None:
            return self._poll_s
        if await self._is_away(transport):
            return self._next_look_s()
        change, due_ms = await self._store.changes_and_due()
        if change != self._seen_change:
            self._idle_since_change = False
            self._seen_change = change
        await self._context.unmatched.hurry(self._context.steady_ms())
        await self._wake_due(due_ms)
        if not self._idle_since_change or self._pauses.may_probe():
            self._idle_since_change = True  # unless a request ends while the store is read
            read, self._lanes.unread_from = await adopt(self._context, self._destinations, _STEP)
            if read:
                self._lanes.rewind()
            if await self._start_requests(transport) or self._requests or not self._lanes.ready.whole:
                self._idle_since_change = False
            none_started = not self._lanes.ready.whole and not self._requests  # of those that it looked at
            if none_started or self._lanes.unread_from is not None:
                self._idle_since_change = False
                return 0.0
        return self._next_look_s(due_ms)

    async def _is_away(self, transport: Transport) -> bool:
        """Whether `transport` leads to another project than the file's: nothing is sent there, and a pause says so."""
        home, named = self._context.home, project_of(transport)
        if home.belongs_to is None or named is None or not self.is_away(transport):
            await self._pauses.end_other_project()
            return False
        await self._pauses.pause_other_project(home.belongs_to, named)
        self._requests.tell()
        return True

    async def _wake_due(self, due_ms: int | None) -> None:
        """Make ready what has waited long enough for something of its own. due_ms: when the first of them is due."""
        if due_ms is None:
            return
        now_ms = self._context.steady_ms()
        if due_ms > now_ms + self._context.longest_wait_s * 1000:  # written by a clock that was set back since
            now_ms = due_ms
        if due_ms <= now_ms:
            await self._store.wake_due(now_ms, _STEP)

    async def _start_requests(self, transport: Transport) -> bool:
        """Start what may start, and return whether there was any of it."""
        lanes = await self._lanes.look(idle=not self._requests)
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
            delivery = Delivery(self._context, self._pauses, self._lanes, transport, lane)
            self._requests.start(delivery.run(batch), self._lanes.shared.shares(lane, batch))
            self._lanes.serve(lane, batch)
            started = True
            if self._requests.throttle_s > 0:
                break
        return started

    def _has_room(self, lane: Lane) -> bool:
        """Whether a request of `lane` may start."""
        alone = not self._requests.busy(lane.spec.destination)
        return self._requests.may_start(alone=alone, probe=bool(self._pauses.over(lane)))

    def _may_go(self, transport: Transport) -> bool:
        """Whether nothing has changed while the store was read: an end, or a salvage that has brought a project."""
        return not self._requests.stopping and not self.is_away(transport)

    def _next_look_s(self, due_ms: int | None = None) -> float:
        waits_s = [self._poll_s, *self._pauses.waits_s()]
        if due_ms is not None:  # an earlier one that came meanwhile was a commit, which wakes us
            waits_s.append(max(due_ms - self._context.steady_ms(), 0) / 1000)
        return min(waits_s)
