"""What `put_nowait` and `put_threadsafe` return, and the bound on how many of them may wait for their commit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from outbox import logs
from outbox.entry import Entry
from outbox.errors import OutboxFull, UsageError
from outbox.store.receipts import Receipt

logger: logs.Logger = logs.named("outbox")


class PutFuture(asyncio.Future[Receipt]):
    """What `put_nowait` returns. Await it or not: a failure that nobody retrieves is logged."""

    def __init__(
        self, destination: str, id: str, *, loop: asyncio.AbstractEventLoop, repeating: logs.Repeating
    ) -> None:
        super().__init__(loop=loop)
        self._watched = False
        super().add_done_callback(_log_unwatched(destination, id, repeating))

    def __await__(self) -> Generator[Any, None, Receipt]:
        self._watched = True
        return super().__await__()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        """Call `fn` with this future once it is done; its failure is then no longer logged."""
        self._watched = True
        super().add_done_callback(fn, context=context)


def _log_unwatched(destination: str, id: str, repeating: logs.Repeating) -> Callable[[asyncio.Future[Receipt]], None]:
    def log(future: asyncio.Future[Receipt]) -> None:
        assert isinstance(future, PutFuture)
        if future._watched or future.cancelled() or (error := future.exception()) is None:
            return
        if (news := repeating.news("put_nowait", type(error).__name__)) is not None:
            facts = {"destination": destination, "id": id, "error": str(error), **news}
            logger.error("put_nowait failed and its result was never read", extra=facts)

    return log


class ThreadFuture(concurrent.futures.Future[Receipt]):
    """What `put_threadsafe` returns: `result()` waits until the row is on disk. `id`: the entry's.

    A failure that nobody retrieves is logged. If this is cancelled before its commit begins, the row is not written.
    """

    def __init__(
        self, destination: str, id: str, *, loop: asyncio.AbstractEventLoop, repeating: logs.Repeating
    ) -> None:
        super().__init__()
        self._repeating = repeating
        self.id = id
        self._destination = destination
        self._put_loop = loop
        self._watched = False

    def result(self, timeout: float | None = None) -> Receipt:
        """Return the receipt; other errors as `Outbox.put`.

        Raises:
            UsageError: This is the outbox's own loop.
        """
        self._look()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what `result` would raise.

        Raises:
            UsageError: This is the outbox's own loop.
        """
        self._look()
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Receipt]], object]) -> None:
        """Call `fn` with this future once it is done; its failure is then no longer logged."""
        self._watched = True
        super().add_done_callback(fn)

    def when_done(self, fn: Callable[[object], object]) -> None:
        """Call `fn` at the end, as `add_done_callback`, without counting as a retrieval."""
        super().add_done_callback(fn)

    def _look(self) -> None:
        self._watched = True
        if not self.done() and asyncio._get_running_loop() is self._put_loop:
            raise UsageError(
                f"the outbox's own event loop would wait for itself here. {self.id} is on its way: use `await"
                " outbox.put(…)`, or await asyncio.wrap_future(…) of this"
            )

    def follow(self, put: asyncio.Future[Receipt]) -> None:
        """Take over the result of `put`, and cancel it if this is cancelled. Call it on the loop."""
        put.add_done_callback(self._take)

        def pass_on(_: object) -> None:
            if self.cancelled():
                self._put_loop.call_soon_threadsafe(put.cancel)

        super().add_done_callback(pass_on)

    def fail(self, error: BaseException) -> None:
        """End with `error`; log it if nobody retrieves it."""
        if self.set_running_or_notify_cancel():
            news = None if self._watched else self._repeating.news("put_threadsafe", type(error).__name__)
            if news is not None:
                facts = {"destination": self._destination, "id": self.id, "error": str(error), **news}
                logger.error("put_threadsafe failed and its result was never read", extra=facts)
            self.set_exception(error)

    def _take(self, put: asyncio.Future[Receipt]) -> None:
        if put.cancelled():
            self.cancel()
        elif (error := put.exception()) is not None:
            self.fail(error)
        elif self.set_running_or_notify_cancel():
            self.set_result(put.result())


class Waiting:
    """Counts the puts that wait for their commit while their callers continue, and the bytes of their payloads.

    Safe from any thread.
    """

    def __init__(self, path: Path, *, max_rows: int, max_bytes: int) -> None:
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._rows = self._bytes = 0
        self._counting = threading.Lock()

    def enter(self, entry: Entry) -> Callable[[object], None]:
        """Count `entry`; return what to call once it no longer waits. Raises OutboxFull.

        A single row may exceed the bound on bytes.
        """
        size = len(entry.payload) if entry.payload.isascii() else len(entry.payload.encode())
        with self._counting:
            if self._rows >= self._max_rows:
                raise OutboxFull(path=self._path, field="max_waiting", limit=self._max_rows)
            if self._rows and self._bytes + size > self._max_bytes:
                raise OutboxFull(path=self._path, field="max_waiting_bytes", limit=self._max_bytes)
            self._rows += 1
            self._bytes += size

        def left(_: object) -> None:
            with self._counting:
                self._rows -= 1
                self._bytes -= size

        return left
