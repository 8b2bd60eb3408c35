"""What the flusher is told, what it tells, and what all of its parts work with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from outbox.clock import Clock, SteadyClock
from outbox.entry import Destination
from outbox.errors import OutboxError
from outbox.flusher import backoff
from outbox.flusher.heartbeat import Heartbeat
from outbox.flusher.orphans import FirstRefusals
from outbox.flusher.project_binding import Home
from outbox.flusher.unmatched import Unmatched
from outbox.flusher.window import Window
from outbox.postgrest.verdicts import Refusal
from outbox.store.store import Lane, Store


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

    @property
    def longest_wait_s(self) -> float:
        """The longest that anything was ever made to wait: a tenth and a half are the jitter of a pause."""
        return max(self.backoff_cap_s * 1.1, self.pause_probe_s * 1.5)


@dataclass(slots=True)
class FlusherState:
    """What `stats()` shows of the flusher."""

    started: bool = False
    running: bool = False
    last_error: str | None = None
    last_delivery_ms: int | None = None


@dataclass(slots=True)
class Tally:
    """What this flusher has done since it was made. Entries by destination; pauses by reason."""

    delivered: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)  # made dead letters
    retries: Counter[str] = field(default_factory=Counter)  # made to wait for something of their own
    pauses: Counter[str] = field(default_factory=Counter)  # begun, not prolonged


@dataclass(slots=True)
class FlusherContext:
    """What each part of the flusher works with.

    draw: a source of uniform numbers in [0, 1), for the jitter.
    """

    store: Store
    clock: Clock
    draw: Callable[[], float]
    limits: Limits
    destinations: Callable[[str], Destination] = Destination
    state: FlusherState = field(default_factory=FlusherState)
    tally: Tally = field(default_factory=Tally)
    home: Home = field(init=False)
    pulse: Heartbeat = field(init=False)
    unmatched: Unmatched = field(init=False)
    window: Window = field(init=False)
    told: set[tuple[str, str]] = field(init=False, default_factory=set)
    _notes: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    refusals: FirstRefusals = field(init=False)
    _steady: SteadyClock = field(init=False)

    def __post_init__(self) -> None:
        self.home = Home(self.store)
        self.unmatched = Unmatched(self.store)
        self.pulse = Heartbeat(self.store, self.clock)
        self.window = Window(
            self.clock,
            batch_bytes=self.limits.batch_bytes,
            requests=self.limits.requests_in_flight,
            deadline_s=self.limits.request_deadline_s,
            save=self.store.save_window,
        )
        self.refusals = FirstRefusals()
        self._steady = SteadyClock(self.clock)

    def steady_ms(self) -> int:
        """Unix time that never jumps: what an entry waits by, whatever the clock is set to."""
        return self._steady.now_ms()

    async def note(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` write down and count what has arrived, to its end also if the caller is cancelled meanwhile."""
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
        """Show an error of ours in `stats()`, and to onlookers; a foreign one's words may hold what no file may."""
        kind = type(error).__name__
        self.state.last_error = f"{kind}: {error}"
        self.pulse.error(self.state.last_error if isinstance(error, OutboxError) else f"{kind}: see the log")


def facts(lane: Lane, refusal: Refusal, **more: object) -> Mapping[str, object]:
    """Return the facts of a log line. Neither payloads nor the server's details, which quote them."""
    return {"destination": lane.spec.destination, "status": refusal.status, "code": refusal.code, **more}
