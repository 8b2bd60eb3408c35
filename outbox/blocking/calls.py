"""Calls from any thread into the one thread that runs an event loop: each waits, within a deadline.

A call that exceeds it is cancelled, and its error says what became of the data: the ids of what it put are collected
while it runs, so that the error can name them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from outbox.errors import DeadlinePassed, OutboxClosed, OutboxError, OutcomeUnknown, UsageError
from outbox.puts import put_ids

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C", covariant=True)

# The time that an interrupted call gets to find out what became of its data.
_INTERRUPTED_S = 5.0
_SLICE_S = 0.5
_HUNDRED = 100

# The seconds that each call of this thread may take, instead of the outbox's own.
DEADLINE_S: ContextVar[float | None] = ContextVar("outbox_deadline", default=None)


class Held:
    """The transaction that a thread is inside: the context its calls run in, and the ids that were put in it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ids: list[str] = []


# The transaction that the calls of this thread run inside.
HELD: ContextVar[Held | None] = ContextVar("outbox_held", default=None)


@contextlib.contextmanager
def during(variable: ContextVar[T | None], value: T) -> Iterator[None]:
    """Set one of these two for the calls that this thread makes in the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def calling_context() -> Context:
    """Return a context for one call: the calling thread's own, or that of the transaction it is inside."""
    held = HELD.get()
    return copy_context() if held is None else held.context.copy()


class Calls:
    """The way into one running event loop. `timeout_s`: how long a call may take, unless `deadline` says otherwise."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread, path: Path, timeout_s: float) -> None:
        self._loop = loop
        self._thread = thread
        self._path = path
        self._timeout_s = timeout_s

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], *, more_s: float = 0.0) -> T:
        """Run `work()` on the loop and return its result. more_s: how long it may take beyond the deadline.

        Raises OutcomeUnknown: the deadline passed, and these entries may be stored; DeadlinePassed: it put nothing;
        UsageError: this is the loop's own thread.
        """
        self.check_thread()
        held = HELD.get()
        ids: list[str] = [] if held is None else held.ids
        done = self.start(work, ids)
        return self.wait(done, [] if held is not None else ids, more_s=more_s)

    def check_thread(self) -> None:
        """Raise UsageError in the loop's own thread, where a call would wait for ever."""
        if threading.current_thread() is self._thread:
            raise UsageError(
                "this is the outbox's own thread, which would wait for itself; nothing was written."
                " Use put_nowait here, or call from another thread"
            )

    def start(
        self, work: Callable[[], Coroutine[Any, Any, T]], ids: list[str] | None = None
    ) -> concurrent.futures.Future[T]:
        """Run `work()` on the loop and return its future; `ids` is filled with what it puts."""
        context = calling_context()
        context.run(put_ids.set, ids)
        coroutine = work()
        try:
            return context.run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)
        except RuntimeError as error:  # the loop is closed
            coroutine.close()
            raise OutboxClosed("the outbox is closed; nothing was written") from error

    def wait(
        self, done: concurrent.futures.Future[T], ids: list[str], *, commits: bool = False, more_s: float = 0.0
    ) -> T:
        """Return the result of `done`. `ids`: what it may have put; `commits`: it may have stored more than these.

        An interrupt (Ctrl-C) waits up to 5 s for the outcome of the call, and adds it as a note; a call that stores
        nothing is cancelled. Errors as `run`.
        """
        given = DEADLINE_S.get()
        limit_s = (self._timeout_s if given is None else given) + more_s
        try:
            wait_for(done, limit_s)
            return done.result(0)
        except (TimeoutError, concurrent.futures.CancelledError):
            if done.done() and not done.cancelled():
                raise  # the call's own
            raise self._unfinished(done, ids, limit_s, commits=commits) from None
        except Exception:
            raise
        except BaseException as interrupt:
            interrupt.add_note(f"outbox: {_decided(done, ids, commits=commits)}")
            raise

    def _unfinished(
        self, done: concurrent.futures.Future[Any], ids: list[str], limit_s: float, *, commits: bool
    ) -> OutboxError:
        closed = done.cancelled()
        done.cancel()
        if ids or commits:
            return OutcomeUnknown(path=self._path, ids=ids, waited_s=limit_s)
        if closed:
            return OutboxClosed("the outbox was closed during the call; it put no entry")
        return DeadlinePassed(f"the call took longer than {limit_s:g} s and was cancelled; it put no entry")


def wait_for(done: concurrent.futures.Future[Any], limit_s: float) -> None:
    """Return once `done` is done, or after `limit_s` seconds.

    In slices: a signal delivered to another thread, as any on Windows, does not interrupt a Python lock.
    """
    end_s = time.monotonic() + limit_s
    while not done.done() and (left_s := end_s - time.monotonic()) > 0:
        concurrent.futures.wait([done], timeout=min(left_s, _SLICE_S))


def _decided(done: concurrent.futures.Future[Any], ids: list[str], *, commits: bool) -> str:
    """Wait for the end of an interrupted call and say what became of the data."""
    if not ids and not commits:
        done.cancel()
    wait_for(done, _INTERRUPTED_S)
    told = ", ".join(ids[:3]) or "the call"
    if not done.done():
        return f"{told}: not decided within {_INTERRUPTED_S:g} s"
    if done.cancelled():
        return f"{told}: cancelled, nothing was written"
    error = done.exception()
    return f"{told}: {'done' if error is None else error}"


class Twin(Generic[C]):
    """A class whose methods call those of an async object, on that object's loop."""

    def _target(self) -> tuple[C, Calls]:
        """Return the async object and its loop's `Calls`. Raises OutboxClosed, ForkedProcess."""
        raise NotImplementedError


def blocking(method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Twin[S], P], T]:
    """Return the method that calls a coroutine function and waits. Its argument `timeout` adds to the deadline."""
    signature = inspect.signature(method)

    @wraps(method)
    def call(twin: Twin[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        target, calls = twin._target()
        more_s = 0.0
        if "timeout" in signature.parameters:
            bound = signature.bind(target, *args, **kwargs)
            bound.apply_defaults()
            more_s = float(bound.arguments["timeout"])
        return calls.run(lambda: method(target, *args, **kwargs), more_s=more_s)

    return call


def passed(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Twin[S], P], T]:
    """Return the method that calls a plain, non-blocking function in the caller's thread."""

    @wraps(method)
    def call(twin: Twin[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(twin._target()[0], *args, **kwargs)

    return call


def passed_there(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Twin[S], P], T]:
    """Return the method that calls a plain function in the loop's thread, where nothing changes meanwhile."""

    @wraps(method)
    def call(twin: Twin[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        target, calls = twin._target()

        async def work() -> T:
            return method(target, *args, **kwargs)

        return calls.run(work)

    return call


def iterated(
    method: Callable[Concatenate[S, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Twin[S], P], Iterator[T]]:
    """Return the method that yields what an async generator does, fetched by the hundred, each within the deadline."""

    @wraps(method)
    def call(twin: Twin[S], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        target, calls = twin._target()
        given = method(target, *args, **kwargs)

        async def some() -> tuple[list[T], Exception | None]:
            found: list[T] = []
            try:
                async for one in given:
                    found.append(one)
                    if len(found) == _HUNDRED:
                        return found, None
            except Exception as error:  # noqa: BLE001 - raised behind what came before it
                return found, error
            return found, StopAsyncIteration()

        try:
            end: Exception | None = None
            while end is None:
                found, end = calls.run(some)
                yield from found
            if not isinstance(end, StopAsyncIteration):
                raise end
        finally:
            calls.run(given.aclose)

    return call


def target_of(twin: Twin[S]) -> tuple[S, Calls]:
    """Return the async object behind `twin`, and its loop's `Calls`. Raises OutboxClosed, ForkedProcess."""
    return twin._target()


class Shown(Generic[S, T]):
    """A property of the async object: `url = shown(SupabaseClient, lambda client: client.url)`."""

    def __init__(self, read: Callable[[S], T]) -> None:
        self._read = read

    @overload
    def __get__(self, twin: None, owner: type[Twin[S]]) -> Shown[S, T]: ...
    @overload
    def __get__(self, twin: Twin[S], owner: type[Twin[S]]) -> T: ...
    def __get__(self, twin: Twin[S] | None, owner: type[Twin[S]]) -> T | Shown[S, T]:
        return self if twin is None else self._read(twin._target()[0])


def shown(kind: type[S], read: Callable[[S], T]) -> Shown[S, T]:
    """Return the property that shows what `read` finds in the async object, which is of `kind`."""
    return Shown(read)
