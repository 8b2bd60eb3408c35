"""Tasks that go on whatever they meet: each error is told, counted and shown in `stats()`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from outbox import logs
from outbox.clock import Clock
from outbox.errors import OutboxClosed

logger = logs.named("outbox")

# After an error that nobody foresaw.
_REST_S = 1.0


@dataclass(slots=True)
class TaskState:
    """A background task in `stats()`. failures: errors that it met and went on after; last_error: the last of them."""

    name: str
    running: bool = True
    failures: int = 0
    last_error: str | None = None

    def failed(self, error: BaseException, repeating: logs.Repeating) -> None:
        """Count and tell an error that it goes on after."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        if (news := repeating.news(self.name, self.last_error)) is not None:
            facts = {"task": self.name, "error": self.last_error, **news}
            logger.error("background task failed, it goes on", exc_info=error, extra=facts)


class Background:
    """Takes one turn after the other in a task of its own until `stop` is set or the outbox is closed.

    turn: looks, and waits for its next time. An error of it ends only that turn.
    """

    def __init__(self, name: str, turn: Callable[[], Awaitable[None]], *, clock: Clock, stop: asyncio.Event) -> None:
        self.state = TaskState(name)
        self._turn = turn
        self._clock = clock
        self._stop = stop
        self._repeating = logs.Repeating(clock)
        self.task = asyncio.create_task(self._run(), name=f"outbox-{name}")

    async def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    await self._turn()
                except OutboxClosed:
                    return
                except Exception as error:  # noqa: BLE001 - told, and the next turn may find it over
                    self.state.failed(error, self._repeating)
                    await self._clock.wait(self._stop, _REST_S)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                logger.error("background task was cancelled", extra={"task": self.state.name})  # noqa: TRY400
            raise
        finally:
            self.state.running = False
