"""The only source of time; nothing else in the package asks the machine what time it is."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the rooms above need of time. `outbox.testing.ManualClock` is the other implementation."""

    def now_ms(self) -> int:
        """Wall clock: Unix time in milliseconds. May jump."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start. Never jumps; means nothing to another process."""

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Return True as soon as `event` is set, False after `timeout_s` seconds."""


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        return True
