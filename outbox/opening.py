"""What `Outbox.open` returns: to await, or to enter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outbox.outbox import Outbox


class Opening:
    """`await Outbox.open(…)` gives an outbox to close; `async with Outbox.open(…) as outbox` closes it."""

    def __init__(self, start: Callable[[], Awaitable[Outbox]]) -> None:
        self._start = start
        self._outbox: Outbox | None = None

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
