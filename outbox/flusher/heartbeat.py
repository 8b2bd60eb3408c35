"""What onlookers in other processes are told of it, `outbox status` among them.

It stands in the lock's sidecar: a microsecond or two into the kernel's cache, no commit, no sync. An idle flusher
writes once a minute, a busy one once a second.
"""

from __future__ import annotations

from dataclasses import replace

from outbox.clock import Clock
from outbox.store.store import Flushing, Store

_IDLE_S, _BUSY_S = 60.0, 1.0


class Heartbeat:
    """Keeps `Flushing` up to date."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._now = self._told = Flushing()
        self._told_s = float("-inf")

    def turn(self, *, running: bool) -> None:
        """It has been started, or has ended."""
        self._tell(replace(self._now, running=running, since_ms=self._clock.now_ms()))
        self._told_s = float("-inf")  # the first look is news

    def looked(self) -> None:
        """It has taken a step without an error of ours."""
        untold = self._now.delivered_ms != self._told.delivered_ms
        self._tell_at_times(replace(self._now, looked_ms=self._clock.now_ms()), _BUSY_S if untold else _IDLE_S)

    def delivered(self) -> None:
        """Something has arrived."""
        now_ms = self._clock.now_ms()
        self._tell_at_times(replace(self._now, looked_ms=now_ms, delivered_ms=now_ms), _BUSY_S)

    def error(self, words: str) -> None:
        """A step or a request has ended in an error of ours; what the remote end says stands in the pauses."""
        news = words != self._now.error
        self._tell_at_times(replace(self._now, error=words, error_ms=self._clock.now_ms()), 0.0 if news else _IDLE_S)

    def _tell_at_times(self, now: Flushing, every_s: float) -> None:
        self._now = now
        if self._clock.monotonic_s() - self._told_s >= every_s:
            self._tell(now)

    def _tell(self, now: Flushing) -> None:
        self._now = self._told = now
        self._told_s = self._clock.monotonic_s()
        self._store.tell(now)
