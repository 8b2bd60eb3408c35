"""What `Outbox.open` returns: a coroutine, which can be entered as well."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outbox.outbox import Outbox


class Opening(Coroutine[Any, Any, "Outbox"]):
    """`await Outbox.open(…)` gives an outbox to close; `async with Outbox.open(…) as outbox` closes it.

    As any coroutine it can be given to `asyncio.create_task`, `asyncio.run` and `asyncio.run_coroutine_threadsafe`.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, Outbox]]) -> None:
        self._start = start
        self._coroutine: Coroutine[Any, Any, Outbox] | None = None  # made when it begins: an unused one need not warn
        self._outbox: Outbox | None = None

    def send(self, value: Any, /) -> Any:
        """Go on, as every coroutine does."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise in it, as in every coroutine."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """Give it up, as every coroutine."""
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
