"""Tasks that go on whatever they meet, each error told and shown in `stats()`; and an end within its time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from outbox import logs
from outbox.clock import Clock
from outbox.errors import OutboxClosed

logger: logs.Logger = logs.named("outbox")

# After an error that nobody foresaw.
_REST_S = 1.0
# All parts together, what a flusher's block has taken before them included; and what each has at least if those before
# it have used it up: 5 other parts, and once more for the one that is given up. So 14 s end it, and a bot is given 15.
_ALL_S, LEAST_S = 11.0, 0.5


@dataclass(slots=True)
class TaskState:
    """A background task in `stats()`. failures: errors that it met and went on after; last_error: the last of them.

    tell: called at each change, for those who look from outside.
    """

    name: str
    running: bool = True
    failures: int = 0
    last_error: str | None = None
    tell: Callable[[TaskState], None] = field(default=lambda _: None, repr=False, compare=False)

    def failed(self, error: BaseException, repeating: logs.Repeating) -> None:
        """Count and tell an error that it goes on after."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self.tell(self)
        if (news := repeating.news(self.name, self.last_error)) is not None:
            facts = {"task": self.name, "error": self.last_error, **news}
            logger.error("background task failed and continues", exc_info=error, extra=facts)


class Background:
    """Takes one turn after the other in a task of its own until `stop` is set or the outbox is closed.

    turn: looks, and waits for its next time. An error of it ends only that turn.
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


@dataclass(frozen=True, slots=True)
class Part:
    """What has an end. give_up: lets `stop` come to its end at once, where there is a way."""

    name: str
    stop: Callable[[], Awaitable[None]]
    give_up: Callable[[], Awaitable[None]] | None = None


async def stop_in_time(parts: Sequence[Part], *, spent_s: float = 0.0) -> None:
    """Stop `parts`, one after the other. Each has its turn, also if one before it failed, was cancelled or hangs.

    spent_s: what an earlier step of the end has taken.
    """
    until_s = asyncio.get_running_loop().time() + _ALL_S - spent_s
    async with contextlib.AsyncExitStack() as last_first:
        for part in reversed(parts):
            last_first.push_async_callback(_stop, part, until_s)


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> bool:
    """Return whether all of `tasks`, which have been told to end, have done so. One that hangs is not waited for."""
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
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else looks
    task.cancel()
