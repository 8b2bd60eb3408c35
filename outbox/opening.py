"""What `Outbox.open` returns, an awaitable and async context manager; and what it logs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from outbox import logs
from outbox.store import database
from outbox.store.store import Store

if TYPE_CHECKING:
    from outbox.outbox import Outbox

logger: logs.Logger = logs.named("outbox")


class Opening(Coroutine[Any, Any, "Outbox"]):
    """`await Outbox.open(…)` gives an outbox to close; `async with Outbox.open(…) as outbox` closes it.

    Like any coroutine it can be passed to `asyncio.create_task`, `asyncio.run` and `asyncio.run_coroutine_threadsafe`.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, Outbox]]) -> None:
        self._start = start
        self._coroutine: Coroutine[Any, Any, Outbox] | None = None  # made when it starts: an unused one need not warn
        self._outbox: Outbox | None = None

    def send(self, value: Any, /) -> Any:
        """Resume it, as any coroutine."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise in it, as in any coroutine."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """Close it, as any coroutine."""
        if self._coroutine is not None:
            self._coroutine.close()

    def _begun(self) -> Coroutine[Any, Any, Outbox]:
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine

    if not TYPE_CHECKING:  # a type checker knows that there is nothing else

        def __getattr__(self, name: str) -> None:
            raise AttributeError(
                f"no {name!r} yet: await this first, or write `async with Outbox.open(…) as outbox`",
                name=name,
                obj=self,
            )

    def __await__(self) -> Generator[Any, None, Outbox]:
        return self._start().__await__()

    async def __aenter__(self) -> Outbox:
        self._outbox = await self._start()
        return self._outbox

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._outbox is not None
        await self._outbox.close()


def log_opened(store: Store, path: Path) -> None:
    """Log which SQLite runs. The WAL-reset bug takes two writers at once, and this library lets only one in.

    path: as in the settings. A new file at a relative path is logged: the bot may have been started elsewhere before.
    """
    facts = {
        "path": str(store.path),
        "sqlite": sqlite3.sqlite_version,
        "exposed_to_wal_reset_bug": database.EXPOSED_TO_WAL_RESET_BUG,
    }
    if store.is_new and not path.is_absolute():
        logger.warning("opened", extra={**facts, "new_file_at_relative_path": str(path)})
    else:
        logger.info("opened", extra=facts)
