"""What the flusher's parts share: settings, counts, the heartbeat, the file's project."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from outbox import logs
from outbox.clock import Clock, SteadyClock
from outbox.entry import Destination, Outgoing
from outbox.errors import OutboxError
from outbox.flusher import backoff
from outbox.flusher.backoff import FirstRefusals, gives_up
from outbox.flusher.window import Window
from outbox.postgrest.client import Transport, project_of
from outbox.postgrest.verdicts import Refusal
from outbox.settings import Settings
from outbox.stats import Status
from outbox.store import queries
from outbox.store.rows import Lane
from outbox.store.sidecar import Flushing
from outbox.store.store import Store

logger: logs.Logger = logs.named("outbox.flusher")

# How often the heartbeat is written: for an idle flusher, and a busy one.
_IDLE_S, _BUSY_S = 60.0, 1.0
# How many unmatched updates are remembered; more of them wait for their own next try, as after a restart.
_MOST = 500


@dataclass(slots=True)
class Tally:
    """What this flusher has done since it was made. Entries by destination; pauses by reason."""

    delivered: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)  # made dead letters
    retries: Counter[str] = field(default_factory=Counter)  # postponed for a reason of their own
    pauses: Counter[str] = field(default_factory=Counter)  # begun, not prolonged


class FlusherContext:
    """What each part of the flusher works with.

    draw: a source of uniform numbers in [0, 1), for the jitter. told: what was reported of a destination, once.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        draw: Callable[[], float],
        limits: Settings,
        destinations: Callable[[str], Destination] = Destination,
    ) -> None:
        self.store: Store = store
        self.clock: Clock = clock
        self.draw: Callable[[], float] = draw
        self.limits: Settings = limits
        self.destinations: Callable[[str], Destination] = destinations
        self.state: Status = Status()
        self.tally: Tally = Tally()
        self.binding: ProjectBinding = ProjectBinding(store)
        self.heartbeat: Heartbeat = Heartbeat(store, clock)
        self.unmatched: Unmatched = Unmatched(store)
        self.window: Window = Window(
            clock,
            batch_bytes=limits.batch_bytes,
            requests=limits.requests_in_flight,
            deadline_s=limits.request_deadline_s,
            save=lambda window_bytes: store.state({"window_bytes": window_bytes}),
        )
        self.told: set[tuple[str, str]] = set()
        self._notes: set[asyncio.Task[None]] = set()
        self._refusals = FirstRefusals()
        self._steady = SteadyClock(clock)

    @property
    def longest_wait_s(self) -> float:
        """The longest that anything was ever made to wait: a tenth and a half are the jitter of a pause."""
        return max(self.limits.backoff_cap_s * 1.1, self.limits.pause_probe_s * 1.5)

    def steady_ms(self) -> int:
        """Unix time that never jumps: entries wait by it, whatever the clock is set to."""
        return self._steady.now_ms()

    def is_orphaned(self, entry: Outgoing, oldest_seq: int | None) -> bool:
        """Whether nothing is left that could bring the row that `entry` refers to, and it has waited long enough."""
        return gives_up(
            entry.attempts + 1,
            since_ms=self.refused_since_ms(entry),
            now_ms=self.steady_ms(),
            earlier_pending=oldest_seq is not None and oldest_seq < entry.seq,
            limit=self.limits.orphan_attempts,
            after_s=self.limits.orphan_after_s,
        )

    def refused_since_ms(self, entry: Outgoing) -> int | None:
        """Return when `entry` was first told "not yet", on the steady clock; None: just now."""
        return self._refusals.since_ms(
            entry.seq,
            entry.refused_since_ms,
            wall_ms=self.clock.now_ms(),
            steady_ms=self.steady_ms(),
            after_s=self.limits.orphan_after_s,
        )

    async def note(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` record and count what was delivered; it finishes even if the caller is cancelled meanwhile."""
        task = asyncio.create_task(work, name="outbox-note")
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)
        await asyncio.shield(task)

    async def noted(self) -> None:
        """Return once the tally counts what the file shows as delivered now."""
        if self._notes:
            await asyncio.wait(self._notes)

    def backoff_s(self, failures: int) -> float:
        """Return the seconds to wait after failure number `failures` (1 after the first), jitter included."""
        limits = self.limits
        return backoff.delay_s(failures, base_s=limits.backoff_base_s, cap_s=limits.backoff_cap_s, draw=self.draw())

    def failed(self, error: BaseException) -> None:
        """Show `error` in `stats()` and, without a foreign error's text (it may hold secrets), in the heartbeat."""
        kind = type(error).__name__
        said = f"{kind}: {error}"
        self.state.now = replace(self.state.now, last_error=said)
        self.heartbeat.error(said if isinstance(error, OutboxError) else f"{kind}: see the log")


def facts(lane: Lane, refusal: Refusal, **more: object) -> Mapping[str, object]:
    """Return the facts of a log line. Neither payloads nor the server's details, which quote them."""
    return {"destination": lane.spec.destination, "status": refusal.status, "code": refusal.code, **more}


class Heartbeat:
    """What other processes see of the flusher, `outbox status` among them.

    It is in the lock's sidecar: a microsecond or two into the kernel's cache, no commit, no sync. An idle flusher
    writes once a minute, a busy one once a second.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._now = self._told = Flushing()
        self._told_s = float("-inf")

    def turn(self, *, running: bool) -> None:
        """Note that the flusher has started or ended."""
        self._tell(self._now._replace(running=running, since_ms=self._clock.now_ms()))
        self._told_s = float("-inf")  # the next step is told at once

    def looked(self) -> None:
        """Note a step without an error of our own."""
        untold = self._now.delivered_ms != self._told.delivered_ms
        self._tell_at_times(self._now._replace(looked_ms=self._clock.now_ms()), _BUSY_S if untold else _IDLE_S)

    def delivered(self) -> None:
        """Note that something was delivered."""
        now_ms = self._clock.now_ms()
        self._tell_at_times(self._now._replace(looked_ms=now_ms, delivered_ms=now_ms), _BUSY_S)

    def error(self, words: str) -> None:
        """Note that a step or request ended in an error of our own; the pauses hold what the remote end says."""
        news = words != self._now.error
        self._tell_at_times(self._now._replace(error=words, error_ms=self._clock.now_ms()), 0.0 if news else _IDLE_S)

    def _tell_at_times(self, now: Flushing, every_s: float) -> None:
        self._now = now
        if self._clock.monotonic_s() - self._told_s >= every_s:
            self._tell(now)

    def _tell(self, now: Flushing) -> None:
        self._now = self._told = now
        self._told_s = self._clock.monotonic_s()
        self._store.sidecar.tell(now)


class ProjectBinding:
    """The project that the file's entries belong to: learned from the first answer about a row.

    belongs_to: None as long as no project has answered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.belongs_to: str | None = None

    async def load(self) -> None:
        """Read what an earlier process has learned, or what a salvage has brought."""
        self.belongs_to = await self._store.project()

    def is_foreign(self, transport: Transport | None) -> bool:
        """Return whether `transport` leads to another project."""
        return transport is not None and is_foreign(self.belongs_to, project_of(transport))

    async def learn(self, transport: Transport) -> None:
        """Remember the project behind `transport`, which has answered for a row, if none is remembered yet."""
        project = project_of(transport)
        if self.belongs_to is None and project is not None:
            # A salvage may have brought another one, a moment ago.
            self.belongs_to = await self._store.remember_project(project)
            logger.info("project remembered", extra={"project": self.belongs_to})

    async def forget(self) -> str | None:
        """Belong to whichever project answers next; return which one it was."""
        was = await self._store.forget_project()
        self.belongs_to = None
        return was


def is_foreign(belongs_to: str | None, named: str | None) -> bool:
    """Return whether `named` is not the file's own project. None: the file has none yet; that one is not checked."""
    return belongs_to is not None and named is not None and belongs_to != named


class Unmatched:
    """Updates that matched no row: what is put behind one of them need not wait for its next try."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seqs: dict[int, int] = {}
        self._seen_seq = -1  # the newest entry at the last look

    async def load(self, *, wall_ms: int, steady_ms: int, wait_ms: int) -> None:
        """Read those that an earlier process left. wall_ms, steady_ms: now, by either clock."""
        for seq, since_ms in await self._store.read(queries.LEFT_UNMATCHED.sql, (_MOST,)):
            waited_ms = min(max(wall_ms - (since_ms or wall_ms), 0), wait_ms)
            self.add(seq, steady_ms + wait_ms - waited_ms)

    def add(self, seq: int, waits_until_ms: int) -> None:
        """Remember one that has just been postponed, and until when others wait for it."""
        if len(self._seqs) < _MOST:
            self._seqs[seq] = waits_until_ms
            self._seen_seq = -1

    async def hurry(self, now_ms: int) -> None:
        """Make due at once those that hold up what brings their row, and in time those that hold up anything.

        now_ms: on the clock that entries wait by, as `waits_until_ms`.
        """
        newest = self._store.writer.last_seq
        if not self._seqs or (newest == self._seen_seq and now_ms < min(self._seqs.values())):
            return  # nothing was put behind one of them, and no patience has run out
        self._seen_seq = newest
        waiting = await self._store.read(queries.UNMATCHED.sql, (json.dumps(list(self._seqs)),))
        self._seqs = {seq: self._seqs[seq] for seq, *_ in waiting}
        rows = []
        for seq, next_ms, behind, bringer in waiting:
            due_ms = now_ms if bringer else max(now_ms, self._seqs[seq])
            if behind and next_ms > due_ms:
                rows.append((due_ms, seq))
        if rows:
            await self._store.transact(lambda connection: connection.executemany(queries.HURRY.sql, rows))
