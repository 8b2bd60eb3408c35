"""What every room's tests share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_async(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Let pytest call a coroutine function: it runs in an event loop of its own, for 60 seconds at the most."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await test(*args, **kwargs)

        return asyncio.run(bounded())

    return run
