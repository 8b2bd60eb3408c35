"""One opening of a `BlockingOutbox`: a daemon thread, its event loop, and the open outbox with its flusher in it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable

from outbox.blocking.calls import wait_for
from outbox.errors import DeadlinePassed
from outbox.opening import Opening
from outbox.outbox import Outbox

# The time that an abandoned open gets to undo what it has done.
_GRACE_S = 5.0


class Life:
    """From the start of the thread to its end; used once."""

    def __init__(self, opening: Callable[[], Opening]) -> None:
        self._opening = opening
        self._opened: concurrent.futures.Future[Outbox] = concurrent.futures.Future()
        self._over: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._given_up = False
        self._task: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        # A daemon: Python joins other threads at exit, before atexit closes this one.
        self.thread: threading.Thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    @property
    def over(self) -> bool:
        """Whether the thread has ended."""
        return self._over.done()

    def start(self, limit_s: float) -> Outbox:
        """Return the outbox once it is open. Raises whatever prevents that; DeadlinePassed: nothing was written."""
        try:
            self.thread.start()
        except RuntimeError:
            self.loop.close()
            raise
        try:
            wait_for(self._opened, limit_s)
            return self._opened.result(0)
        except BaseException as error:
            late = isinstance(error, TimeoutError) and not self._opened.done()
            self._wake(self._give_up)
            wait_for(self._over, _GRACE_S)
            if late:
                raise DeadlinePassed(f"the outbox was not open within {limit_s:g} s; nothing was written") from None
            raise

    def end(self, limit_s: float) -> None:
        """Close the outbox and return once the thread has ended. Raises DeadlinePassed, and the flusher's error."""
        self._wake(self._stop.set)
        wait_for(self._over, limit_s)
        if not self.over:
            raise DeadlinePassed(f"the outbox was not closed within {limit_s:g} s; what is pending stays pending")
        self.thread.join()  # it has nothing left to do
        self._over.result()

    def _wake(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(what)

    def _give_up(self) -> None:
        self._given_up = True
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._live())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            if self._opened.done():
                self._over.set_exception(error)
                return
            self._opened.set_exception(error)
        self._over.set_result(None)

    async def _live(self) -> None:
        self._task = asyncio.current_task()
        if self._given_up:
            return
        async with self._opening() as outbox, outbox.flushing():
            self._opened.set_result(outbox)
            await self._stop.wait()
