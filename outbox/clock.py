"""The only source of time; nothing else in the package reads the machine's clocks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a command that only looks at a file needs no event loop
    import asyncio


class Clock(Protocol):
    """What other modules need of time. `outbox.testing.ManualClock` is the other implementation."""

    def now_ms(self) -> int:
        """Wall clock: Unix time in milliseconds. May jump."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start. Never jumps; means nothing to another process."""

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Return True as soon as `event` is set, False after `timeout_s` seconds."""


class SteadyClock:
    """Wall time when it was made, advanced by the monotonic clock: for decisions by duration, unmoved if it is set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ms, self._started_s = clock.now_ms(), clock.monotonic_s()

    def now_ms(self) -> int:
        """Unix time in milliseconds. Never jumps."""
        return self._started_ms + int((self._clock.monotonic_s() - self._started_s) * 1000)


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait for `event`; return whether it was set within `timeout_s` seconds."""
        import asyncio

        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        return True
