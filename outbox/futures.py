"""What `put_nowait` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from outbox import logs
from outbox.store.receipts import Receipt

logger = logs.named("outbox")


class PutFuture(asyncio.Future[Receipt]):
    """What `put_nowait` returns. Await it or not: a failure that nobody looks at is logged."""

    def __init__(self, destination: str, id: str, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._watched = False
        super().add_done_callback(_log_unwatched(destination, id))

    def __await__(self) -> Generator[Any, None, Receipt]:
        self._watched = True
        return super().__await__()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        self._watched = True
        super().add_done_callback(fn, context=context)


def _log_unwatched(destination: str, id: str) -> Callable[[asyncio.Future[Receipt]], None]:
    def log(future: asyncio.Future[Receipt]) -> None:
        assert isinstance(future, PutFuture)
        if not future._watched and not future.cancelled() and (error := future.exception()) is not None:
            facts = {"destination": destination, "id": id, "error": str(error)}
            logger.error("put_nowait failed and nobody looked", extra=facts)

    return log
