"""What all tests share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")

# Python 3.12 and later warn of it. An outbox has threads, and a bot that forks all the same is what is tested.
FORKS_WITH_THREADS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def run_async(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Let pytest call a coroutine function: in an event loop of its own; after ten minutes it hangs."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(600):
                return await test(*args, **kwargs)

        return asyncio.run(bounded())

    return run


@contextlib.contextmanager
def in_zone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine stand in the time zone `name`; on Windows, which has no such switch, where it stands."""
    if sys.platform == "win32":
        yield
        return
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        try:
            yield
        finally:
            patch.undo()
            time.tzset()


class CancelledAt:
    """Awaits `work`, and cancels the task that does so where it is suspended for the `step`th time, 0 for the first."""

    def __init__(self, work: Coroutine[Any, Any, Any], step: int) -> None:
        self._work = work
        self._step = step
        self.reached = False

    def __await__(self) -> Generator[Any, None, None]:
        error: BaseException | None = None
        for number in itertools.count():
            try:
                waited_for = self._work.throw(error) if error else self._work.send(None)
            except StopIteration:
                return
            if number == self._step:
                self.reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            error = None
            try:
                yield waited_for
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it is thrown into the work
                error = raised


async def cancelled_at(work: Coroutine[Any, Any, Any], step: int) -> bool:
    """Run `work` in a task that is cancelled at its `step`th suspension; return whether it came so far."""
    cancelled = CancelledAt(work, step)

    async def awaited() -> None:
        await cancelled

    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.create_task(awaited())
    return cancelled.reached
