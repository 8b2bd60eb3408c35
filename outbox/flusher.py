"""Floor 4 · flusher. Batch, send, judge, settle: the background coroutine that empties the outbox.

What is on its way is known in memory only. A crash leaves it pending, and the idempotency key makes the second
sending harmless. An outage is a pause: one row of its own, never a change to the entries that wait behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import Any, assert_never

from outbox.clock import Clock
from outbox.encoding import identifier
from outbox.entry import Destination, Operation, Shape, State, digest
from outbox.errors import InvalidEntry, UsageError
from outbox.policy import backoff, batching
from outbox.policy.patience import gives_up
from outbox.policy.shaping import intend
from outbox.policy.verdicts import (
    Delivered,
    Failure,
    Pause,
    Refusal,
    Reject,
    Reply,
    Retry,
    Scope,
    Split,
    Verdict,
    judge,
)
from outbox.store.store import Adopted, Lane, Outgoing, Store, StoredPause, Unread
from outbox.transport import Transport, build

logger = logging.getLogger("outbox.flusher")

# Entries read from a shell, or woken, in one step.
_STEP = 500
# While something else on the same project makes it fail, a pause is looked at with one row.
_PROBE_ROWS = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that the flusher needs; units as in `Settings`."""

    batch_rows: int = 500
    batch_bytes: int = 1_000_000
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 300.0
    pause_probe_s: float = 60.0
    request_deadline_s: float = 30.0
    requests_in_flight: int = 4
    poll_s: float = 1.0
    orphan_attempts: int = 10
    orphan_after_s: float = 86_400.0
    strict_order: bool = False


@dataclass(slots=True)
class FlusherState:
    """What `stats()` shows of the flusher."""

    started: bool = False
    running: bool = False
    last_error: str | None = None
    last_delivery_ms: int | None = None


@dataclass(slots=True)
class _Paused:
    """A pause as this process counts it: `due_s` on the monotonic clock, which no clock setting moves.

    turn: its place among the flusher's requests; a clock may stand still between the two.
    """

    stored: StoredPause
    turn: int
    due_s: float
    probing: bool = False
    reread: bool = False  # the settings were read again since it is due


@dataclass(slots=True)
class _Traffic:
    """What is under way in a lane. after_seq: how far an unordered lane has been handed out."""

    lane: Lane
    limit: int  # rows in the next request
    under_way: int = 0
    after_seq: int = 0
    rewind: bool = False  # something behind after_seq is ready again: end what is under way, then start over
    # Entries that failed alone in a way that may be theirs or an outage's.  True: others have passed since.
    suspects: dict[int, bool] = field(default_factory=dict)


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
        limits: Limits,
    ) -> None:
        self._store = store
        self._transport = transport
        self._destinations = destinations
        self._clock = clock
        self._draw = draw
        self._limits = limits
        self._pauses: dict[tuple[Scope, str], _Paused] = {}
        self._lanes: dict[int, _Traffic] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._turns = count(1)
        self._broken = 0  # requests in a row that ended in an error of ours
        self._rest_until_s = float("-inf")
        self._started_ms, self._started_s = clock.now_ms(), clock.monotonic_s()
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._seen_change = -1
        self._idle_since_change = False
        self._watchers: set[asyncio.Event] = set()
        self.state = FlusherState()
        self.delivered: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------ life

    async def load(self) -> None:
        """Read the pauses that an earlier process left, so that a restart neither forgets nor storms."""
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        for stored in await self._store.pauses():
            wait_s = backoff.remaining_s(stored.next_try_at_ms, now_ms=now_ms, cap_s=self._longest_wait_s)
            self._pauses[Scope(stored.scope), stored.subject] = _Paused(stored, next(self._turns), now_s + wait_s)

    @property
    def _longest_wait_s(self) -> float:
        """The longest that anything was ever made to wait: a tenth and a half are the jitter of `_wait_s`."""
        return max(self._limits.backoff_cap_s * 1.1, self._limits.pause_probe_s * 1.5)

    def _now_ms(self) -> int:
        """Unix time at the start, counted on by the monotonic clock: what an entry waits by, whatever is set since."""
        return self._started_ms + int((self._clock.monotonic_s() - self._started_s) * 1000)

    async def run(self) -> None:
        """Send whatever becomes ready, until `shut_down`. Cancelling it leaves what is under way pending.

        Raises UsageError: it runs already; two would send one entry twice at once.
        """
        if self.state.running:
            raise UsageError("the flusher is running already")
        self.state.started = self.state.running = True
        self._stopping = False
        self._ended.clear()
        try:
            while not self._stopping:
                try:
                    wait_s = await self._step()
                except Exception as error:  # the file may be locked or the disk full: the next step may work
                    self.state.last_error = f"{type(error).__name__}: {error}"
                    logger.exception("flusher step failed")
                    wait_s = self._limits.poll_s
                    self._rest_until_s = self._clock.monotonic_s() + wait_s  # puts go on, and each would wake us
                await self._clock.wait(self._store.committed, wait_s)
            await self._finish()
        finally:
            await self._abandon()
            self.state.running = False
            self._ended.set()

    async def shut_down(self, grace_s: float) -> None:
        """Let `run` return; what is still under way after `grace_s` seconds is given up, and stays pending."""
        self._stopping = True
        self.nudge()
        if self._ended.is_set():
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._ended.wait()
        except TimeoutError:
            for request in self._requests:
                request.cancel()
            await self._ended.wait()

    def nudge(self) -> None:
        """Look at once whether something can be sent."""
        self._store.committed.set()

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever a request has ended."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)

    def try_at_once(self) -> None:
        """Make every pause due now; the count of its failures stays."""
        for pause in self._pauses.values():
            pause.due_s, pause.reread = self._clock.monotonic_s(), False
        self._rest_until_s = float("-inf")
        self.nudge()

    async def forget_pauses(self) -> None:
        """End every pause, as if nothing had failed: the settings have changed."""
        keys = [(scope.value, subject) for scope, subject in self._pauses]
        self._pauses.clear()
        self._rest_until_s = float("-inf")
        await self._store.end_pauses(keys)
        self.nudge()

    async def _finish(self) -> None:
        while self._requests:
            await asyncio.wait(self._requests)

    async def _abandon(self) -> None:
        self._stopping = True
        for request in self._requests:
            request.cancel()
        if self._requests:
            await asyncio.gather(*self._requests, return_exceptions=True)
        self._requests.clear()

    # ------------------------------------------------------------------------------------------ one step

    async def _step(self) -> float:
        """Start every request that can be started, and return the seconds until the next look."""
        self._store.committed.clear()
        rest_s = self._rest_until_s - self._clock.monotonic_s()
        if rest_s > 0:
            return rest_s
        transport = await self._transport(self._settings_may_help())
        if transport is None:
            return self._limits.poll_s
        change = await self._store.changes()
        if change != self._seen_change:
            self._idle_since_change = False
            self._seen_change = change
        await self._wake_due()
        if not self._idle_since_change or self._pause_is_due():
            self._idle_since_change = True  # unless a request ends while the store is read
            await self._read_shell()
            if await self._start_requests(transport) or self._requests:
                self._idle_since_change = False
        return await self._next_look_s()

    async def _next_look_s(self) -> float:
        now_s = self._clock.monotonic_s()
        waits = [self._limits.poll_s]
        # One that is due already was tried in this step, or has nothing to send: the next commit wakes us.
        waits += [pause.due_s - now_s for pause in self._pauses.values() if pause.due_s > now_s]
        if (due_ms := await self._store.next_due_ms()) is not None:
            waits.append(max(due_ms - self._now_ms(), 0) / 1000)
        return min(waits)

    async def _wake_due(self) -> None:
        now_ms = self._now_ms()
        due_ms = await self._store.next_due_ms()
        if due_ms is None:
            return
        if due_ms > now_ms + self._longest_wait_s * 1000:  # written by a clock that was set back since
            now_ms = due_ms
        if due_ms <= now_ms:
            await self._store.wake_due(now_ms, _STEP)
            self._rewind()

    def _rewind(self) -> None:
        """Something may be ready behind what the lanes have handed out."""
        for traffic in self._lanes.values():
            traffic.rewind = True

    def _pause_is_due(self) -> bool:
        now_s = self._clock.monotonic_s()
        return any(pause.due_s <= now_s and not pause.probing for pause in self._pauses.values())

    def _settings_may_help(self) -> bool:
        """Return True once for each pause that has become due: its probe deserves fresh settings."""
        now_s = self._clock.monotonic_s()
        due = [pause for pause in self._pauses.values() if pause.due_s <= now_s and not pause.reread]
        for pause in due:
            pause.reread = True
        return bool(due)

    async def _read_shell(self) -> None:
        """Complete what a plain INSERT from a shell left open: lane, ordering key and digest.

        One step's worth of them; committing it makes the next step follow at once.
        """
        unread = await self._store.unread(_STEP)
        if not unread:
            return
        adopted = []
        for entry in unread:
            try:
                adopted.append(understood(entry, self._destinations(entry.destination)))
            except (ValueError, RecursionError) as error:  # InvalidEntry; JSON that SQLite reads and Python does not
                logger.warning(
                    "entry from a shell cannot be sent", extra={"id": entry.id, "error": type(error).__name__}
                )
                refusal = Refusal(None, "INVALID", str(error).replace("; nothing was written", ""))
                await self._store.settle([entry.seq], State.DEAD, refusal=refusal)
        await self._store.adopt(adopted)
        self._rewind()

    async def _start_requests(self, transport: Transport) -> int:
        lanes = await self._store.ready_lanes()
        await self._end_empty_pauses(lanes)
        started = 0
        for lane in self._in_turn(lanes):
            batch = await self._next_batch(lane)
            if batch:
                self._start(self._deliver(transport, lane, batch), lane, batch)
                started += 1
        return started

    def _in_turn(self, lanes: Sequence[Lane]) -> Iterator[Lane]:
        """Give the lanes that may start a request: a long backlog of one does not shut out the others."""
        waiting = list(lanes)
        while waiting:
            # Among equals the oldest entry, but for one that may be what a pause is about.
            waiting.sort(key=lambda lane: (self._traffic(lane).under_way, bool(self._traffic(lane).suspects)))
            for lane in list(waiting):
                if self._stopping or len(self._requests) >= self._limits.requests_in_flight:
                    return
                before = self._traffic(lane).under_way
                yield lane
                if self._traffic(lane).under_way <= before:
                    waiting.remove(lane)

    def _traffic(self, lane: Lane) -> _Traffic:
        return self._lanes.setdefault(lane.number, _Traffic(lane, limit=self._limits.batch_rows))

    async def _next_batch(self, lane: Lane) -> list[Outgoing]:
        """Return what `lane` may send now: nothing while it is paused, one row while a pause is probed."""
        traffic = self._traffic(lane)
        if not traffic.under_way:
            traffic.after_seq, traffic.rewind = 0, False
        elif lane.shape.ordered or traffic.rewind:
            return []
        pauses = self._pauses_of(lane)
        now_s = self._clock.monotonic_s()
        if any(pause.probing or pause.due_s > now_s for pause in pauses):
            return []
        rows = 1 if lane.shape.operation is Operation.UPDATE else traffic.limit
        limit = _PROBE_ROWS if pauses else rows
        look = max(limit, self._limits.batch_rows) if traffic.suspects else limit
        ready = await self._store.ready(lane, after_seq=traffic.after_seq, limit=look)
        if self._stopping or self._pauses_of(lane) != pauses:
            return []  # it was paused while the store was read
        batch = batching.take(
            _unsuspected(ready, traffic.suspects) if pauses else _like_the_first(ready, traffic.suspects),
            size=lambda entry: sent_bytes(lane.shape, entry),
            max_rows=limit,
            max_bytes=self._limits.batch_bytes,
        )
        if batch:
            for pause in pauses:
                pause.probing = True
        return batch

    def _pauses_of(self, lane: Lane) -> list[_Paused]:
        return [self._pauses[key] for key in _scopes(lane) if key in self._pauses]

    def _start(self, work: Coroutine[Any, Any, None], lane: Lane, batch: Sequence[Outgoing]) -> None:
        traffic = self._lanes[lane.number]
        probed = self._pauses_of(lane)
        traffic.under_way += 1
        traffic.after_seq = max(traffic.after_seq, batch[-1].seq)
        task = asyncio.create_task(work, name=f"outbox-request-{lane.shape.destination}")
        self._requests.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._requests.discard(task)
            traffic.under_way -= 1
            self._idle_since_change = False
            for pause in probed:
                pause.probing = False
            self._rest_after(asyncio.CancelledError() if task.cancelled() else task.exception(), traffic)
            self.nudge()
            for watcher in self._watchers:
                watcher.set()

        task.add_done_callback(ended)

    def _rest_after(self, error: BaseException | None, traffic: _Traffic) -> None:
        """What a broken request carried is still pending and is sent again with the same keys, but not in a loop.

        A full disk, say, takes no verdict, and the server answers all the while.
        """
        if error is None:
            self._broken = 0
        if error is None or self._stopping:
            return
        self._broken += 1
        limits = self._limits
        wait_s = backoff.delay_s(
            self._broken, base_s=limits.backoff_base_s, cap_s=limits.backoff_cap_s, draw=self._draw()
        )
        self._rest_until_s = self._clock.monotonic_s() + wait_s
        traffic.rewind = True
        self.state.last_error = f"{type(error).__name__}: {error}"
        logger.error("request failed", exc_info=error)

    # ------------------------------------------------------------------------------------------ one batch

    async def _deliver(self, transport: Transport, lane: Lane, batch: Sequence[Outgoing]) -> None:
        """Send `batch`, halving it as long as one of its rows makes the server refuse all of them."""
        stack: list[Sequence[Outgoing]] = [await self._intact(batch, lane)]
        while stack:
            entries = stack.pop()
            if entries and not await self._deliver_once(transport, lane, entries, stack):
                self._lanes[lane.number].rewind = True
                return

    async def _intact(self, batch: Sequence[Outgoing], lane: Lane) -> list[Outgoing]:
        """Return the entries that are still what was put; a changed one is refused here, and kept."""
        good = [entry for entry in batch if entry.digest == sent_digest(lane.shape, entry)]
        if len(good) < len(batch):
            bad = [entry for entry in batch if entry.digest != sent_digest(lane.shape, entry)]
            refusal = Refusal(None, "DIGEST", "the stored entry is not what was put; it was not sent")
            logger.error("stored entries were changed", extra={"ids": [entry.id for entry in bad]})
            await self._store.settle([entry.seq for entry in bad], State.DEAD, refusal=refusal)
        return good

    async def _deliver_once(
        self, transport: Transport, lane: Lane, entries: Sequence[Outgoing], stack: list[Sequence[Outgoing]]
    ) -> bool:
        """Send one request and write its verdict; False: the rest of the batch must wait."""
        sent, superseded = self._to_send(lane.shape, entries)
        request = build(lane.shape, sent)
        turn = next(self._turns)
        outcome = await transport.send(request, deadline_s=self._limits.request_deadline_s)
        own = f"({lane.shape.on_conflict})=({sent[0].id})" if len(sent) == 1 else None
        verdict = judge(lane.shape.operation, len(sent), outcome, own=own)
        await self._learn(lane, entries, verdict)
        match verdict:
            case Delivered():
                await self._delivered(lane, entries)
            case Split():
                logger.info("batch refused, halving", extra=_facts(lane, verdict.refusal, rows=len(sent)))
                if verdict.shrink:
                    self._shrink(lane, sent)
                first, second = batching.halves(entries)
                stack += [second, first]
            case Reject():
                await self._rejected(lane, sent[0], verdict.refusal)
                if self._limits.strict_order:
                    stack[:] = [_not_behind(sent[0], waiting) for waiting in stack]
                stack.append(superseded)  # their winner is dead: they are what the destination gets
            case Retry():
                if await self._is_orphaned(entries[0]):
                    gone = f"{verdict.refusal.message} (its parent never came: gave up)"
                    await self._rejected(lane, entries[0], replace(verdict.refusal, message=gone))
                else:
                    await self._postponed(lane, entries, verdict.refusal, event="postponed")
                return not lane.shape.ordered
            case Pause():
                if verdict.shrink and len(sent) == 1 and self._is_stuck(lane, entries):
                    hint = verdict.refusal.hint or "stuck: it fails alone, and others pass it"
                    await self._postponed(lane, entries, replace(verdict.refusal, hint=hint), event="stuck")
                    return not lane.shape.ordered
                await self._paused(lane, sent, verdict, outcome, turn)
                return False
            case _:
                assert_never(verdict)
        return True

    def _to_send(self, shape: Shape, entries: Sequence[Outgoing]) -> tuple[Sequence[Outgoing], Sequence[Outgoing]]:
        if shape.operation is not Operation.UPSERT:
            return entries, ()
        columns = tuple(shape.on_conflict.split(","))
        return batching.last_wins(entries, target=lambda entry: conflict_values(entry.payload, columns))

    async def _delivered(self, lane: Lane, entries: Sequence[Outgoing]) -> None:
        await self._store.settle([entry.seq for entry in entries], State.DELIVERED)
        self.delivered[lane.shape.destination] += len(entries)
        self.state.last_delivery_ms = self._clock.now_ms()
        traffic = self._lanes[lane.number]
        traffic.limit = batching.next_limit(
            traffic.limit, sent=len(entries), succeeded=True, max_rows=self._limits.batch_rows
        )

    async def _rejected(self, lane: Lane, entry: Outgoing, refusal: Refusal) -> None:
        logger.warning("entry refused", extra=_facts(lane, refusal, id=entry.id))
        await self._store.settle([entry.seq], State.DEAD, refusal=refusal, attempts=1, batch_rows=1)

    async def _is_orphaned(self, entry: Outgoing) -> bool:
        """Whether nobody is left who could bring the row that `entry` refers to, and it has waited long enough."""
        oldest = await self._store.oldest_pending_seq()
        return gives_up(
            entry.attempts + 1,
            since_ms=entry.refused_since_ms,
            now_ms=self._clock.now_ms(),
            earlier_pending=oldest is not None and oldest < entry.seq,
            limit=self._limits.orphan_attempts,
            after_s=self._limits.orphan_after_s,
        )

    async def _postponed(self, lane: Lane, entries: Sequence[Outgoing], refusal: Refusal, *, event: str) -> None:
        """Let what travelled as one row wait: of each key its first entry, behind which the others stand in line."""
        heads = list({entry.key or entry.id: entry for entry in reversed(entries)}.values())
        wait_s = backoff.delay_s(
            max(entry.attempts for entry in heads) + 1,
            base_s=self._limits.backoff_base_s,
            cap_s=self._limits.backoff_cap_s,
            draw=self._draw(),
        )
        facts = _facts(lane, refusal, ids=[entry.id for entry in heads], wait_s=round(wait_s, 3))
        logger.info("entry postponed", extra=facts)
        until_ms = self._now_ms() + int(wait_s * 1000) + 1
        await self._store.postpone(
            [entry.seq for entry in heads],
            until_ms,
            refusal=refusal,
            attempts=1,
            event=event,
            batch_rows=len(entries),
        )

    # An entry that fails alone with a timeout, say, may be the cause or may stand in an outage.  It is suspected, and
    # the next probe is another one.  That one's success proves it: failing alone again, it is postponed by itself.

    def _is_stuck(self, lane: Lane, entries: Sequence[Outgoing]) -> bool:
        return any(self._lanes[lane.number].suspects.get(entry.seq, False) for entry in entries)

    async def _learn(self, lane: Lane, entries: Sequence[Outgoing], verdict: Verdict) -> None:
        """An answer about rows ends the pauses of its lane; one about the destination those of everything."""
        over = [key for key in _scopes(lane) if key in self._pauses]
        if not isinstance(verdict, Pause):
            for entry in entries:
                self._lanes[lane.number].suspects.pop(entry.seq, None)
            self._mark_suspects(over, proven=True)
        elif verdict.refusal.code is None:  # not the server's own words
            return
        else:
            wider = _scopes(lane)[: list(Scope).index(verdict.scope)]
            over = [key for key in over if key in wider]
        await self._end_pauses(over)

    def _mark_suspects(self, keys: Collection[tuple[Scope, str]], *, proven: bool) -> None:
        for traffic in self._lanes.values():
            if traffic.suspects and not set(keys).isdisjoint(_scopes(traffic.lane)):
                traffic.suspects = dict.fromkeys(traffic.suspects, proven)

    # ------------------------------------------------------------------------------------------ pauses

    async def _paused(
        self, lane: Lane, sent: Sequence[Outgoing], verdict: Pause, outcome: Reply | Failure, turn: int
    ) -> None:
        """Stop sending in the verdict's scope for a while. One row of `outbox_pauses` changes, no entry does."""
        if verdict.shrink:
            self._shrink(lane, sent)
            if len(sent) == 1:
                self._lanes[lane.number].suspects[sent[0].seq] = False
        key = _scopes(lane)[list(Scope).index(verdict.scope)]
        self._mark_suspects([key], proven=False)
        now_ms, before = self._clock.now_ms(), self._pauses.get(key)
        if before is not None and before.turn > turn:
            return  # several requests met the same failure: it counts once
        failures = before.stored.failures + 1 if before else 1
        wait_s = self._wait_s(verdict, outcome, failures)
        refusal = verdict.refusal
        stored = StoredPause(
            scope=key[0].value,
            subject=key[1],
            reason=verdict.reason.value,
            status=refusal.status,
            code=refusal.code,
            message=refusal.message,
            failures=failures,
            since_ms=before.stored.since_ms if before else now_ms,
            next_try_at_ms=now_ms + int(wait_s * 1000),
        )
        self._pauses[key] = _Paused(stored, next(self._turns), self._clock.monotonic_s() + wait_s)
        level = logging.WARNING if before is None else logging.INFO
        facts = _facts(lane, refusal, reason=verdict.reason.value, failures=failures, wait_s=round(wait_s, 3))
        logger.log(level, "sending paused", extra=facts)
        self.state.last_error = f"{verdict.reason.value}: {refusal.message}"
        await self._store.save_pause(stored)

    def _wait_s(self, verdict: Pause, outcome: Reply | Failure, failures: int) -> float:
        limits = self._limits
        own_s = (
            limits.pause_probe_s * (0.5 + self._draw())
            if verdict.slow
            else backoff.delay_s(failures, base_s=limits.backoff_base_s, cap_s=limits.backoff_cap_s, draw=self._draw())
        )
        header = outcome.headers.get("retry-after") if isinstance(outcome, Reply) else None
        asked_s = backoff.retry_after_s(header, now_ms=self._clock.now_ms(), cap_s=limits.backoff_cap_s)
        if asked_s is None:
            return own_s
        # A tenth more at random: a thousand bots were told the same second. "Retry-After: 0" is no leave to storm.
        return max(own_s, asked_s * (1 + 0.1 * self._draw()))

    def _shrink(self, lane: Lane, sent: Sequence[Outgoing]) -> None:
        """The batch may be too much for the server: halve the next one."""
        traffic = self._lanes[lane.number]
        traffic.limit = batching.next_limit(
            traffic.limit, sent=len(sent), succeeded=False, max_rows=self._limits.batch_rows
        )

    async def _end_empty_pauses(self, lanes: Sequence[Lane]) -> None:
        """End each pause that is due and holds nothing back: no probe would ever end it."""
        held = {key for lane in lanes for key in _scopes(lane)}
        now_s = self._clock.monotonic_s()
        idle = [
            key for key, pause in self._pauses.items() if pause.due_s <= now_s and not pause.probing and key not in held
        ]
        await self._end_pauses(idle)

    async def _end_pauses(self, keys: Sequence[tuple[Scope, str]]) -> None:
        if not keys:
            return
        over = {key: self._pauses.pop(key) for key in keys}
        for scope, subject in keys:
            logger.info("sending resumed", extra={"scope": scope.value, "subject": subject})
        self.state.last_error = None
        try:
            await self._store.end_pauses([(scope.value, subject) for scope, subject in keys])
        except BaseException:
            # The file still says paused: the next answer tries again to end it.
            self._pauses = over | self._pauses
            raise


# ---------------------------------------------------------------------------------------------- small helpers


def sent_digest(shape: Shape, entry: Outgoing) -> str:
    """Return the digest that `entry` must have if nobody has changed it since its put."""
    on_conflict = shape.on_conflict if shape.operation is Operation.UPSERT else None
    return digest(shape.destination, shape.operation, entry.key, entry.payload, on_conflict, entry.match)


def understood(entry: Unread, destination: Destination) -> Adopted:
    """Return what a shell's entry means. Raises InvalidEntry: it cannot be sent."""
    values = json.loads(entry.payload)
    on_conflict = tuple(entry.on_conflict.split(",")) if entry.on_conflict else None
    match = json.loads(entry.match) if entry.match else None
    if not isinstance(match, dict | None):
        raise InvalidEntry("must be a JSON object", field="match")
    columns = tuple(sorted(values))
    if not columns:
        raise InvalidEntry("an empty row", field=entry.destination)
    for column in columns:
        identifier(column, field=f"{entry.destination}.{column}")
    intent = intend(
        destination, columns, values, operation=entry.operation, key=entry.key, on_conflict=on_conflict, match=match
    )
    mark = digest(entry.destination, entry.operation, intent.key, entry.payload, intent.on_conflict, entry.match)
    return Adopted(entry.seq, intent.shape, intent.key, intent.on_conflict, mark)


def conflict_values(payload: str, columns: Sequence[str]) -> str:
    """Return the canonical text of the payload's values in `columns`."""
    # Numbers stay the texts they are: two decimals that are one float are two rows.
    row = json.loads(payload, parse_float=str, parse_int=str)
    return json.dumps([row.get(column) for column in columns])


def sent_bytes(shape: Shape, entry: Outgoing) -> int:
    """Return the bytes that `entry` adds to a request, at the most: an insert's id may come on top of its payload."""
    payload = len(entry.payload) if entry.payload.isascii() else len(entry.payload.encode())
    return payload + len(shape.on_conflict) + 6 * len(entry.id) + len('"":"",,')


def _unsuspected(ready: Sequence[Outgoing], suspects: Mapping[int, bool]) -> Sequence[Outgoing]:
    """What a pause is probed with: not what may be its cause, nor what must wait for that; else that itself."""
    keys = {entry.key for entry in ready if entry.seq in suspects and entry.key is not None}
    return [entry for entry in ready if entry.seq not in suspects and entry.key not in keys] or ready


def _like_the_first(ready: Sequence[Outgoing], suspects: Mapping[int, bool]) -> Sequence[Outgoing]:
    """The first entries of one sort: a suspect alone, and what was refused before apart from what was not."""
    if ready and ready[0].seq in suspects:
        return ready[:1]
    return list(
        takewhile(lambda entry: entry.seq not in suspects and bool(entry.attempts) is bool(ready[0].attempts), ready)
    )


def _not_behind(dead: Outgoing, entries: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """In strict order nothing follows a dead entry of its key; the store holds those back from now on."""
    return [entry for entry in entries if entry.key is None or entry.key != dead.key or entry.seq < dead.seq]


def _scopes(lane: Lane) -> list[tuple[Scope, str]]:
    """Return the pauses that `lane` may stand under, in the order of `Scope`: the widest first."""
    return [
        (Scope.EVERYTHING, ""),
        (Scope.DESTINATION, lane.shape.destination),
        (Scope.LANE, str(lane.number)),
    ]


def _facts(lane: Lane, refusal: Refusal, **more: object) -> Mapping[str, object]:
    """The facts of a log line. Neither payloads nor the server's details, which quote them."""
    return {"destination": lane.shape.destination, "status": refusal.status, "code": refusal.code, **more}
