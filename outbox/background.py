"""Background tasks that survive errors, log them and show them in `stats()`; and a stop within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from outbox import logs
from outbox.clock import Clock
from outbox.errors import OutboxClosed
from outbox.task_state import TaskState

logger: logs.Logger = logs.named("outbox")

# The wait after an unexpected error.
_REST_S = 1.0
# The time for all parts, including what a flusher's block has already taken; and the least that each part gets once
# that is used up: 5 other parts, and once more for the one that is given up. So it ends in 14 s, below a bot's 15.
_ALL_S, LEAST_S = 11.0, 0.5


class Background:
    """Runs turn after turn in its own task until `stop` is set or the outbox is closed.

    turn: does its work, then waits until the next is due. An error ends only that turn.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], Awaitable[None]],
        *,
        clock: Clock,
        stop: asyncio.Event,
        tell: Callable[[TaskState], None],
    ) -> None:
        self.state: TaskState = TaskState(name, tell=tell)
        tell(self.state)
        self._turn = turn
        self._clock = clock
        self._stop = stop
        self._repeating = logs.Repeating(clock)
        self.task: asyncio.Task[None] = asyncio.create_task(self._run(), name=f"outbox-{name}")

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
            self.state.tell(self.state)


class Part(NamedTuple):
    """Something to stop. give_up: makes `stop` finish at once, where that is possible."""

    name: str
    stop: Callable[[], Awaitable[None]]
    give_up: Callable[[], Awaitable[None]] | None = None


async def stop_in_time(parts: Sequence[Part], *, spent_s: float = 0.0) -> None:
    """Stop `parts` one after another. Each gets its turn even if an earlier one failed, was cancelled or hangs.

    spent_s: what an earlier step of the shutdown has taken.
    """
    until_s = asyncio.get_running_loop().time() + _ALL_S - spent_s
    async with contextlib.AsyncExitStack() as last_first:
        for part in reversed(parts):
            last_first.push_async_callback(_stop, part, until_s)


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> bool:
    """Return whether all of `tasks`, which were told to stop, have done so. Does not wait for one that hangs."""
    waiting = set(tasks)
    return not waiting or not (await asyncio.wait(waiting, timeout=LEAST_S))[1]


async def _stop(part: Part, until_s: float) -> None:
    task = asyncio.ensure_future(part.stop())
    try:
        await asyncio.wait({task}, timeout=max(until_s - asyncio.get_running_loop().time(), LEAST_S))
        if not task.done() and part.give_up is not None:
            await part.give_up()
            await asyncio.wait({task}, timeout=LEAST_S)
    except asyncio.CancelledError:  # a handler that cancels every task
        await asyncio.wait({task}, timeout=LEAST_S)
        raise
    if task.done():
        await task
        return
    logger.error("stop deadline passed, a part still runs", extra={"part": part.name})
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else retrieves its error
    task.cancel()
