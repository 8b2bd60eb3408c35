"""An event loop without a machine: virtual time, no threads, no descriptors, and one seeded dice for every order.

What asyncio promises is kept: callbacks run in the order in which they were scheduled. What it leaves to the machine is
the dice's: when the threads of SQLite and of the executors get on (each one's own work in its order), so in which
order their results, the timers and the network's answers come in, and how long a disk takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import os
import random
from collections import deque
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import aiosqlite.core

from outbox import clock, threads
from outbox.admin import inbox

Work = tuple["asyncio.Future[Any] | None", Callable[[], Any]]

# 2026-01-01T00:00:00Z, at the loop's second 0.
START_MS = 1_767_225_600_000
_HANDLE_S, _DISK_S, _LONGEST_STALL_S = 1e-5, 5e-4, 2.0


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Stuck(BaseException):
    """Everybody waits, and nothing is left that could wake anybody."""


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not hang on its address."""

    _numbers = itertools.count()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.number = next(self._numbers)
        super().__init__(*arguments, **options)

    def __hash__(self) -> int:
        return self.number


def _task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> _Task:
    return _Task(work, loop=loop, **options)


class Loop(asyncio.BaseEventLoop):
    """One life of the process. trace: a digest of every step.

    eager: how often a thread gets on although callbacks wait. stalls: how often the disk keeps it for a while instead.
    kill_at: the step before which the process is killed.
    """

    def __init__(
        self, dice: random.Random, *, now_s: float, eager: float, stalls: float, kill_at: int | None = None
    ) -> None:
        super().__init__()
        self.steps = 0
        self.trace = hashlib.blake2b(digest_size=16)
        self._dice = dice
        self._now_s = now_s
        self._eager, self._stalls = eager, stalls
        self._kill_at = kill_at
        self._lines: list[Line] = []  # the threads that have something to do
        self.set_task_factory(_task)  # type: ignore[arg-type]

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._now_s

    def _run_once(self) -> None:
        if self.steps == self._kill_at:
            raise Killed
        self.steps += 1
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and (timers[0].cancelled() or timers[0].when() <= self._now_s):
            timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            ready.append(timer)
        if self._lines and (not ready or self._dice.random() < self._eager):
            self._thread_gets_on()
        elif ready:
            self._now_s += _HANDLE_S
            handle = ready.popleft()
            if not handle.cancelled():
                self.note(_name(handle))
                handle._run()
        elif timers:
            self._now_s = timers[0].when()
        else:
            raise Stuck

    def _thread_gets_on(self) -> None:
        if self._dice.random() < self._stalls:
            self._now_s += self._dice.uniform(0, _LONGEST_STALL_S)
            return
        self._now_s += _DISK_S * self._dice.random()
        line = self._dice.choice(self._lines)
        self.note(f"thread {line.number}")
        line.get_on()
        if not line.work:
            self._lines.remove(line)

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.update(f"{self._now_s:.6f} {what}\n".encode())

    def line_up(self, line: Line) -> None:
        """Let the dice choose when `line` gets on."""
        if line not in self._lines:
            self._lines.append(line)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run it as a step of its own, whichever executor it is for."""
        future = self.create_future()
        Line().put_nowait((future, lambda: func(*args)))
        return future

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class Line:
    """What stands in for a thread and for the queue in front of it."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self._numbers)
        self.work: deque[Work] = deque()

    def put_nowait(self, work: Work) -> None:
        """Line `work` up; at once where no loop runs any more."""
        self.work.append(work)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.get_on()
        else:
            assert isinstance(loop, Loop)
            loop.line_up(self)

    def get_on(self) -> None:
        """Do what is first in line, as a thread does."""
        future, work = self.work.popleft()
        try:
            result, error = work(), None
        except BaseException as problem:  # noqa: BLE001 - it is the waiter's
            result, error = None, problem
        if future is None or future.get_loop().is_closed():
            return
        if error is None:
            future.get_loop().call_soon_threadsafe(aiosqlite.core.set_result, future, result)
        else:
            future.get_loop().call_soon_threadsafe(aiosqlite.core.set_exception, future, error)


class _NoThread:
    """What stands in for aiosqlite's thread: its queue does the work."""

    def __init__(self, target: object, args: object) -> None:
        self.daemon = True

    def start(self) -> None:
        """Nothing starts."""


class _Thread:
    """What stands in for a thread of the library's own: a step."""

    def __init__(self, target: Callable[[], Any], **_: object) -> None:
        self._target = target

    def start(self) -> None:
        Line().put_nowait((None, self._target))


def close_doors(dice: random.Random) -> None:
    """Let nothing in this process, which is the simulation's alone, start a thread or throw dice of its own."""
    vars(aiosqlite.core).update(SimpleQueue=Line, Thread=_NoThread)
    vars(threads).update(threading=SimpleNamespace(Thread=_Thread))
    _Task._numbers, Line._numbers = itertools.count(), itertools.count()
    numbers = itertools.count()

    def number(event: asyncio.Event) -> int:
        return vars(event).setdefault("_number", next(numbers))  # type: ignore[no-any-return]

    asyncio.Event.__hash__ = number  # type: ignore[assignment]
    random.seed(dice.random())
    os.urandom = dice.randbytes


def _name(handle: asyncio.Handle) -> str:
    callback = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    return owner.get_name() if isinstance(owner, asyncio.Task) else getattr(callback, "__qualname__", "callback")


def set_clocks(loop: Loop, stepped_s: Callable[[], float]) -> None:
    """Let every clock of the library show the loop's time; the wall clock may have been stepped."""

    def time_ns() -> int:
        return START_MS * 1_000_000 + int((loop.time() + stepped_s()) * 1_000_000_000)

    vars(clock)["time"] = vars(inbox)["time"] = SimpleNamespace(monotonic=loop.time, time_ns=time_ns)
