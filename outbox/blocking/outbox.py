"""`BlockingOutbox`: an outbox for programs without asyncio. Its thread runs an event loop with the flusher in it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from functools import partial, wraps
from types import TracebackType
from typing import Concatenate, Final, Generic, NoReturn, ParamSpec, Self, TypeVar, Unpack, overload

from outbox import logs
from outbox.blocking.calls import DEADLINE_S, HELD, Calls, Held, Twin, blocking, calling_context, during, passed, shown
from outbox.blocking.life import Life
from outbox.clock import Clock
from outbox.entry import Destination, PutOptions
from outbox.errors import OutboxClosed, OutboxError
from outbox.futures import ThreadFuture
from outbox.outbox import Outbox
from outbox.postgrest.client import Transport
from outbox.puts import check_process, refuse_copy
from outbox.settings import Settings
from outbox.store.receipts import Receipt
from outbox.transaction import Transaction

logger: logs.Logger = logs.named("outbox")

P = ParamSpec("P")
B = TypeVar("B")


class BlockingTransaction(Twin[Transaction]):
    """What `BlockingOutbox.transaction()` gives: `Transaction`'s methods, which block."""

    def __init__(self, transaction: Transaction, calls: Calls) -> None:
        self._transaction = transaction
        self._calls = calls

    @property
    def transaction(self) -> Transaction:
        """The async transaction, for calls that take `tx`, on the outbox's own loop."""
        return self._transaction

    def _target(self) -> tuple[Transaction, Calls]:
        return self._transaction, self._calls

    put: Final = blocking(Transaction.put)
    put_many: Final = blocking(Transaction.put_many)
    execute: Final = blocking(Transaction.execute)
    executemany: Final = blocking(Transaction.executemany)
    when_over: Final = passed(Transaction.when_over)


class _Open(Generic[P, B]):
    """`BlockingOutbox.open(…)` makes an outbox and opens it; `outbox.open()` opens an existing one."""

    def __init__(self, make: Callable[Concatenate[B, P], None], open_it: Callable[[B], B]) -> None:
        self._make = make
        self._open_it = open_it
        self.__doc__ = open_it.__doc__

    @overload
    def __get__(self, outbox: None, owner: type[B]) -> Callable[P, B]: ...
    @overload
    def __get__(self, outbox: B, owner: type[B]) -> Callable[[], B]: ...
    def __get__(self, outbox: B | None, owner: type[B]) -> Callable[P, B] | Callable[[], B]:
        if outbox is not None:
            return partial(self._open_it, outbox)

        def make_and_open(*args: P.args, **kwargs: P.kwargs) -> B:
            made = owner.__new__(owner)
            self._make(made, *args, **kwargs)
            return self._open_it(made)

        return wraps(owner)(make_and_open)


class BlockingOutbox(Twin[Outbox]):
    """The durable outbox for bots without asyncio: `put` returns once the row is on disk, from any thread.

    with BlockingOutbox(path="bot.db") as outbox:
        outbox.put("trades", {"symbol": "EURUSD"})

    Where a framework gives hooks instead of blocks: `outbox = BlockingOutbox.open(path="bot.db")`, `outbox.close()`.
    Its thread runs the flusher. The methods are `Outbox`'s.

    An outbox belongs to its process: open one in the worker.

    Args:
        settings: This, `path`, `destinations`, `wait_s`, `clock` and `transport` are as in `Outbox.open`.
        call_timeout_s: Seconds that each call may take, unless `with outbox.deadline(…)` says otherwise. A call that
            exceeds it raises OutcomeUnknown with the ids that it put, which may be put again; if it put nothing,
            DeadlinePassed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        destinations: Iterable[Destination] = (),
        wait_s: float = 0.0,
        call_timeout_s: float = 30.0,
        clock: Clock | None = None,
        transport: Transport | None = None,
    ) -> None:
        declared = tuple(destinations)
        self._opening = lambda: Outbox.open(
            settings, path=path, destinations=declared, wait_s=wait_s, clock=clock, transport=transport
        )
        self._opening_s = call_timeout_s + wait_s
        self._call_timeout_s = call_timeout_s
        self._pid = os.getpid()
        self._turn = threading.Lock()  # of opening and closing
        self._life: Life | None = None
        self._open_now: tuple[Outbox, Calls] | None = None

    # ------------------------------------------------------------------------------------------ opening, closing

    def _open(self) -> BlockingOutbox:
        """Open the file, start the flusher, return this outbox; it may already be open. Errors as `Outbox.open`."""
        check_process(self._pid)
        with self._turn:
            if self._life is None:
                life = Life(self._opening)
                outbox = life.start(self._opening_s)
                self._life = life
                self._open_now = outbox, Calls(life.loop, life.thread, outbox.path, self._call_timeout_s)
                atexit.register(self._close_at_exit)
        return self

    open: Final = _Open(__init__, _open)

    def close(self) -> None:
        """Stop the flusher, commit the queued puts, close the file. What is pending stays pending. Idempotent.

        Raises:
            DeadlinePassed: It did not finish in time.
            UsageError: This is the outbox's own thread.
        """
        if os.getpid() != self._pid:
            return  # a forked child has no thread; file and connections are the parent's
        if self._open_now is not None:
            self._open_now[1].check_thread()
        with self._turn:
            if self._life is None:
                return
            try:
                self._life.end(self._call_timeout_s)
            finally:
                if self._life.over:  # else an interrupt came in between, and it is closed at exit
                    self._life = self._open_now = None
                    atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except OutboxError as error:
            logger.error("closing failed", exc_info=error)  # noqa: TRY400 - the line is that of `Outbox.close`

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    def _target(self) -> tuple[Outbox, Calls]:
        check_process(self._pid)
        if self._open_now is None:
            raise OutboxClosed("the outbox is not open: call open(), or use `with`; nothing was written")
        return self._open_now

    def deadline(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Give each call that this thread makes in the block `seconds`, instead of `call_timeout_s`."""
        return during(DEADLINE_S, seconds)

    # ------------------------------------------------------------------------------------------ writing

    def put(self, destination: str, row: object, **options: Unpack[PutOptions]) -> Receipt:
        """Store one row for `destination` and return once it is on disk. Arguments and errors as `Outbox.put`."""
        _, calls = self._target()
        calls.check_thread()
        done = self.put_nowait(destination, row, **options)
        return calls.wait(done, [done.id])

    def put_nowait(self, destination: str, row: object, **options: Unpack[PutOptions]) -> ThreadFuture:
        """Line one row up and return at once. NOT durable before the future is done; bounded as `Outbox.put_nowait`."""
        outbox, _ = self._target()
        return calling_context().run(outbox.put_threadsafe, destination, row, **options)

    put_many: Final = blocking(Outbox.put_many)

    @contextlib.contextmanager
    def transaction(self, *, limit_s: float | None = None) -> Iterator[BlockingTransaction]:
        """All or nothing, one commit: as `Outbox.transaction`, for the thread that enters it."""
        outbox, calls = self._target()
        block = _Block(outbox, limit_s)
        calls.run(block.begin)
        try:
            with during(HELD, block.held):
                yield BlockingTransaction(block.tx, calls)
        except BaseException:
            with contextlib.suppress(OutboxError):  # the caller must get what the block raised
                calls.wait(calls.start(partial(block.end, commit=False)), [], commits=True)
            raise
        calls.wait(calls.start(partial(block.end, commit=True)), block.held.ids, commits=True)

    register: Final = passed(Outbox.register)
    register_type: Final = passed(Outbox.register_type)
    destination: Final = passed(Outbox.destination)

    # ------------------------------------------------------------------------------------------ sending, operating

    drain: Final = blocking(Outbox.drain)
    reload: Final = blocking(Outbox.reload)
    adopt: Final = blocking(Outbox.adopt)
    requeue: Final = blocking(Outbox.requeue)
    discard: Final = blocking(Outbox.discard)
    resend: Final = blocking(Outbox.resend)

    # ------------------------------------------------------------------------------------------ reading, looking

    fetch: Final = blocking(Outbox.fetch)
    read_local: Final = blocking(Outbox.read_local)
    pending_entries: Final = blocking(Outbox.pending_entries)
    stats: Final = blocking(Outbox.stats)
    pending_now: Final = passed(Outbox.pending_now)
    path: Final = shown(Outbox, lambda outbox: outbox.path)
    source: Final = shown(Outbox, lambda outbox: outbox.source)
    clock: Final = shown(Outbox, lambda outbox: outbox.clock)
    supabase_url: Final = shown(Outbox, lambda outbox: outbox.supabase_url)
    has_remote: Final = shown(Outbox, lambda outbox: outbox.has_remote)


class _Undone(Exception):
    """Ends a block that must not be committed."""


class _Block:
    """A transaction that one call enters and another leaves: its own task stays inside it meanwhile."""

    def __init__(self, outbox: Outbox, limit_s: float | None) -> None:
        self._outbox = outbox
        self._limit_s = limit_s

    async def begin(self) -> None:
        """Wait for the writer's turn. Sets `tx`, and `held` for the calls of the thread inside it."""
        loop = asyncio.get_running_loop()
        self._begun, self._end = asyncio.Event(), loop.create_future()
        self._task = loop.create_task(self._stand(), name="outbox-blocking-transaction")
        waiting = loop.create_task(self._begun.wait())
        try:
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not self._begun.is_set():
                await self._task  # raises why it could not begin
        except BaseException:
            self._task.cancel()
            raise
        finally:
            waiting.cancel()

    async def end(self, *, commit: bool) -> None:
        """Commit or roll back, and wait for it. Errors as `Outbox.transaction`."""
        self._end.set_result(commit)
        with contextlib.suppress(_Undone):
            await asyncio.shield(self._task)

    async def _stand(self) -> None:
        async with self._outbox.transaction(limit_s=self._limit_s) as tx:
            self.tx, self.held = tx, Held(copy_context())
            self._begun.set()
            if not await self._end:
                raise _Undone
