"""Floor 4 · maintenance. Keeping house: what is settled and older than the retention goes, in small steps.

The room that it leaves goes back to the disk, in small steps too. Each step is a commit of its own, and what stands in
the writer's line comes before the next one.
"""

from __future__ import annotations

import asyncio
import logging

from outbox.clock import Clock
from outbox.errors import OutboxClosed, OutboxError
from outbox.store import housework
from outbox.store.store import Store

logger = logging.getLogger("outbox.maintenance")

_EVERY_S = 60.0
_DAY_MS = 86_400_000


class Housekeeper:
    """Prunes every minute in a task of its own. The counts of what is gone stay in `outbox_counts`, as `pruned`."""

    def __init__(self, store: Store, *, clock: Clock, retention_days: float) -> None:
        self._store = store
        self._clock = clock
        self._retention_ms = int(retention_days * _DAY_MS)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="outbox-maintenance")

    async def stop(self) -> None:
        """Let the step under way end, and no other begin."""
        self._stop.set()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if await housework.prune(self._store, self._clock.now_ms() - self._retention_ms, stop=self._stop):
                    # Only then: what an earlier end has left to give back, the next pruning does.
                    await housework.shrink(self._store, stop=self._stop)
            except OutboxClosed:
                return
            except OutboxError as error:  # locked or full: the next minute may be better
                logger.warning("keeping house failed, it is tried again", extra={"error": str(error)})
            await self._clock.wait(self._stop, _EVERY_S)
