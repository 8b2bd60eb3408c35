"""Blocking work beside the event loop, in our own daemon threads.

asyncio's default executor is shared with the bot: its calls that hang there would hold up ours, and at exit asyncio
and Python wait for every one of its threads, even one that waits for a dead name server. Nobody waits for these.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
    """Run `work` in a thread and return its result. If cancelled it returns at once; the thread runs to its end.

    A new thread each time takes some 50 µs. Raises what `work` raises; RuntimeError: no thread can be started.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
            loop.call_soon_threadsafe(lambda: None if done.done() else outcome())

    def run() -> None:
        try:
            result = context.run(work, *args, **named)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            settle(lambda error=error: done.set_exception(error))  # type: ignore[misc]
        else:
            settle(lambda: done.set_result(result))

    threading.Thread(target=run, name="outbox-work", daemon=True).start()
    return await done
