"""The end of an outbox, part by part, and within its time whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from outbox import logs

logger = logs.named("outbox")

# All parts together; a bot is given 15 s. And what each has at least, if those before it have used it up.
_ALL_S, _LEAST_S = 12.0, 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """What has an end. give_up: lets `stop` come to its end at once, where there is a way."""

    name: str
    stop: Callable[[], Awaitable[None]]
    give_up: Callable[[], Awaitable[None]] | None = None


async def stop_in_time(parts: Sequence[Part]) -> None:
    """Stop `parts`, one after the other. Each has its turn, also if one before it failed, was cancelled or hangs."""
    until_s = asyncio.get_running_loop().time() + _ALL_S
    async with contextlib.AsyncExitStack() as last_first:
        for part in reversed(parts):
            last_first.push_async_callback(_stop, part, until_s)


async def _stop(part: Part, until_s: float) -> None:
    task = asyncio.ensure_future(part.stop())
    try:
        await asyncio.wait({task}, timeout=max(until_s - asyncio.get_running_loop().time(), _LEAST_S))
        if not task.done() and part.give_up is not None:
            await part.give_up()
            await asyncio.wait({task}, timeout=_LEAST_S)
    except asyncio.CancelledError:  # a handler that cancels every task
        await asyncio.wait({task}, timeout=_LEAST_S)
        raise
    if task.done():
        await task
        return
    logger.error("stopping took too long, a part is left as it is", extra={"part": part.name})
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else looks
    task.cancel()
